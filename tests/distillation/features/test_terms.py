"""Properties of every feature term, on several architectures."""

import copy

import pytest
import torch
from torch import Tensor

from hf_sparse.distillation.batch_counts import count
from hf_sparse.distillation.features import TERMS
from hf_sparse.recipe.distillation import DistillationRecipe, FeatureRecipe
from tests.support.pairs import KINDS, batch, compare, make, mean, states, term_of

EVERY = [(name, kind) for name in TERMS for kind in KINDS]


def test_every_term_has_its_settings_and_the_reverse() -> None:
    everything = DistillationRecipe(**dict.fromkeys(TERMS, 1.0))
    fields = [name for name, value in everything if isinstance(value, FeatureRecipe)]
    assert sorted(fields) == sorted(TERMS) == sorted(everything.features)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_teacher_that_agrees_gives_no_loss_or_gradient(name: str, kind: str) -> None:
    student = make(kind)
    (term,) = compare(name, student, copy.deepcopy(student), batch(kind))
    term.total.backward()
    gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert term.total == 0
    assert gradients
    assert not any(gradient.any() for gradient in gradients)


def gradients(name: str, kind: str, sizes: list[int]) -> tuple[float, Tensor]:
    """Return loss and gradient of a batch of 6 rows split into micro-batches of these sizes."""
    student, teacher, inputs = make(kind), make(kind, 1), batch(kind)
    totals, loss = count(inputs, False), 0.0
    parts = zip(*(torch.split(value, sizes) for value in inputs.values()), strict=True)
    for values in parts:
        piece = dict(zip(inputs, values, strict=True))
        (term,) = compare(name, student, teacher, piece)
        share = term.total / totals.of(term.unit)
        share.backward()
        loss += share.item()
    return loss, torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_any_split_of_a_batch_gives_the_loss_and_gradient_of_the_whole(name: str, kind: str) -> None:
    loss, gradient = gradients(name, kind, [6])
    assert loss > 0
    other, slope = gradients(name, kind, [3, 2, 1])
    assert other == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(slope, gradient, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize(("name", "kind"), [pair for pair in EVERY if pair[1] != "vit"])
def test_more_padding_changes_nothing(name: str, kind: str) -> None:
    student, teacher, inputs = make(kind), make(kind, 1), batch(kind)
    longer = {key: torch.nn.functional.pad(value, (0, 3)) for key, value in inputs.items()}
    short, long = (mean(compare(name, student, teacher, given), given) for given in (inputs, longer))
    torch.testing.assert_close(short, long, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("name", TERMS)
def test_what_the_teacher_holds_at_padding_never_counts(name: str) -> None:
    student, teacher, inputs = make("bert"), make("bert", 1), batch("bert")
    term, padding = term_of(name, student, teacher), inputs["attention_mask"] == 0
    ours, theirs = states(term, student, teacher, inputs)
    expected = term(ours, theirs, inputs)[0].total
    for state in theirs.get("hidden_states", ()):
        state[padding] = torch.nan
    for probabilities in theirs.get("attentions", ()):
        probabilities.transpose(1, 2)[padding] = torch.nan
    for vectors in theirs.get("projections", {}).values():
        for vector in vectors.values():
            vector[padding] = torch.nan
    assert term(ours, theirs, inputs)[0].total == expected


@pytest.mark.parametrize("name", TERMS)
def test_half_precision_models_are_compared_in_single_precision(name: str) -> None:
    student, teacher = make("bert").bfloat16(), make("bert", 1).bfloat16()
    (term,) = compare(name, student, teacher, batch("bert"))
    term.total.backward()
    assert term.total.dtype == torch.float32
    assert all(weight.grad.isfinite().all() for weight in student.parameters() if weight.grad is not None)


@pytest.mark.parametrize("name", TERMS)
def test_a_model_without_a_configuration_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the teacher Linear lacks a transformers configuration"):
        term_of(name, make("bert"), torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", TERMS)
def test_a_student_whose_layers_are_frozen_is_refused(name: str) -> None:
    student = make("bert").requires_grad_(False)
    with pytest.raises(ValueError, match=r"no gradient reaches the student through .* of layer 1"):
        compare(name, student, make("bert", 1), batch("bert"))


@pytest.mark.parametrize("name", TERMS)
def test_images_cut_into_other_patches_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"of the student have shape .* of the teacher .* same positions"):
        compare(name, make("vit"), make("vit", 1, patch_size=2), batch("vit"))


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_layers_may_be_mapped_one_by_one(name: str, kind: str) -> None:
    student, teacher, inputs = make(kind), make(kind, 1, num_hidden_layers=3), batch(kind)
    apart = [
        mean(compare(name, student, teacher, inputs, layers={s: t}), inputs) for s, t in ((1, 3), (2, 1))
    ]
    together = mean(compare(name, student, teacher, inputs, layers={1: 3, 2: 1}), inputs)
    torch.testing.assert_close(together, sum(apart) / 2, rtol=1e-5, atol=0.0)
