"""Layers whose weights are used without a call are refused, since nothing would be rounded."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import BertForSequenceClassification, MambaConfig, MambaForCausalLM

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.quantization.bypass import bypassed
from hf_sparse.quantization.calibrate import calibrate
from tests.support.tiny import arguments, batches, bert, sentences

NAME = "bert.encoder.layer.1.output.dense"


def quantizing(*exclude: str, **settings: object) -> Recipe:
    return Recipe.from_dict({"quantization": {"exclude": list(exclude)} | settings})


class Encoder(nn.Module):
    def __init__(self, layer: type[nn.Module] = nn.TransformerEncoderLayer) -> None:
        super().__init__()
        self.words = nn.Embedding(100, 32)
        self.layers = nn.TransformerEncoder(layer(32, 2, 64, batch_first=True), 2)
        self.head = nn.Linear(32, 2)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.layers(self.words(input_ids)).mean(1))
        return {"logits": logits} | (
            {} if labels is None else {"loss": functional.cross_entropy(logits, labels)}
        )


class Plain(nn.TransformerEncoderLayer):
    """A layer that calls its Linears, always."""

    def forward(self, src: Tensor, *args: object, **kwargs: object) -> Tensor:
        hidden = self.norm1(src + self.self_attn(src, src, src, need_weights=False)[0])
        return self.norm2(hidden + self.linear2(functional.relu(self.linear1(hidden))))


@pytest.mark.parametrize("refused", ["linear1", "linear2", "out_proj"])
def test_a_layer_that_torch_multiplies_itself_is_refused(refused: str, tmp_path: Path) -> None:
    others = {"linear1", "linear2", "out_proj"} - {refused}
    kind = "MultiheadAttention" if refused == "out_proj" else "TransformerEncoderLayer"
    with pytest.raises(ValueError, match=rf"{refused}.weight cannot be quantized: {kind} .*exclude"):
        SparseTrainer(
            model=Encoder(), args=arguments(tmp_path), train_dataset=sentences(), recipe=quantizing(*others)
        )


def test_a_layer_with_a_forward_of_its_own_is_evaluated_as_it_is_trained(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("input_ids", "labels")} for row in sentences()]
    recipe = quantizing("out_proj", weights="int2_per_channel")
    model = Encoder(Plain)
    trainer = SparseTrainer(
        model=model, args=arguments(tmp_path, max_steps=4), train_dataset=rows, recipe=recipe
    )
    trainer.train()
    reported = torch.tensor(trainer.predict(rows).predictions)
    logits = model.eval()(torch.stack([row["input_ids"] for row in rows]))["logits"].detach()
    torch.testing.assert_close(reported, logits)
    trainer.quantizer.phase.active = False
    assert not torch.allclose(
        model(torch.stack([row["input_ids"] for row in rows]))["logits"], logits, atol=1e-3
    )


def test_models_of_transformers_that_take_weights_themselves_are_known(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=4, time_step_rank=4)
    with pytest.raises(ValueError, match="dt_proj.weight cannot be quantized: the model multiplies with"):
        SparseTrainer(model=MambaForCausalLM(config), args=arguments(tmp_path), recipe=quantizing())
    SparseTrainer(model=MambaForCausalLM(config), args=arguments(tmp_path), recipe=quantizing("dt_proj"))
    assert bypassed(bert()) == {}


@pytest.mark.parametrize(
    ("layer", "past"),
    [(nn.TransformerEncoderLayer, {"linear1", "linear2", "out_proj"}), (Plain, {"out_proj"})],
)
def test_layers_of_torch_are_known_by_their_class_and_its_forward(layer: type, past: set[str]) -> None:
    model = Encoder(layer)
    found = bypassed(model)
    assert {name.rpartition(".")[2] for name, module in model.named_modules() if module in found} == past


class Reading(nn.Module):
    """Stands in for a block that multiplies with the weight of a layer itself."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.dense, self.LayerNorm = block.dense, block.LayerNorm

    def forward(self, hidden: Tensor, source: Tensor) -> Tensor:
        return self.LayerNorm(source + functional.linear(hidden, self.dense.weight, self.dense.bias))


def reading() -> BertForSequenceClassification:
    model = bert()
    model.bert.encoder.layer[1].output = Reading(model.bert.encoder.layer[1].output)
    return model


@pytest.mark.parametrize("begin", [0, 3])
@pytest.mark.parametrize("activations", ["none", "uint8_per_tensor"])
def test_a_weight_that_a_model_takes_itself_is_refused_before_the_first_step(
    tmp_path: Path, begin: int, activations: str
) -> None:
    model = reading()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = quantizing(begin=begin, activations=activations)
    trainer = SparseTrainer(
        model=model, args=arguments(tmp_path, max_steps=8), train_dataset=sentences(), recipe=recipe
    )
    with pytest.raises(ValueError, match=rf"1 quantized layers were not called, such as {NAME}.*exclude"):
        trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.zero_grad()
    left_out = quantizing(NAME, begin=begin, activations=activations)
    SparseTrainer(
        model=model,
        args=arguments(tmp_path / "out", max_steps=2 + begin),
        train_dataset=sentences(),
        recipe=left_out,
    ).train()


@pytest.mark.parametrize("activations", ["none", "int8_per_token"])
def test_calibration_refuses_layers_that_no_batch_calls(activations: str) -> None:
    with pytest.raises(ValueError, match=rf"no batch has called 1 of 12 layers, such as {NAME}"):
        calibrate(reading(), batches(), activations=activations)
    assert len(calibrate(bert(), batches(), activations=activations)) == 12
