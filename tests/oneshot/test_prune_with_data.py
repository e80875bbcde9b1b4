"""Pruning of whole models with calibration data: each layer reads the outputs of the pruned layers before."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    set_seed,
)

from hf_sparse import find_targets
from hf_sparse.checkpoint.sparsity_record import lost_zeros
from hf_sparse.oneshot.prune_with_data import prune_with_data
from tests.support.tiny import VOCABULARY, batches, bert, llama


def gpt2() -> GPT2LMHeadModel:
    set_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=32)
    return GPT2LMHeadModel(config)


@pytest.mark.parametrize("make", [llama, gpt2, bert])
@pytest.mark.parametrize("method", ["wanda", "sparse_gpt"])
@pytest.mark.parametrize(("pattern", "sparsity"), [("unstructured", 0.5), ("2:4", 0.5)])
def test_half_of_every_weight_goes(make, method: str, pattern: str, sparsity: float) -> None:
    model = make()
    masks = prune_with_data(model, sparsity, batches(), pattern, method)
    for target in find_targets(model):
        assert masks.removed(target.name) == target.weight.numel() // 2
        assert int((target.weight == 0).sum()) == target.weight.numel() // 2
    assert model.config.hf_sparse["pattern"] == pattern and not lost_zeros(model)
    assert model.training and not masks.nonzero_removed()


def test_a_layer_sees_what_the_pruned_ones_before_it_give() -> None:
    model, seen, data = llama().eval(), [], batches(4)
    watching = model.model.layers[1].self_attn.q_proj.register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0].clone())
    )
    prune_with_data(model, 0.9, data, method="sparse_gpt")
    during = list(seen)
    with torch.no_grad():
        model(**data[0])
    watching.remove()
    # While the model runs as a whole at first, while the layer is looked at, while the next one is fed.
    dense, looked_at, fed = during
    assert torch.equal(looked_at, seen[-1]) and torch.equal(fed, seen[-1])
    assert not torch.allclose(dense, seen[-1], rtol=0.01)


def test_padding_is_left_out() -> None:
    masked, cut = llama(), llama()
    whole = batches(4)
    shown = [
        {"input_ids": batch["input_ids"][:1, :-3], "attention_mask": batch["attention_mask"][:1, :-3]}
        for batch in batches(4)
    ]
    padded = []
    for batch in shown:
        ids = torch.nn.functional.pad(batch["input_ids"], (0, 5), value=7)
        mask = torch.nn.functional.pad(batch["attention_mask"], (0, 5))
        padded.append({"input_ids": ids, "attention_mask": mask})
    assert len(whole) == 1
    prune_with_data(masked, 0.5, padded)
    prune_with_data(cut, 0.5, shown)
    ours, theirs = masked.state_dict(), cut.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_outputs_keep_closer_than_by_magnitude() -> None:
    from hf_sparse import prune

    data, errors = batches(48), {}
    for method in ("magnitude", "wanda", "sparse_gpt"):
        model = llama()
        for target in find_targets(model):
            target.weight.data.mul_(5)
        model.eval()
        with torch.no_grad():
            before = torch.cat([model(**batch).logits[batch["attention_mask"].bool()] for batch in data])
            if method == "magnitude":
                prune(model, 0.5)
            else:
                prune_with_data(model, 0.5, data, method=method)
            after = torch.cat([model(**batch).logits[batch["attention_mask"].bool()] for batch in data])
        errors[method] = (after - before).norm().item()
    assert errors["sparse_gpt"] < errors["wanda"] < errors["magnitude"]


def encoder_decoder() -> BartForConditionalGeneration:
    set_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": VOCABULARY}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(**sizes, **heads, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=32)
    return BartForConditionalGeneration(config)


def nothing() -> Iterator[dict[str, Tensor]]:
    return iter(())


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (
            llama,
            {"method": "magnitude"},
            "method 'magnitude' needs no data or is unknown; choose one of",
        ),
        (llama, {"sparsity": 1.0}, "share of weights to remove, in"),
        (llama, {"method": "sparse_gpt", "pattern": "4x4"}, "single weights, and pattern 4x4 whole blocks"),
        (llama, {"pattern": "2:4", "sparsity": 0.6}, "pattern 2:4 removes 0.5 of every weight"),
        (llama, {"batches": []}, "calibration needs at least one batch"),
        (encoder_decoder, {}, "lie in several stacks of layers, or in none"),
    ],
)
def test_what_does_not_suit_is_refused_and_nothing_is_changed(make, settings: dict, message: str) -> None:
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        prune_with_data(model, **({"sparsity": 0.5, "batches": batches(4)} | settings))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert getattr(model.config, "hf_sparse", None) is None


def test_padding_is_told_where_tokens_are_in_a_row_as_in_opt() -> None:
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OPTConfig(vocab_size=VOCABULARY, word_embed_proj_dim=32, max_position_embeddings=64, **sizes)
    shown = [{name: value[:2, :-4] for name, value in batch.items()} for batch in batches(4)]
    padded = [
        {name: torch.nn.functional.pad(value, (0, 5)) for name, value in batch.items()} for batch in shown
    ]
    models = []
    for data in (shown, padded):
        set_seed(0)
        models.append(OPTForCausalLM(config))
        prune_with_data(models[-1], 0.5, data)
    ours, theirs = (model.state_dict() for model in models)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_layers_with_something_between_them_are_refused() -> None:
    set_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = DebertaV2Config(vocab_size=VOCABULARY, conv_kernel_size=3, relative_attention=True, **sizes)
    with pytest.raises(ValueError, match="changes what a layer gives before the next one reads it"):
        prune_with_data(DebertaV2Model(config), 0.5, batches(4))
