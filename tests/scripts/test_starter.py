"""The sparse encoder that the repository holds, and a short transfer from it by the command of README."""

import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import run_glue
from hf_sparse.checkpoint.packed.hf_quantizer import SUPPORTED
from hf_sparse.checkpoint.sparsity_record import lost_zeros
from hf_sparse.quantization.quantized_layers import quantized_layers
from hf_sparse.sparsity.measure import measure_sparsity

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STARTER = ROOT / "models" / "minilm-wiki-sparse90"

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="transformers before 5.23 lacks the hooks")


def test_its_encoder_is_sparse_and_in_floats() -> None:
    model = AutoModel.from_pretrained(STARTER)
    assert quantized_layers(model) == {} and lost_zeros(model) == {}
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert measure_sparsity(model).overall == pytest.approx(0.9, abs=2e-3)
    assert AutoTokenizer.from_pretrained(STARTER)("A text.")["input_ids"] == [101, 1037, 3793, 1012, 102]
    assert sum(path.stat().st_size for path in STARTER.iterdir()) < 15e6


def test_the_command_of_readme_keeps_its_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"text": ["a good film", "a bad film"] * 4, "label": [1, 0] * 4}
    Dataset.from_dict(rows).to_csv(tmp_path / "task.csv")
    command = re.search(
        r"python scripts/run_glue.py (--model_name_or_path models/.*?)\n```", README, re.DOTALL
    )
    words = command[1].replace("\\\n", " ").replace("--max_steps 800", "--max_steps 2").split()
    at = words.index("--task_name")
    words[at : at + 2] = [
        "--train_file",
        str(tmp_path / "task.csv"),
        "--validation_file",
        str(tmp_path / "task.csv"),
    ]
    words[-1] = str(tmp_path / words[-1])
    monkeypatch.chdir(ROOT)
    run_glue.main(words)
    start = dict(AutoModel.from_pretrained(STARTER).named_parameters())
    model = AutoModelForSequenceClassification.from_pretrained(words[-1])
    assert measure_sparsity(model).overall == pytest.approx(0.9, abs=2e-3) and lost_zeros(model) == {}
    name = "encoder.layer.0.attention.self.query.weight"
    trained = dict(model.bert.named_parameters())[name]
    assert not trained[start[name] == 0].any() and not torch.equal(trained, start[name])
