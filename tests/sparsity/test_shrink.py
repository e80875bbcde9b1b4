"""Feed-forward layers without their dead neurons: smaller, loadable, the same logits."""

from pathlib import Path

import pytest
import torch
from tiny import VOCABULARY, bert, llama
from torch import nn
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    set_seed,
)

from hf_sparse import prune
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.sparsity.shrink import shrink

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
    shrunk = shrink(model)
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
    shrunk = shrink(model)
    assert (shrunk.before, shrunk.now) == (64, 44)
    assert list(shrunk.dead.values()) == [40, 20]
    assert model.config.intermediate_size == 44
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_nothing_dead_changes_nothing() -> None:
    model = bert()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert shrink(model).now == 64
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
    with pytest.raises(ValueError, match="before it is quantized"):
        shrink(model)
    with pytest.raises(ValueError, match="cannot be told: 6 of its matrices have a side of 32"):
        shrink(bert(intermediate_size=32))


def test_gpt2_without_a_width_of_its_own_has_four_times_its_own() -> None:
    model = lively(gpt2(width=None))
    prune(model, 0.5, pattern="row", include=[r"mlp\.c_fc"])
    expected = logits(model)
    assert (shrink(model).before, model.config.n_inner) == (128, 64)
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_would_not_be_loaded_is_left_alone() -> None:
    model = bert()
    prune(model, 0.5, pattern="row", include=["intermediate"])
    model.bert.pooler.dense = nn.Linear(32, 48)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="would differ in 2 other parameters, such as bert.pooler.dense"):
        shrink(model)
    after = model.state_dict()
    assert model.config.intermediate_size == 64
    assert all(torch.equal(after[name], value) for name, value in before.items())
