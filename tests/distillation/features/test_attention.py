"""Attention probabilities are compared by divergence if both models return them."""

import pytest
import torch
from torch.nn.functional import kl_div

from tests.support.pairs import KINDS, batch, compare, encoder_decoder, make, mean, positions, states, term_of


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_mean_divergence_over_heads_at_each_query(kind: str) -> None:
    student, teacher, inputs = make(kind), make(kind, 1), batch(kind)
    with torch.no_grad():
        ours = student(**inputs, output_attentions=True).attentions
        theirs = teacher(**inputs, output_attentions=True).attentions
    keep = positions(inputs, ours[0][:, 0])
    expected = 0.0
    for mine, wanted in zip(ours, theirs, strict=True):
        terms = torch.where(wanted > 0, wanted * (wanted.log() - mine.log()), 0.0).sum(-1)
        expected += terms.mean(1)[keep].mean() / 2
    actual = mean(compare("attention", student, teacher, inputs), inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0.0)


def test_the_gradient_is_that_of_the_textbook() -> None:
    student, teacher, inputs = make("bert"), make("bert", 1), batch("bert")
    mean(compare("attention", student, teacher, inputs, layers="last"), inputs).backward()
    ours = student.bert.encoder.layer[1].attention.self.query.weight.grad.clone()
    student.zero_grad()
    mine = student(**inputs, output_attentions=True).attentions[-1]
    wanted = teacher(**inputs, output_attentions=True).attentions[-1].detach()
    keep = inputs["attention_mask"].bool()[:, None].expand(mine.shape[:-1])
    kl_div(mine[keep].clamp(min=1e-30).log(), wanted[keep], reduction="sum").div(
        2 * inputs["attention_mask"].sum()
    ).backward()
    theirs = student.bert.encoder.layer[1].attention.self.query.weight.grad
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_keys_without_any_probability_give_a_finite_loss_and_gradient() -> None:
    student, teacher, inputs = make("bert"), make("bert", 1), batch("bert")
    term = term_of("attention", student, teacher, layers="last")
    _, theirs = states(term, student, teacher, inputs)
    probabilities = torch.zeros(6, 2, 8, 8)
    probabilities[..., 0] = 1.0
    ours = {"attentions": (None, probabilities.requires_grad_())}
    (part,) = term(ours, theirs, inputs)
    part.total.backward()
    assert part.total.isfinite()
    assert probabilities.grad.isfinite().all()


def test_keys_without_probability_in_the_teacher_count_nothing() -> None:
    """Causal models give future keys probability 0, which contributes nothing."""
    student, teacher, inputs = make("llama"), make("llama", 1), batch("llama")
    assert mean(compare("attention", student, teacher, inputs), inputs).isfinite()


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_attention_that_gives_no_probabilities_is_refused(role: str) -> None:
    models = {"student": make("bert"), "teacher": make("bert", 1)}
    models[role] = make("bert", attn_implementation="sdpa")
    with pytest.raises(ValueError, match=f'the {role}\'s attention is sdpa, .*attn_implementation="eager"'):
        term_of("attention", models["student"], models["teacher"])
    models[role].set_attn_implementation("eager")
    term_of("attention", models["student"], models["teacher"])


def test_other_numbers_of_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="student has 2 heads, the teacher 4; use relations"):
        term_of("attention", make("bert"), make("bert", 1, num_attention_heads=4))


@pytest.mark.parametrize(
    ("kind", "setting"), [("bert", "attention_probs_dropout_prob"), ("llama", "attention_dropout")]
)
def test_a_student_that_drops_probabilities_is_refused(kind: str, setting: str) -> None:
    with pytest.raises(ValueError, match=rf"\({setting} is 0.1\); load it with {setting}=0.0"):
        term_of("attention", make(kind, **{setting: 0.1}), make(kind, 1))
    term_of("attention", make(kind), make(kind, 1, **{setting: 0.1}))


def test_an_encoder_decoder_is_refused() -> None:
    model = encoder_decoder("bart", 0, (1, 1))
    with pytest.raises(ValueError, match="the student is an encoder-decoder with three; use hidden"):
        term_of("attention", model, model)


def test_attentions_that_are_missing_are_refused() -> None:
    student, teacher, inputs = make("bert"), make("bert", 1), batch("bert")
    term = term_of("attention", student, teacher)
    ours, _ = states(term, student, teacher, inputs)
    with pytest.raises(ValueError, match="the model returned no attentions of layer 1"):
        term(ours, {"attentions": (None, None)}, inputs)
