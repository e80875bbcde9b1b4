"""Commands keep a model of sentence-transformers whole, with equal embeddings."""

from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

from hf_sparse.hub.push_directory import staged
from tests.cli.commands import lines
from tests.support import small

TEXTS = [small.text(number) for number in range(8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder that takes the first token, with a module after it that has weights of its own."""
    folder = tmp_path_factory.mktemp("embedder")
    encoder = Transformer(small.saved_bert(folder / "base"))
    modules = [encoder, Pooling(32, pooling_mode="cls"), Dense(32, 16)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "model"))
    (folder / "model" / "LICENSE").write_text("as you like")
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    return folder / "model"


def likeness(one: Path, other: Path) -> float:
    """Return the least cosine of embeddings by two directories."""
    ours, theirs = (
        SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
        for folder in (one, other)
    )
    return torch.nn.functional.cosine_similarity(ours, theirs).min().item()


def test_pruned_of_nothing_it_answers_the_same(model: Path, tmp_path: Path) -> None:
    lines("prune", model, tmp_path / "out", "--sparsity", "0")
    assert likeness(model, tmp_path / "out") == pytest.approx(1.0, abs=1e-6)
    assert (tmp_path / "out" / "LICENSE").read_text() == "as you like"


def test_quantized_and_packed_it_answers_almost_the_same(model: Path, tmp_path: Path) -> None:
    # Twice: the second takes the place of the first.
    for _ in range(2):
        lines("quantize", model, tmp_path / "int8", "--calibration", model.parent / "texts.txt")
    lines("pack", tmp_path / "int8", tmp_path / "packed", "--format", "packed")
    lines("pack", tmp_path / "int8", tmp_path / "packed", "--format", "packed")
    assert likeness(model, tmp_path / "int8") == pytest.approx(1.0, abs=1e-6)
    assert 0.98 < likeness(model, tmp_path / "packed") < 1.0


def test_exported_it_has_its_modules(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    lines("export", model, tmp_path / "onnx", "--format", "onnx")
    names = {path.relative_to(tmp_path / "onnx").as_posix() for path in (tmp_path / "onnx").rglob("*")}
    assert {"modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors", "LICENSE"} <= names


def test_published_it_is_whole(model: Path) -> None:
    with staged(model, "me/mine") as ready:
        assert likeness(model, ready.folder) == pytest.approx(1.0, abs=1e-6)
        assert {"modules.json", "2_Dense/model.safetensors"} <= {name for name, _ in ready.files}
