"""Commands on weights that were saved with a variant."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from hf_sparse.checkpoint.variants import with_variant
from tests.cli.commands import lines, refused, run
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.support.tiny import bert


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two models in one directory: a plain one, and in half precision one with a row of zeros."""
    home = tmp_path / "mine"
    tokenizer().save_pretrained(home)
    plain, half = bert(seed=1, num_hidden_layers=1), bert(num_hidden_layers=1).half()
    with torch.no_grad():
        half.bert.encoder.layer[0].output.dense.weight[0] = 0
    plain.save_pretrained(home)
    half.save_pretrained(home, variant="fp16")
    return home


def zeros(*words: object) -> int:
    found = json.loads(lines("inspect", *words, "--json")[-1])
    return sum(weight["zeros"] for weight in found["weights"])


def test_the_weights_of_the_variant_are_looked_at(saved: Path) -> None:
    assert zeros(saved) == 0
    for words in ((saved, "--variant", "fp16"), ("--variant=fp16", saved)):
        assert zeros(*words) == 64


def test_a_variant_must_be_named() -> None:
    for words in (["mine", "--variant"], ["mine", "--variant", "--json"]):
        result = run("inspect", *words)
        assert result.exit_code == 2 and "'--variant' requires an argument" in result.output


def test_what_is_written_is_plain_with_all_that_belongs_to_it(saved: Path, tmp_path: Path) -> None:
    lines("prune", saved, tmp_path / "out", "--sparsity", "0.5", "--variant", "fp16")
    pruned = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    weight = pruned.bert.encoder.layer[0].output.dense.weight
    assert pruned.dtype == torch.float16 and (weight == 0).float().mean().item() >= 0.5
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert not any("fp16" in path.name for path in (tmp_path / "out").iterdir())
    assert "hf_sparse_variant" not in (tmp_path / "out" / "config.json").read_text()


def test_several_files_of_a_variant_are_one_model(tmp_path: Path) -> None:
    model = bert(num_hidden_layers=1)
    model.save_pretrained(tmp_path / "mine", variant="fp16", max_shard_size="20KB")
    assert len(list((tmp_path / "mine").glob("*fp16*"))) > 2
    with with_variant(str(tmp_path / "mine"), "fp16") as view:
        assert Path(view).name == "mine"
        read = AutoModelForSequenceClassification.from_pretrained(view)
    assert torch.equal(read.classifier.weight, model.classifier.weight)


def test_all_but_weights_lies_there_itself_and_links_that_leave_stay_links(
    saved: Path, tmp_path: Path
) -> None:
    (saved / "1_Pooling").mkdir()
    (saved / "1_Pooling" / "config.json").write_text("{}")
    (saved / "checkpoint-1").mkdir()
    (tmp_path / "diary").write_text("private")
    (saved / "LICENSE").symlink_to(tmp_path / "diary")
    with with_variant(str(saved), "fp16") as view:
        links = {path.name for path in Path(view).rglob("*") if path.is_symlink()}
        names = {path.relative_to(view).as_posix() for path in Path(view).rglob("*")}
    assert links == {"model.safetensors", "LICENSE"}
    assert {"1_Pooling/config.json", "config.json", "tokenizer.json"} < names and "checkpoint-1" not in names


def test_a_snapshot_of_the_hub_has_files_of_its_cache(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0f"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    for name in ("config.json", "model.fp16.safetensors"):
        (blobs / name[::-1]).write_text("{}")
        (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / name[::-1])
    with with_variant(str(snapshot), "fp16") as view:
        assert not (Path(view) / "config.json").is_symlink()
        assert (Path(view) / "model.safetensors").read_text() == "{}"


def test_the_variant_is_published(saved: Path) -> None:
    ended = run("push", saved, "OWNER/NAME", "--variant", "fp16", "--dry-run", "--json")
    assert ended.exit_code == 0, ended.output
    sizes = {file["path"]: file["bytes"] for file in json.loads(ended.stdout.splitlines()[-1])["files"]}
    assert sizes["model.safetensors"] < 0.6 * (saved / "model.safetensors").stat().st_size
    assert "model.fp16.safetensors" not in sizes


def test_a_variant_that_is_not_there_is_named(saved: Path, tmp_path: Path) -> None:
    assert refused("inspect", saved, "--variant", "bf16") == (
        f"{saved} lacks model.bf16.safetensors; name the variant that it was saved with, or leave --variant "
        "out"
    )
    assert "is not a variant; name a word" in refused("inspect", saved, "--variant", "../up")
    assert load_file(saved / "model.safetensors")


def test_commands_without_a_model_have_no_variants(tmp_path: Path) -> None:
    assert run("compare", tmp_path, "--variant", "fp16").exit_code == 2
    assert run("inspect", tmp_path, "--variant").exit_code == 2
