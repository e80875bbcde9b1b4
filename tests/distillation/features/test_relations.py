"""Relations compare models of any width, from vectors recorded by temporary hooks."""

import copy
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import kl_div
from transformers import (
    AlbertConfig,
    AlbertModel,
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2LMHeadModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
)

from hf_sparse.distillation.features.relations import KINDS as VECTORS
from hf_sparse.distillation.features.relations import recorded
from tests.support.pairs import KINDS, batch, compare, encoder_decoder, make, mean, positions, states, term_of

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def plain(ours: Tensor, theirs: Tensor, heads: int, keep: Tensor) -> Tensor:
    """The mean KL over tokens, computed sentence by sentence without padding."""
    total = 0.0
    for mine, wanted, real in zip(ours, theirs, keep, strict=True):
        logs = []
        for vectors in (mine[real], wanted[real]):
            parts = vectors.reshape(len(vectors), heads, -1).transpose(0, 1)
            logs.append((parts @ parts.mT / parts.shape[-1] ** 0.5).log_softmax(-1))
        total += kl_div(*logs, log_target=True, reduction="sum")
    return total / (heads * keep.sum())


@pytest.mark.parametrize("heads", [None, 4, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_mean_divergence_of_relations(kind: str, heads: int | None) -> None:
    student = make(kind)
    teacher = make(kind, 1, num_hidden_layers=3, hidden_size=48, num_attention_heads=4)
    inputs = batch(kind)
    term = term_of("relations", student, teacher, layers={1: 2, 2: 3}, heads=heads)
    ours, theirs = states(term, student, teacher, inputs)
    assert ours["projections"].keys() == {1, 2}
    assert theirs["projections"].keys() == {2, 3}
    expected = 0.0
    for layer in (1, 2):
        for name in VECTORS:
            mine, wanted = ours["projections"][layer][name], theirs["projections"][layer + 1][name]
            expected += plain(mine, wanted, heads or 2, positions(inputs, mine)) / 6
    torch.testing.assert_close(mean(term(ours, theirs, inputs), inputs), expected, rtol=1e-4, atol=0.0)


def test_values_of_fewer_heads_than_queries_are_split_alike() -> None:
    student, teacher, inputs = make("llama", num_key_value_heads=1), make("llama", 1), batch("llama")
    assert mean(compare("relations", student, teacher, inputs, heads=4), inputs) > 0


def families() -> dict[str, tuple[PreTrainedModel, str]]:
    """Models, each with the query projection of its second layer."""
    torch.manual_seed(0)
    deberta = DebertaV2Config(
        **SIZES, relative_attention=True, pos_att_type="c2p|p2c", share_att_key=True, position_buckets=8
    )
    return {
        "bert": (make("bert", num_hidden_layers=3), "bert.encoder.layer.1.attention.self.query"),
        "distilbert": (
            make("distilbert", num_hidden_layers=3),
            "distilbert.transformer.layer.1.attention.q_lin",
        ),
        "llama": (make("llama", num_hidden_layers=3), "model.layers.1.self_attn.q_proj"),
        "mpnet": (MPNetModel(MPNetConfig(**SIZES)), "encoder.layer.1.attention.attn.q"),
        "deberta": (DebertaV2Model(deberta), "encoder.layer.1.attention.self.query_proj"),
    }


@pytest.mark.parametrize("family", ["bert", "distilbert", "llama", "mpnet", "deberta"])
def test_vectors_are_those_of_the_projection_of_their_layer(family: str) -> None:
    model, name = families()[family]
    seen, inputs = [], batch("bert")
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, output: seen.append(output))
    with recorded(model.eval(), 3, [2]) as vectors:
        model(**inputs)
    handle.remove()
    assert vectors.keys() == {2}
    assert vectors[2].keys() == set(VECTORS)
    assert vectors[2]["queries"] is seen[0]
    assert vectors[2]["queries"].shape == (6, 8, 32)


def test_a_layer_that_is_used_again_counts_again() -> None:
    torch.manual_seed(0)
    model = AlbertModel(AlbertConfig(**SIZES, embedding_size=16)).eval()
    with recorded(model, 3, [1, 3]) as vectors:
        states = model(**batch("bert"), output_hidden_states=True).hidden_states
    query = model.encoder.albert_layer_groups[0].albert_layers[0].attention.query
    assert vectors.keys() == {1, 3}
    for layer in (1, 3):
        torch.testing.assert_close(vectors[layer]["queries"], query(states[layer - 1]))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_nothing_is_left_on_the_model() -> None:
    model = make("bert")
    with term_of("relations", model, make("bert", 1)).watch(model, "student") as watched:
        assert hooks(model) == 8
        model(**batch("bert"))
    assert watched["projections"].keys() == {1, 2}
    assert hooks(model) == 0
    pickle.dumps(model)
    copy.deepcopy(model)


def test_nothing_is_left_on_a_model_whose_forward_pass_failed() -> None:
    model = make("bert")
    term = term_of("relations", model, make("bert", 1))
    with pytest.raises(ValueError, match="input_ids"), term.watch(model, "student"):
        model()
    assert hooks(model) == 0


def test_nothing_is_caught_outside_the_block() -> None:
    model = make("bert")
    with term_of("relations", model, make("bert", 1)).watch(model, "student") as watched:
        pass
    model(**batch("bert"))
    assert watched["projections"] == {}


def test_a_fused_projection_is_refused_by_its_name() -> None:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 100}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel computes all three at once, in transformer\.h\.0"):
        term_of("relations", model, make("llama"))


def test_a_model_without_projections_is_refused() -> None:
    model = make("bert")
    for layer in model.bert.encoder.layer:
        layer.attention.self.query = nn.Identity()
    with pytest.raises(ValueError, match="BertForSequenceClassification lacks Linears named query, key, val"):
        term_of("relations", make("bert"), model)


def test_attention_modules_that_are_no_layers_are_refused() -> None:
    model = make("bert", is_decoder=True, add_cross_attention=True)
    with pytest.raises(ValueError, match="has 4 attention modules for 2 layers"):
        term_of("relations", model, make("bert", 1))


@pytest.mark.parametrize(
    ("student", "teacher", "heads", "message"),
    [
        ({}, {"hidden_size": 48}, 32, "32 relation heads do not divide the teacher's .* width 48"),
        ({}, {}, 5, "5 relation heads do not divide the student's .* width 32"),
        ({"num_attention_heads": 32}, {"hidden_size": 48}, None, "32 relation heads do not divide the teach"),
    ],
)
def test_heads_have_to_divide_every_width(
    student: dict[str, int], teacher: dict[str, int], heads: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        term_of("relations", make("bert", **student), make("bert", 1, **teacher), heads=heads)


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="the teacher is an encoder-decoder with three; use hidden"):
        term_of("relations", make("bert"), encoder_decoder("t5", 0, (1, 1)))


def test_a_layer_that_computed_nothing_is_refused() -> None:
    student, teacher, inputs = make("bert"), make("bert", 1), batch("bert")
    term = term_of("relations", student, teacher)
    with pytest.raises(ValueError, match="the forward pass did not compute queries of shape .* in layer 1"):
        term({"projections": {}}, {"projections": {}}, inputs)


def test_adapters_add_to_the_vectors_of_their_layers() -> None:
    config = LoraConfig(target_modules=["query", "value"], task_type="SEQ_CLS", init_lora_weights=False)
    student, inputs = make("bert"), batch("bert")
    adapted = get_peft_model(copy.deepcopy(student), config).eval()
    merged = get_peft_model(student, config)
    merged.load_state_dict(adapted.state_dict())
    with torch.no_grad():
        found, wanted = (
            mean(compare("relations", model, make("bert", 1), inputs), inputs)
            for model in (adapted, merged.merge_and_unload())
        )
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4) != 0
