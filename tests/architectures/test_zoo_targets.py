"""Exactly which weights of every architecture are pruned, and why the others are not."""

import pytest

from hf_sparse import find_targets
from tests.support.zoo import ARCHITECTURES, architecture

HEAD = "head: outside the base model"
OUTSIDE = "outside the layer stack (embedding projection or pooler)"
TIED = "tied to an embedding"
ROUTER = "router: chooses among experts"
UNKNOWN = "3-D parameter of unknown orientation"

BERT = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]
DISTILBERT = [
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "ffn.lin1",
    "ffn.lin2",
]
DEBERTA = [
    "attention.self.query_proj",
    "attention.self.key_proj",
    "attention.self.value_proj",
    "attention.self.pos_key_proj",
    "attention.self.pos_query_proj",
    *BERT[3:],
]
MPNET = [f"attention.attn.{kind}" for kind in "qkvo"] + BERT[4:]
T5_SELF = [f"layer.0.SelfAttention.{kind}" for kind in "qkvo"]
T5_CROSS = [f"layer.1.EncDecAttention.{kind}" for kind in "qkvo"]
T5_GATED = ["DenseReluDense.wi_0", "DenseReluDense.wi_1", "DenseReluDense.wo"]
BART_SELF = [f"self_attn.{kind}_proj" for kind in ("k", "v", "q", "out")]
BART_CROSS = [f"encoder_attn.{kind}_proj" for kind in ("k", "v", "q", "out")]
GPT2 = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
ATTENTION = [f"self_attn.{kind}_proj" for kind in "qkvo"]
GATED = [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
LLAMA = ATTENTION + GATED
EXPERTS = [f"mlp.experts.{kind}_proj[{expert}]" for kind in ("gate_up", "down") for expert in range(4)]
VIT = [f"attention.{kind}_proj" for kind in "qkvo"] + ["mlp.fc1", "mlp.fc2"]
WAV2VEC2 = [f"attention.{kind}_proj" for kind in ("k", "v", "q", "out")] + [
    "feed_forward.intermediate_dense",
    "feed_forward.output_dense",
]


def weights(prefix: str, layer: list[str], layers: int = 2) -> list[str]:
    names = [f"{prefix}.{index}.{name}" for index in range(layers) for name in layer]
    return [name if name.endswith("]") else f"{name}.weight" for name in names]


def in_layers(prefix: str, names: list[str], reason: str) -> dict[str, str]:
    return {f"{prefix}.{index}.{name}": reason for index in range(2) for name in names}


CLASSIFIER = {"classifier.dense": HEAD, "classifier.out_proj": HEAD}
EXPECTED: dict[str, tuple[list[str], dict[str, str]]] = {
    "BERT": (weights("bert.encoder.layer", BERT), {"bert.pooler.dense": OUTSIDE, "classifier": HEAD}),
    "BERT-Large, 24 layers": (
        weights("bert.encoder.layer", BERT, layers=24),
        {"cls.predictions.transform.dense": HEAD, "cls.predictions.decoder": TIED},
    ),
    "RoBERTa": (weights("roberta.encoder.layer", BERT), CLASSIFIER),
    "DistilBERT": (
        weights("distilbert.transformer.layer", DISTILBERT),
        {"pre_classifier": HEAD, "classifier": HEAD},
    ),
    "ELECTRA": (
        weights("electra.encoder.layer", BERT),
        {"electra.embeddings_project": OUTSIDE} | CLASSIFIER,
    ),
    "ALBERT": (
        # One layer, applied twice.
        weights(
            "albert.encoder.albert_layer_groups.0.albert_layers",
            ["attention.query", "attention.key", "attention.value", "attention.dense", "ffn", "ffn_output"],
            layers=1,
        ),
        {
            "albert.encoder.embedding_hidden_mapping_in": OUTSIDE,
            "albert.pooler": OUTSIDE,
            "classifier": HEAD,
        },
    ),
    "DeBERTa-v2": (
        weights("deberta.encoder.layer", DEBERTA),
        {"pooler.dense": HEAD, "classifier": HEAD},
    ),
    "MPNet": (weights("mpnet.encoder.layer", MPNET), CLASSIFIER),
    "T5": (
        weights("encoder.block", T5_SELF + [f"layer.1.{name}" for name in T5_GATED])
        + weights("decoder.block", T5_SELF + T5_CROSS + [f"layer.2.{name}" for name in T5_GATED]),
        {"lm_head": TIED},
    ),
    "BART": (
        weights("model.encoder.layers", [*BART_SELF, "fc1", "fc2"])
        + weights("model.decoder.layers", [*BART_SELF, *BART_CROSS, "fc1", "fc2"]),
        {"lm_head": TIED},
    ),
    "GPT-2": (weights("transformer.h", GPT2), {"lm_head": TIED}),
    "Llama": (weights("model.layers", LLAMA), {"lm_head": HEAD}),
    "Qwen3": (weights("model.layers", LLAMA), {"lm_head": TIED}),
    "Mistral": (weights("model.layers", LLAMA), {"lm_head": HEAD}),
    "Mixtral": (weights("model.layers", ATTENTION + EXPERTS), {"lm_head": HEAD}),
    "Qwen2-MoE": (
        weights(
            "model.layers",
            ATTENTION + EXPERTS + [f"mlp.shared_expert.{kind}_proj" for kind in ("gate", "up", "down")],
        ),
        {"lm_head": HEAD} | in_layers("model.layers", ["mlp.shared_expert_gate"], ROUTER),
    ),
    "GPT-OSS": (weights("model.layers", ATTENTION + EXPERTS), {"lm_head": HEAD}),
    "Llama 4": (
        weights(
            "model.layers",
            ATTENTION + [f"feed_forward.shared_expert.{kind}_proj" for kind in ("gate", "up", "down")],
        ),
        in_layers("model.layers", ["feed_forward.router"], ROUTER)
        | in_layers(
            "model.layers", [f"feed_forward.experts.{kind}_proj" for kind in ("gate_up", "down")], UNKNOWN
        )
        # This class has no base model beside its head.
        | {"lm_head": OUTSIDE},
    ),
    "ViT": (weights("vit.layers", VIT), {"classifier": HEAD}),
    "wav2vec 2.0": (
        weights("wav2vec2.encoder.layers", WAV2VEC2),
        {"wav2vec2.feature_projection.projection": OUTSIDE, "projector": HEAD, "classifier": HEAD},
    ),
}


def test_every_architecture_has_its_expected_targets() -> None:
    assert list(EXPECTED) == [entry.name for entry in ARCHITECTURES]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_targets_are_exactly_these(name: str) -> None:
    targets = find_targets(architecture(name).model())
    names, left_out = EXPECTED[name]
    assert targets.names == names
    assert {entry.name: entry.reason for entry in targets.left_out} == left_out
