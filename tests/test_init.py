"""The package's public names."""

import pytest

import hf_sparse


@pytest.mark.parametrize("name", hf_sparse.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(hf_sparse, name) is not None


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Trainer'; it offers .*'SparseTrainer'"):
        _ = hf_sparse.Trainer
