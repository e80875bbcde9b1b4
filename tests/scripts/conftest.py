"""A tiny model with its vocabulary, scripts that can be imported."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from tests.scripts.tiny_data import SPECIAL, WORDS

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import scripts as if started from their directory; keep caches out of the home directory."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "metrics")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def script(isolated: None) -> Callable[[str], ModuleType]:
    return importlib.import_module


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizerFast:
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(SPECIAL + WORDS)}, model_max_length=32)


@pytest.fixture(scope="session")
def config() -> BertConfig:
    return BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )


@pytest.fixture(scope="session")
def model_dir(
    tmp_path_factory: pytest.TempPathFactory, config: BertConfig, tokenizer: BertTokenizerFast
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
