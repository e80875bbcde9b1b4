"""Layers without their dead neurons and heads: smaller, loadable, the same logits."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    set_seed,
)

from hf_sparse import prune
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.sparsity.structured import heads_and_neurons
from hf_sparse.sparsity.structured.shrink import count_dead, shrink
from tests.support.tiny import SIZES, VOCABULARY, bert, llama

INPUTS = {"input_ids": torch.arange(5, 29).reshape(2, 12)}


def gpt2(width: int | None = 64) -> GPT2LMHeadModel:
    set_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "n_inner": width}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes))


def distilbert() -> DistilBertForSequenceClassification:
    set_seed(0)
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=VOCABULARY, **sizes))


MODELS = [bert, distilbert, gpt2, llama]


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**INPUTS).logits


def lively(model: PreTrainedModel) -> PreTrainedModel:
    """Give biases values, as training does."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if getattr(module, "bias", None) is not None:
            module.bias.data.normal_(generator=generator)
    return model


# The matrices into the neurons of a feed-forward layer, and those out of them.
ROWS = r"intermediate|lin1|mlp\.c_fc|gate_proj|up_proj"
COLUMNS = r"\d\.output|lin2|mlp\.c_proj|down_proj"


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize(("pattern", "where"), [("row", ROWS), ("column", COLUMNS)])
def test_logits_stay_and_files_shrink(make, pattern: str, where: str, tmp_path: Path) -> None:
    model = lively(make())
    prune(model, 0.5, pattern=pattern, include=[where])
    expected = logits(model)
    shrunk = shrink(model)["neurons"]
    # Of a gate and what it lets through one row of zeros is enough, so more neurons are dead.
    assert shrunk.before == 64 and 10 <= shrunk.now <= 32
    assert shrunk.now == 32 or (make is llama and pattern == "row")
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    stock = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(stock), expected, rtol=1e-5, atol=1e-5)
    assert stock.num_parameters() == model.num_parameters() < make().num_parameters()


def test_the_layer_with_the_fewest_dead_neurons_decides() -> None:
    model = lively(bert())
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.dense.weight[:40] = 0
        model.bert.encoder.layer[1].output.dense.weight[:, 10:30] = 0
    expected = logits(model)
    shrunk = shrink(model)["neurons"]
    assert (shrunk.before, shrunk.now) == (64, 44)
    assert list(shrunk.dead.values()) == [40, 20]
    assert model.config.intermediate_size == 44
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_nothing_dead_changes_nothing() -> None:
    model = bert()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert {part.now == part.before for part in shrink(model).values()} == {True}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_shrunk_model_trains() -> None:
    model = bert()
    prune(model, 0.5, pattern="row", include=["intermediate"])
    shrink(model)
    model(**INPUTS, labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.bert.encoder.parameters())


def test_what_cannot_be_told_is_refused() -> None:
    model = bert()
    calibrate(model, [INPUTS])
    with pytest.raises(ValueError, match="none once it is quantized"):
        shrink(model)
    with pytest.raises(ValueError, match="is not clear: 6 of its matrices have a side of 32"):
        shrink(bert(intermediate_size=32))


def test_gpt2_without_a_width_of_its_own_has_four_times_its_own() -> None:
    model = lively(gpt2(width=None))
    prune(model, 0.5, pattern="row", include=[r"mlp\.c_fc"])
    expected = logits(model)
    assert (shrink(model)["neurons"].before, model.config.n_inner) == (128, 64)
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_would_not_be_loaded_is_left_alone() -> None:
    model = bert()
    prune(model, 0.5, pattern="row", include=["intermediate"])
    model.bert.pooler.dense = nn.Linear(32, 48)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reason = shrink(model)["neurons"].reason
    assert "would differ in 2 other parameters, such as bert.pooler.dense" in reason
    after = model.state_dict()
    assert model.config.intermediate_size == 64
    assert all(torch.equal(after[name], value) for name, value in before.items())


def grouped_llama(**config: int | None) -> LlamaForCausalLM:
    """Return a model of four heads of 8, two of which share keys and values."""
    set_seed(0)
    sizes = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**(sizes | config), attention_bias=True))


def mistral() -> MistralForCausalLM:
    """Return a model of four heads of 8, each with keys and values of its own, of whatever number."""
    set_seed(0)
    sizes = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0}
    return MistralForCausalLM(MistralConfig(**sizes, head_dim=8))


def kill(weight: torch.Tensor, heads: list[int], size: int = 8) -> None:
    with torch.no_grad():
        for head in heads:
            weight[head * size : (head + 1) * size] = 0


@pytest.mark.parametrize("unread", [False, True])
def test_heads_that_share_keys_and_values_go_together(unread: bool, tmp_path: Path) -> None:
    model = lively(grouped_llama())
    for number, layer in enumerate(model.model.layers):
        if unread:
            kill(layer.self_attn.o_proj.weight.t(), [2 * number, 2 * number + 1])
        else:
            kill(layer.self_attn.v_proj.weight, [number])
    expected = logits(model)
    shrunk = shrink(model)["heads"]
    assert (shrunk.before, shrunk.now, shrunk.reason) == (4, 2, "")
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    stock = LlamaForCausalLM.from_pretrained(tmp_path)
    assert (stock.config.num_attention_heads, stock.config.num_key_value_heads) == (2, 1)
    assert stock.model.layers[0].self_attn.o_proj.weight.shape == (32, 16)
    torch.testing.assert_close(logits(stock), expected, rtol=1e-5, atol=1e-5)
    generated = stock.generate(INPUTS["input_ids"], max_new_tokens=4, do_sample=False)
    assert torch.equal(generated, model.generate(INPUTS["input_ids"], max_new_tokens=4, do_sample=False))


def test_one_unread_head_of_a_group_stays() -> None:
    model = grouped_llama()
    for layer in model.model.layers:
        kill(layer.self_attn.o_proj.weight.t(), [0])
    assert shrink(model)["heads"].now == 4


def test_as_many_heads_go_as_the_configuration_takes() -> None:
    # Llama wants a number that divides its hidden size, so three of four it cannot have.
    for model, now in ((mistral(), 3), (grouped_llama(num_key_value_heads=4), 4)):
        for layer in model.model.layers:
            kill(layer.self_attn.o_proj.weight.t(), [1])
        expected = logits(model)
        shrunk = shrink(model)["heads"]
        assert (shrunk.before, shrunk.now, bool(shrunk.reason)) == (4, now, now == 4)
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [bert, distilbert])
def test_heads_whose_size_is_not_in_the_configuration_stay_with_a_reason(make) -> None:
    model = lively(make())
    for name, weight in model.named_parameters():
        if re.search(r"(value|v_lin)\.weight", name):
            kill(weight, [1], size=16)
    expected, before = logits(model), model.config.to_dict()
    shrunk = shrink(model)["heads"]
    assert shrunk.now == shrunk.before == 2 and set(shrunk.dead.values()) == {1}
    assert "num_attention_heads 1" in shrunk.reason and model.config.to_dict() == before
    assert torch.equal(logits(model), expected)


def test_every_layer_keeps_a_head() -> None:
    model = lively(mistral())
    for layer in model.model.layers:
        kill(layer.self_attn.o_proj.weight.t(), [0, 1, 2, 3])
    expected = logits(model)
    assert shrink(model)["heads"].now == 1
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_constant_heads_stay_where_no_bias_can_take_their_part() -> None:
    model = grouped_llama()
    for layer in model.model.layers:
        kill(layer.self_attn.v_proj.weight, [0])
        layer.self_attn.o_proj.bias = None
    assert count_dead(model) == {"neurons": (0, 128), "heads": (4, 8)}
    model.model.layers[0].self_attn.v_proj.bias.data.fill_(1.0)
    assert count_dead(model) == {"neurons": (0, 128), "heads": (2, 8)}
    assert shrink(model)["heads"].now == 4


def diff_llama() -> DiffLlamaForCausalLM:
    """Return a model whose heads are subtracted from one another."""
    set_seed(0)
    sizes = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0}
    return DiffLlamaForCausalLM(DiffLlamaConfig(**sizes, head_dim=8))


def test_attention_that_does_more_is_left_alone() -> None:
    model = lively(diff_llama())
    for layer in model.model.layers:
        kill(layer.self_attn.o_proj.weight.t(), [1, 2])
    assert "heads" not in shrink(model)


def test_outputs_that_change_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads_and_neurons, "_is_plain", lambda attention, projections: True)
    model = lively(diff_llama())
    for layer in model.model.layers:
        kill(layer.self_attn.o_proj.weight.t(), [1, 2])
    with pytest.raises(RuntimeError, match="its outputs changed"):
        shrink(model)
