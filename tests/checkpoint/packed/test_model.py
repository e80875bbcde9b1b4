"""Whole models in one small file come back as they were, down to the last bit of what they compute."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_sparse import find_targets
from hf_sparse.checkpoint.packed.codec import pack_codes
from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.checkpoint.packed.packed_file import PACKED, read_packed, write_packed
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.convert import attach, detach
from hf_sparse.quantization.fake_layers import FakeQuantLinear, Phase
from hf_sparse.quantization.quantized_layers import quantized_layers
from hf_sparse.quantization.weights import read_weight_scheme
from hf_sparse.targets import Target
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.support.tiny import bert, llama, same_weights, sentences

ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
BART_SIZES = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"layers": 1, "attention_heads": 2, "ffn_dim": 64}.items()
}
SEVERAL = {
    "albert": (AlbertForSequenceClassification, AlbertConfig(**ENCODER, embedding_size=16)),
    "masked": (BertForMaskedLM, BertConfig(**ENCODER)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, **SPECIAL)),
    "t5": (
        T5ForConditionalGeneration,
        T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, vocab_size=100, **SPECIAL),
    ),
    "bart": (BartForConditionalGeneration, BartConfig(d_model=32, vocab_size=100, **BART_SIZES, **SPECIAL)),
    "mixtral": (
        MixtralForCausalLM,
        MixtralConfig(**ENCODER, num_key_value_heads=2, num_local_experts=2, pad_token_id=0),
    ),
}


def several(name: str) -> Callable[[], PreTrainedModel]:
    def make() -> PreTrainedModel:
        torch.manual_seed(0)
        kind, config = SEVERAL[name]
        return kind(config)

    return make


MAKERS = {"bert": bert, "llama": llama} | {name: several(name) for name in SEVERAL}
# The experts of a mixture are parameters, which are not quantized.
QUANTIZABLE = sorted(MAKERS.keys() - {"mixtral"})


def sparse(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for target in find_targets(model):
            target.weight[target.weight.abs() < target.weight.abs().flatten().quantile(0.9)] = 0
    return model.eval()


def quantized(
    model: PreTrainedModel, weights: str = "int8_per_channel", activations: str = "uint8_per_tensor"
) -> PreTrainedModel:
    attach(find_targets(model), read_weight_scheme(weights), activations, "moving_average", Phase())
    model.train()
    outputs(model)
    return model.eval()


def outputs(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.stack([row["input_ids"] for row in sentences(8)])
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


@pytest.mark.parametrize("maker", sorted(MAKERS))
def test_a_sparse_model_comes_back_bit_for_bit(maker: str, tmp_path: Path) -> None:
    model = sparse(MAKERS[maker]())
    sizes = save_packed(model, tmp_path)
    loaded = load_packed(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    assert same_weights(loaded, model) and torch.equal(outputs(loaded), outputs(model))
    assert sizes.file_bytes == (tmp_path / "packed.safetensors").stat().st_size < sizes.dense_bytes
    tied = [len({id(value) for value in made.parameters()}) for made in (model, loaded)]
    assert tied[0] == tied[1] and all(value.requires_grad for value in loaded.parameters())


def test_a_tokenizer_is_written_beside_the_model(tmp_path: Path) -> None:
    save_packed(bert().eval(), tmp_path, tokenizer=(given := tokenizer()))
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == given.get_vocab()


@pytest.mark.parametrize("maker", QUANTIZABLE)
def test_a_quantized_model_computes_what_it_did(maker: str, tmp_path: Path) -> None:
    model = quantized(sparse(MAKERS[maker]()))
    save_packed(model, tmp_path)
    loaded = load_packed(tmp_path)
    assert torch.equal(outputs(loaded), outputs(model))
    ours, theirs = quantized_layers(model), quantized_layers(loaded)
    assert ours.keys() == theirs.keys() and ours
    for name, layer in ours.items():
        for part in ("codes", "scales", "input_scale", "input_zero_point"):
            assert torch.equal(getattr(layer, part), getattr(theirs[name], part)), (name, part)
    plain = load_packed(tmp_path, dequantize=True)
    assert not any(hasattr(module, "quantization") for module in plain.modules())
    for name, layer in ours.items():
        weight = plain.get_submodule(name).weight
        assert torch.equal(weight.t() if layer.transposed else weight, layer.weight())


@pytest.mark.parametrize(
    "weights", ["int2_per_channel", "int3_per_tensor", "int4_group_16", "int5_per_channel", "int8_per_tensor"]
)
@pytest.mark.parametrize("activations", ["int8_per_token", "none"])
def test_every_scheme_comes_back(weights: str, activations: str, tmp_path: Path) -> None:
    model = quantized(sparse(bert()), weights, activations)
    save_packed(model, tmp_path)
    loaded = load_packed(tmp_path)
    assert torch.equal(outputs(loaded), outputs(model))
    layer = loaded.bert.encoder.layer[0].output.dense
    assert str(layer.quantization.weights) == weights and layer.quantization.activations == activations


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rounds", [False, True])
def test_half_precision_and_single_layers_in_another_one_stay(
    dtype: torch.dtype, rounds: bool, tmp_path: Path
) -> None:
    model = sparse(bert()).to(dtype)
    model.classifier.float()
    if rounds:
        model = quantized(model.float().to(dtype), activations="none")
    save_packed(model, tmp_path)
    loaded = load_packed(tmp_path)
    assert {name: value.dtype for name, value in loaded.state_dict().items()} == {
        name: value.dtype for name, value in model.state_dict().items()
    }
    if rounds:
        assert torch.equal(outputs(loaded), outputs(model))
    else:
        assert same_weights(loaded, model)


def test_layers_with_schemes_of_their_own_and_plain_ones_lie_side_by_side(tmp_path: Path) -> None:
    model, phase = sparse(bert()), Phase()
    for name, weights, activations in (
        ("layer.0.attention", "int8_per_channel", "uint8_per_tensor"),
        ("layer.0.output", "int4_group_16", "none"),
    ):
        scheme = read_weight_scheme(weights)
        attach(find_targets(model, include=[name]), scheme, activations, "min_max", phase)
    outputs(model.train())
    save_packed(model.eval(), tmp_path)
    loaded = load_packed(tmp_path)
    assert torch.equal(outputs(loaded), outputs(model))
    assert sum(isinstance(module, FakeQuantLinear) for module in loaded.modules()) == 5
    detach(loaded)
    weight = "bert.encoder.layer.1.intermediate.dense.weight"
    assert torch.equal(loaded.state_dict()[weight], model.state_dict()[weight])


def test_what_is_loaded_moves_no_range_and_can_be_packed_again(tmp_path: Path) -> None:
    model = quantized(sparse(bert()))
    save_packed(model, tmp_path / "a")
    loaded = load_packed(tmp_path / "a")
    outputs(loaded.train())
    save_packed(loaded, tmp_path / "b")
    assert (tmp_path / "a/packed.safetensors").read_bytes() == (
        tmp_path / "b/packed.safetensors"
    ).read_bytes()


def test_the_configuration_can_be_changed_and_generation_settings_return(tmp_path: Path) -> None:
    model = sparse(llama())
    model.generation_config.max_length = 77
    save_packed(model, tmp_path)
    loaded = load_packed(tmp_path, attn_implementation="eager")
    assert loaded.config._attn_implementation == "eager" and loaded.generation_config.max_length == 77
    assert model.config.architectures is None


@pytest.mark.parametrize(
    "argument", [{"dtype": torch.float16}, {"device_map": "auto"}, {"num_hiden_layers": 1}]
)
def test_arguments_without_effect_are_refused(argument: dict[str, object], tmp_path: Path) -> None:
    save_packed(bert(), tmp_path)
    with pytest.raises(ValueError, match=f"{next(iter(argument))} cannot be chosen"):
        load_packed(tmp_path, **argument)


def test_values_that_are_hard_to_keep_are_kept(tmp_path: Path) -> None:
    model = bert().eval()
    with torch.no_grad():
        odd = torch.tensor([-0.0, 3.4e38, -3.4e38, 1e-45, -1e-45])
        model.bert.encoder.layer[0].output.dense.weight[0, :5] = odd
    save_packed(model, tmp_path)
    found = load_packed(tmp_path).bert.encoder.layer[0].output.dense.weight[0, :5].detach()
    assert torch.equal(found.view(torch.int32), odd.view(torch.int32))


def test_the_scale_of_restored_weights_is_the_one_they_were_restored_with() -> None:
    torch.manual_seed(0)
    largest = torch.rand(100_000, 1) * torch.exp2(torch.randint(-30, 10, (100_000, 1)))
    for bits in range(2, 9):
        scheme = read_weight_scheme(f"int{bits}_per_channel")
        scales = scheme.scales(largest)
        restored = scheme.restore(scheme.codes(largest, scales), scales)
        assert torch.equal(scheme.scales(restored), scales), bits


def test_models_that_could_not_be_restored_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Own(transformers.BertForSequenceClassification):
        pass

    with pytest.raises(ValueError, match="Own is not a class of transformers"):
        save_packed(Own(BertConfig(**ENCODER)), tmp_path)
    model = bert()
    model.classifier = torch.nn.Linear(32, 7)
    with pytest.raises(ValueError, match="are not those that its configuration says"):
        save_packed(model, tmp_path)
    tied = bert()
    tied.bert.encoder.layer[0].output.dense.bias = tied.bert.encoder.layer[1].output.dense.bias
    with pytest.raises(ValueError, match="which of them are tied"):
        save_packed(tied, tmp_path)
    unseen = bert()
    attach(
        find_targets(unseen), read_weight_scheme("int8_per_channel"), "uint8_per_tensor", "min_max", Phase()
    )
    with pytest.raises(ValueError, match="no data has reached 12 of 12 quantized layers"):
        save_packed(unseen, tmp_path)
    head = several("gpt2")()
    output = Target("lm_head.weight", head.lm_head)
    attach([output], read_weight_scheme("int8_per_channel"), "none", "min_max", Phase())
    with pytest.raises(ValueError, match="the weight of lm_head is tied to another one"):
        save_packed(head, tmp_path)
    complex_ = bert()
    complex_.classifier.bias.data = complex_.classifier.bias.data.to(torch.complex64)
    with pytest.raises(ValueError, match="classifier.bias is torch.complex64, which cannot be packed"):
        save_packed(complex_, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_16_bits_keeps_its_codes_when_it_is_cast(dtype: torch.dtype, tmp_path: Path) -> None:
    model = bert().to(dtype).eval()
    calibrate(model, [{"input_ids": torch.arange(5, 21).reshape(2, 8)}])
    expected = quantized_layers(model)
    save_packed(model, tmp_path)
    cast = load_packed(tmp_path).float()
    for name, layer in quantized_layers(cast).items():
        assert torch.equal(layer.codes, expected[name].codes)


def test_scales_that_the_codes_do_not_lead_to_are_refused(tmp_path: Path) -> None:
    """Layers take their scales from the weights, and would compute with other codes than the file's."""
    model = bert().eval()
    calibrate(model, [{"input_ids": torch.arange(5, 21).reshape(2, 8)}])
    save_packed(model, tmp_path)
    query, pairs = "bert.encoder.layer.0.attention.self.query.weight", []
    for entry, content in read_packed(tmp_path / PACKED):
        if entry.name == query:
            coding, codes = pack_codes(np.full(32 * 32, 5, np.int8), 127)
            content = codes + bytes(content[entry.coding.length :])
            entry = replace(entry, coding=coding)
        pairs.append((entry, bytes(content)))
    write_packed(tmp_path / PACKED, pairs)
    with pytest.raises(ValueError, match=f"{query}: its scales are not those that its largest codes belong"):
        load_packed(tmp_path)
