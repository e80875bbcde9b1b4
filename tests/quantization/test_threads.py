"""One model that several threads call at once: each gets what it would get alone."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, default_data_collator

from hf_sparse import load_packed, save_packed
from hf_sparse.checkpoint.packed.hf_quantizer import SUPPORTED
from hf_sparse.export.directory import export_directory
from hf_sparse.export.session import load_onnx
from hf_sparse.quantization import shared_rounding as sharing
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime import fuse, load, optimize
from tests.support.tiny import bert, sentences

CALLERS, CALLS = 4, 15


def batch(seed: int) -> dict[str, Tensor]:
    """Other sentences for every seed, of other lengths."""
    found = default_data_collator(sentences(2, 6 + seed, seed))
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def quantized() -> PreTrainedModel:
    model = bert(initializer_range=0.3).eval()
    calibrate(model, [batch(seed) for seed in range(3)])
    return model


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packed")
    save_packed(quantized(), directory)
    return directory


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported")
    export_directory(quantized(), directory)
    return directory


@pytest.fixture
def impatient() -> Iterator[None]:
    """Let threads take turns after every few instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def stock(directory: Path) -> PreTrainedModel:
    if not SUPPORTED:
        pytest.skip("this transformers does not load packed directories")
    return AutoModelForSequenceClassification.from_pretrained(directory)


WAYS: dict[str, Callable[[Path, Path], nn.Module]] = {
    "as trained": lambda packed, exported: quantized(),
    "load_packed": lambda packed, exported: load_packed(packed),
    "from_pretrained": lambda packed, exported: stock(packed),
    "optimize": lambda packed, exported: optimize(quantized()),
    "fuse": lambda packed, exported: fuse(quantized()),
    "load": lambda packed, exported: load(packed),
    "onnx": lambda packed, exported: load_onnx(exported),
}


def together(count: int, call: Callable[[int], None]) -> None:
    """Run a function on threads that begin at the same time; raise what one of them raised."""
    barrier, raised = threading.Barrier(count, timeout=60), []

    def run(index: int) -> None:
        try:
            barrier.wait()
            call(index)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", WAYS)
def test_every_caller_gets_the_answer_to_its_own_texts(way: str, packed: Path, exported: Path) -> None:
    model = WAYS[way](packed, exported)
    inputs = [batch(seed) for seed in range(CALLERS)]
    with torch.no_grad():
        right = [model(**given)["logits"] for given in inputs]
    wrong = []

    def call(index: int) -> None:
        with torch.no_grad():
            for _ in range(CALLS):
                if not torch.equal(model(**inputs[index])["logits"], right[index]):
                    wrong.append(index)

    together(CALLERS, call)
    assert not wrong


def test_an_input_that_another_thread_rounds_meanwhile_is_not_taken_for_ones_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attention = quantized().bert.encoder.layer[0].attention.self
    own, other = torch.randn(2, 1, 4, 32)
    version, asked = sharing._version, []

    def another_comes_between(values: Tensor) -> int:
        # The moment between the check that the input is the same and its use.
        if values is own and not asked:
            asked.append(values)
            together(1, lambda _: attention.query(other))
        return version(values)

    with torch.no_grad():
        right = attention.key(own)
        attention.query(own)
        monkeypatch.setattr(sharing, "_version", another_comes_between)
        assert torch.equal(attention.key(own), right)
    assert asked


def test_evaluation_rounds_each_reader_to_its_own_range_and_leaves_it() -> None:
    attention = quantized().bert.encoder.layer[0].attention.self
    attention.key.input_high.mul_(0.5)
    values, before = 3 * torch.randn(1, 4, 32), attention.key.input_high.item()
    with torch.no_grad():
        alone = attention.key(values)
        attention.query(values)
        assert torch.equal(attention.key(values), alone)
    assert attention.key.input_high.item() == before


def test_nothing_of_a_forward_pass_is_held_where_not_all_readers_read_one_input() -> None:
    layer = quantized().bert.encoder.layer[0]
    # As in attention to the states of an encoder: key and value read another input than query.
    attention, (own, other) = layer.attention.self, torch.randn(2, 1, 4, 32, requires_grad=True)
    attention.query(own), attention.key(other), attention.value(other)
    layer.attention.output.dense(own)
    assert sharing._LAST.rounded is None
