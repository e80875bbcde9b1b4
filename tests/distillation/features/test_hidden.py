"""Hidden states are compared by squared error, through a learned projection if widths differ."""

import pytest
import torch
from transformers import (
    EncoderDecoderConfig,
    EncoderDecoderModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from tests.support.pairs import KINDS, batch, compare, encoder_decoder, make, mean, positions, states, term_of

WIDE = {"hidden_size": 48, "intermediate_size": 96}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_mean_squared_error_at_tokens_averaged_over_layers(kind: str) -> None:
    student, teacher, inputs = make(kind), make(kind, 1, num_hidden_layers=4), batch(kind)
    with torch.no_grad():
        ours = student(**inputs, output_hidden_states=True).hidden_states
        theirs = teacher(**inputs, output_hidden_states=True).hidden_states
        keep = positions(inputs, ours[0])
        expected = sum((ours[m][keep] - theirs[2 * m][keep]).square().mean() for m in (1, 2)) / 2
    actual = mean(compare("hidden", student, teacher, inputs), inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0.0)


def test_embeddings_are_layer_0() -> None:
    student, teacher, inputs = make("bert"), make("bert", 1), batch("bert")
    keep = inputs["attention_mask"].bool()
    with torch.no_grad():
        ours, theirs = (model.bert.embeddings(inputs["input_ids"]) for model in (student, teacher))
    actual = mean(compare("hidden", student, teacher, inputs, layers={0: 0}), inputs)
    torch.testing.assert_close(actual, (ours[keep] - theirs[keep]).square().mean(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_projection_for_each_layer_leads_to_a_wider_teacher(kind: str) -> None:
    student, teacher, inputs = make(kind), make(kind, 1, **WIDE), batch(kind)
    term = term_of("hidden", student, teacher)
    ours, theirs = states(term, student, teacher, inputs)
    assert {name: tuple(matrix.shape) for name, matrix in term.projections.items()} == {
        "hidden_states_1": (48, 32),
        "hidden_states_2": (48, 32),
    }
    keep = inputs["attention_mask"].bool()
    expected = sum(
        (
            ours["hidden_states"][m][keep] @ term.projections[f"hidden_states_{m}"].T
            - theirs["hidden_states"][m][keep]
        )
        .square()
        .mean()
        for m in (1, 2)
    )
    total = mean(term(ours, theirs, inputs), inputs)
    torch.testing.assert_close(total, expected / 2, rtol=1e-5, atol=0.0)
    total.backward()
    assert all(matrix.grad.any() for matrix in term.parameters())


def test_equal_widths_need_no_projection() -> None:
    assert list(term_of("hidden", make("bert"), make("bert", 1)).parameters()) == []


def test_projections_are_the_same_every_time_and_draw_no_random_numbers() -> None:
    student, teacher = make("bert"), make("bert", 1, **WIDE)
    before = torch.get_rng_state()
    first = term_of("hidden", student, teacher).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    second = term_of("hidden", student, teacher).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    one, other = first.values()
    assert not torch.equal(one, other)
    assert {value.dtype for value in first.values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_both_stacks_of_an_encoder_decoder_are_compared(kind: str) -> None:
    student, teacher = encoder_decoder(kind, 0, (1, 2)), encoder_decoder(kind, 1, (2, 2))
    inputs = batch("bert")
    labels = torch.arange(3, 33).reshape(6, 5).clone()
    labels[:, 3:] = -100
    labels[1] = 7
    inputs["labels"] = labels
    term = term_of("hidden", student, teacher)
    ours, theirs = states(term, student, teacher, inputs)
    tokens, answers = inputs["attention_mask"].bool(), labels != -100
    pairs = [
        ("encoder_hidden_states", 1, 2, tokens),
        ("decoder_hidden_states", 1, 1, answers),
        ("decoder_hidden_states", 2, 2, answers),
    ]
    errors = [(ours[s][m][keep] - theirs[s][n][keep]).square().mean() for s, m, n, keep in pairs]
    terms = term(ours, theirs, inputs)
    assert [part.unit for part in terms] == ["tokens", "labels"]
    torch.testing.assert_close(mean(terms, inputs), sum(errors) / 3, rtol=1e-5, atol=0.0)


def test_an_encoder_without_tokens_has_a_mean_over_its_own_positions() -> None:
    """Audio of 16 frames gives 8 encoder positions; there are 5 labels."""
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        sizes = {f"{stack}_{part}": 1 for stack in ("encoder", "decoder") for part in ("layers", "ffn_dim")}
        heads = {f"{stack}_attention_heads": 2 for stack in ("encoder", "decoder")}
        special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
        config = WhisperConfig(
            vocab_size=100,
            d_model=32,
            num_mel_bins=4,
            max_source_positions=8,
            **sizes,
            **heads,
            **special,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
        models.append(WhisperForConditionalGeneration(config).eval())
    inputs = {"input_features": torch.randn(3, 4, 16), "labels": torch.arange(15).reshape(3, 5)}
    term = term_of("hidden", *models)
    ours, theirs = states(term, *models, inputs)
    terms = term(ours, theirs, inputs)
    errors = [
        (ours[f"{stack}_hidden_states"][1] - theirs[f"{stack}_hidden_states"][1]).square().mean() / 2
        for stack in ("encoder", "decoder")
    ]
    assert [part.unit for part in terms] == ["sequences", "labels"]
    torch.testing.assert_close(terms[0].total / 3, errors[0], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(terms[1].total / 15, errors[1], rtol=1e-5, atol=0.0)


def test_projections_of_an_encoder_decoder_are_told_apart() -> None:
    term = term_of("hidden", encoder_decoder("t5", 0, (1, 1)), encoder_decoder("t5", 1, (1, 1), 48))
    assert sorted(term.projections) == ["decoder_hidden_states_1", "encoder_hidden_states_1"]


def test_a_decoder_without_labels_is_refused() -> None:
    student, inputs = encoder_decoder("bart", 0, (1, 1)), batch("bert")
    with pytest.raises(ValueError, match=r"labels of shape \(6, 8\) are not -100, got none"):
        compare("hidden", student, encoder_decoder("bart", 1, (1, 1)), inputs)


def test_models_of_other_stacks_are_refused() -> None:
    with pytest.raises(ValueError, match="two models with one stack, got BertForSequence.* and BartFor"):
        term_of("hidden", make("bert"), encoder_decoder("bart", 1, (1, 1)))


def test_an_encoder_decoder_that_hides_its_depth_is_refused() -> None:
    configs = [make("bert").config for _ in range(2)]
    model = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(*configs))
    with pytest.raises(
        ValueError, match="the number of encoder and decoder layers is not in EncoderDecoderConfig"
    ):
        term_of("hidden", model, model)


def test_hidden_states_that_are_missing_are_refused() -> None:
    student, teacher, inputs = make("bert"), make("bert", 1), batch("bert")
    term = term_of("hidden", student, teacher)
    ours, _ = states(term, student, teacher, inputs)
    with pytest.raises(ValueError, match="the model returned no hidden_states of layer 1"):
        term(ours, {"logits": torch.zeros(1)}, inputs)
