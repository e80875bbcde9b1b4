"""The largest number of tokens equals what the model accepts."""

import pytest
import torch
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    EsmConfig,
    GPT2Config,
    LongformerConfig,
    MPNetConfig,
    NystromformerConfig,
    OPTConfig,
    PreTrainedConfig,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
    XLNetConfig,
)

from hf_sparse.data.positions import most_tokens
from tests.support.tiny import SIZES, bert

# 20 are said to be there.
LARGE = SIZES | {"max_position_embeddings": 20}
BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 100}
CONFIGS = {
    "bert": (BertConfig(**LARGE), 20),
    "distilbert": (DistilBertConfig(**LARGE), 20),
    "roberta": (RobertaConfig(**LARGE, pad_token_id=1), 18),
    "roberta whose padding is another token": (RobertaConfig(**LARGE, pad_token_id=3), 16),
    "xlm-roberta": (XLMRobertaConfig(**LARGE, pad_token_id=1), 18),
    "camembert": (CamembertConfig(**LARGE, pad_token_id=1), 18),
    "mpnet": (MPNetConfig(**LARGE, pad_token_id=1), 18),
    "esm": (EsmConfig(**LARGE, pad_token_id=1, position_embedding_type="absolute"), 18),
    "nystromformer": (NystromformerConfig(**LARGE, num_landmarks=1, segment_means_seq_len=20), 20),
    "bart": (BartConfig(**BART, max_position_embeddings=20), 20),
    "gpt2": (GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=100, n_positions=20), 20),
    "opt": (OPTConfig(**LARGE, ffn_dim=64, word_embed_proj_dim=32), 20),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_so_many_tokens_are_taken_and_no_more(name: str) -> None:
    config, most = CONFIGS[name]
    model = AutoModel.from_config(config).eval()
    assert most_tokens(model) == most_tokens(config) == most
    with torch.no_grad():
        model(input_ids=torch.full((1, most), 7))
        if name != "nystromformer":
            with pytest.raises((IndexError, RuntimeError, ValueError)):
                model(input_ids=torch.full((1, most + 1), 7))


def test_longformer_has_as_many_as_roberta() -> None:
    # Its texts are padded to whole windows, which is another matter.
    config = LongformerConfig(**LARGE, pad_token_id=1, attention_window=4)
    assert most_tokens(config) == 18


@pytest.mark.parametrize(
    "config",
    [
        XLNetConfig(vocab_size=50, d_model=32, n_layer=1, n_head=2, d_inner=64),
        T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, vocab_size=50),
    ],
)
def test_relative_positions_set_no_limit(config: PreTrainedConfig) -> None:
    assert most_tokens(config) is None


def test_a_configuration_is_asked_without_drawing_weights() -> None:
    state = torch.get_rng_state()
    assert most_tokens(BertConfig()) == 512
    assert torch.equal(torch.get_rng_state(), state)
    assert most_tokens(bert()) == 512
