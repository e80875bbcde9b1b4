"""The table of names against models, and against the rest of the package."""

import ast
from pathlib import Path

import pytest
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
)

import hf_sparse
from hf_sparse import architectures
from hf_sparse.architectures import ENCODERS
from hf_sparse.runtime.bindings import ACTIVATIONS
from hf_sparse.runtime.encoders.encoder_parts import encoder_layers, encoder_names
from hf_sparse.sparsity.structured.heads_and_neurons import find_heads

PACKAGE = Path(hf_sparse.__file__).parent
SMALL = {
    "hidden_size": 8,
    "pad_token_id": 0,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 9,
}
# Names that no other code uses for anything else.
TELLING = {
    *(name for names in architectures.PROJECTIONS for name in names),
    *architectures.FUSED_PROJECTIONS,
    *architectures.ATTENTION_OUTPUTS,
    *architectures.GATED_INPUTS,
    *architectures.FEED_FORWARD_WIDTHS,
    *architectures.ACTIVATION_SETTINGS,
    *architectures.ENCODER_DEPTHS,
    *architectures.DECODER_DEPTHS,
    *architectures.POSITION_TABLES,
    *(part for names in ENCODERS.values() for part in (*names.linears, *names.norms)),
}


@pytest.mark.parametrize("model_type", ENCODERS)
def test_models_have_the_parts_that_the_table_names(model_type: str) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip("this transformers has no such model")
    names = ENCODERS[model_type]
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]} if names.disentangled else {}
    config = AutoConfig.for_model(model_type, **SMALL, **relative)
    model = AutoModel.from_config(config)
    ((_, layer, linears),) = encoder_layers(model, encoder_names(model))
    assert all(isinstance(linear, nn.Linear) for linear in linears)
    # The first of ModernBERT lacks a norm in front of its attention.
    norms = [type(layer.get_submodule(name)).__name__.removeprefix("EuroBert") for name in names.norms]
    assert set(norms) <= {"LayerNorm", "RMSNorm", "Identity"}
    assert getattr(config, names.activation) in ACTIVATIONS
    assert len(linears) == sum(isinstance(part, nn.Linear) for part in layer.modules())
    assert names.rotary is None or isinstance(model.get_submodule(names.rotary), nn.Module)


def test_one_spelling_of_projections_serves_every_reader() -> None:
    config = DebertaV2Config(**SMALL, intermediate_size=12, max_position_embeddings=16)
    (heads,) = find_heads(DebertaV2ForSequenceClassification(config))
    assert [target.module.out_features for target in heads.into] == [8, 8, 8] and heads.heads == 2


def test_the_names_stand_nowhere_else() -> None:
    # `nn_pruned` writes settings into configurations, `bypass` names a child of PyTorch's own.
    elsewhere = {"architectures.py", "nn_pruned.py", "bypass.py"}
    found = {
        path.relative_to(PACKAGE).as_posix(): node.value
        for path in PACKAGE.rglob("*.py")
        if path.name not in elsewhere
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in TELLING and {"_", "."} & set(node.value)
    }
    assert found == {}
