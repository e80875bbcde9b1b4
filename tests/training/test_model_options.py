"""Every dropout of a configuration is set, and nothing else."""

import pytest
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    ModernBertConfig,
    PreTrainedConfig,
    WhisperConfig,
)

from hf_sparse.training.model_options import set_dropout

SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("kind", [BertConfig, DistilBertConfig, ModernBertConfig, GPT2Config])
def test_no_dropout_is_left_in_the_model(kind: type[PreTrainedConfig]) -> None:
    config = kind(**(SMALL | ({"pad_token_id": 0} if kind is ModernBertConfig else {})))
    names = set_dropout(config, 0)
    assert names and all(getattr(config, name) == 0 for name in names)
    model = AutoModel.from_config(config).train()
    assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))


def test_a_rate_is_that_of_all() -> None:
    config = BertConfig()
    assert set_dropout(config, 0.3) == ["hidden_dropout_prob", "attention_probs_dropout_prob"]
    assert config.classifier_dropout is None and config.hidden_dropout_prob == 0.3


def test_layers_are_dropped_at_their_own_rate() -> None:
    config = WhisperConfig(encoder_layerdrop=0.2)
    assert "encoder_layerdrop" not in set_dropout(config, 0.5)
    assert config.encoder_layerdrop == 0.2 and config.dropout == 0.5


def test_wrong_rates_and_models_without_dropout_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a dropout rate is in \[0, 1\), got 1; 0 switches dropout off"):
        set_dropout(BertConfig(), 1)
    with pytest.raises(ValueError, match="PreTrainedConfig lacks a dropout setting; leave --dropout out"):
        set_dropout(PreTrainedConfig(), 0)
