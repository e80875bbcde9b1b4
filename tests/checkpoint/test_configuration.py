"""Configurations that ask for more parts than any model has, or describe a model that cannot be made."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_sparse.checkpoint.compressed_tensors import is_compressed
from hf_sparse.checkpoint.configuration import saved_quantization
from hf_sparse.checkpoint.load import load_model, named_class, rounded_as
from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.checkpoint.saved_files import packed_file, weight_files
from hf_sparse.hub.card.weights import format_of
from tests.support.tiny import bert


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    bert(num_hidden_layers=1).save_pretrained(tmp_path / "plain")
    save_packed(bert(num_hidden_layers=1), tmp_path / "packed")
    return tmp_path


def change(directory: Path, **changes: Any) -> Path:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return file


@pytest.mark.parametrize("count", [2**63, 10**6, 5000])
@pytest.mark.parametrize(
    "name", ["num_hidden_layers", "n_layer", "num_labels", "encoder_layers", "num_experts", "depths"]
)
def test_more_layers_than_any_model_has_are_refused_before_one_is_made(
    name: str, count: int, saved: Path
) -> None:
    if name == "num_labels" and count < 2**63:
        # There are as many products in a shop.
        return
    for form, call in {"plain": partial(load_model, restore=False), "packed": load_packed}.items():
        value: Any = {"text_config": {name: [1, count]}} if name == "depths" else {name: count}
        file = change(saved / form, **value)
        with pytest.raises(
            ValueError, match=f"{name} in {file} is {count}, more than any model has; restore"
        ):
            call(str(saved / form))


CANNOT_BE: dict[str, dict[str, Any]] = {
    "a text for a number": {"hidden_size": "8"},
    "a negative size": {"hidden_size": -16},
    "no heads": {"num_attention_heads": 0},
    "heads that do not fit": {"num_attention_heads": 3},
    "a list for labels": {"id2label": [1]},
    "an activation that is none": {"hidden_act": "nothing"},
    "an activation of another kind": {"hidden_act": [1]},
    "an empty kind": {"model_type": ""},
    "other sizes than the weights": {"vocab_size": 90, "intermediate_size": 5},
}


@pytest.mark.parametrize("kind", CANNOT_BE)
@pytest.mark.parametrize("form", ["plain", "packed"])
def test_what_cannot_be_made_is_an_error_that_names_the_file(kind: str, form: str, saved: Path) -> None:
    change(saved / form, **CANNOT_BE[kind])
    with pytest.raises(ValueError, match=f"{saved / form}"):
        {"plain": partial(load_model, restore=False), "packed": load_packed}[form](str(saved / form))


@pytest.mark.parametrize("value", ["int8", 8, ["int8"], True])
def test_a_quantization_that_is_no_table_is_refused_by_all_who_read_it(value: Any, saved: Path) -> None:
    file = change(saved / "plain", quantization_config=value)
    readers: tuple[Callable[[Path], Any], ...] = (
        lambda path: saved_quantization(path / "config.json"),
        is_compressed,
        format_of,
        lambda path: packed_file(str(path)),
    )
    for read in readers:
        with pytest.raises(
            ValueError, match=f"the quantization_config in {file} is .*, not a table; restore it"
        ):
            read(saved / "plain")
    with pytest.raises(ValueError, match=f"{saved / 'plain'}"):
        rounded_as(str(saved / "plain"))


@pytest.mark.parametrize("value", ["BertModel", {"a": 1}, [1], [None]])
def test_classes_are_a_list_of_names(value: Any, saved: Path) -> None:
    file = change(saved / "plain", architectures=value)
    with pytest.raises(ValueError, match=f"architectures in {file} is .*, not a list of names; restore it"):
        named_class(str(saved / "plain"))


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (None, "does not say which files hold the weights"),
        ([], "does not say which files hold the weights"),
        ({}, "does not say which files hold the weights"),
        ({"a": 1}, "names 1, which is not a file beside it"),
        ({"a": "../model.safetensors"}, "names '../model.safetensors', which is not a file beside it"),
        ({"a": "/etc/passwd"}, "names '/etc/passwd', which is not a file beside it"),
    ],
)
def test_shards_lie_beside_their_index(held: Any, said: str, saved: Path) -> None:
    (saved / "plain" / "model.safetensors").unlink()
    index = saved / "plain" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": held}))
    with pytest.raises(ValueError, match=f"{index} {said}.*; restore it"):
        weight_files(str(saved / "plain"))


def test_it_takes_no_memory_for_what_is_not_there(saved: Path) -> None:
    change(saved / "packed", num_hidden_layers=2**40, num_labels=2**40)
    code = f"""
import resource
from hf_sparse.checkpoint.packed.model import load_packed
from transformers import BertForSequenceClassification
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (256 << 20), now + (256 << 20)))
try:
    load_packed({str(saved / "packed")!r})
except ValueError as error:
    print("more than any model has" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
