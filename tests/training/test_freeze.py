"""Frozen weights stay unchanged; wrong expressions are refused."""

import pytest

from hf_sparse.training.model_options import freeze
from tests.support.tiny import bert


def test_parameters_are_frozen_by_their_names() -> None:
    model = bert()
    frozen = freeze(model, ["embeddings", r"layer\.0\..*bias$"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any("embeddings" in name for name in trained)
    assert "bert.encoder.layer.0.output.dense.bias" not in trained
    assert {"bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.1.output.dense.bias"} <= trained
    assert frozen == model.num_parameters() - model.num_parameters(only_trainable=True) > 0


def test_a_name_that_is_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="'embedings' is found in the name of no parameter of Bert.*; its"):
        freeze(bert(), ["embedings"])


def test_something_is_left_to_train() -> None:
    with pytest.raises(ValueError, match=r"\. freezes every weight; leave something to train"):
        freeze(bert(), ["."])
