"""Damaged files of a run: its record, its log, what was measured of it, what its model says of itself."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hf_sparse.checkpoint.run_record import copy_public_record
from hf_sparse.hub.card.measurements import _dense_from_file, scores_of
from hf_sparse.hub.card.weights import format_of
from hf_sparse.hub.card.write import _stage
from hf_sparse.report.comparison import print_differences, print_runs
from hf_sparse.report.history import is_worth_printing, print_history
from hf_sparse.report.page.content import page_of
from hf_sparse.report.page.curves import curves, stages_figure
from hf_sparse.report.page.scatter import scatters
from hf_sparse.runs.comparison import Comparison, Lineage, comparison_as_dict
from hf_sparse.runs.history import read_log
from hf_sparse.runs.measured_run import MeasuredRun, lines_of, names_of, teachers_of
from hf_sparse.runs.run import find_runs, is_outdated, read_run
from hf_sparse.training.checkpoints.push import copy_beside_weights
from tests.fuzz.mutations import as_text, cases, damaged, plain_errors_only, rewritten
from tests.report.runs import LOG, PRUNED, write_run

LATENCY = {
    "architecture": "BertForSequenceClassification",
    "model": "run",
    "batch": 1,
    "length": 32,
    "threads": 2,
    "reference": "PyTorch",
    "machine": {"processor": "Abacus", "cores": 2, "kernels": "avx2", "versions": {"torch": "2.13.0"}},
    "rows": [
        {
            "name": name,
            "ours": name == "ours",
            "median_ms": 1.5,
            "p95_ms": 2.0,
            "sequences_per_second": 650.0,
            "weight_bytes": 1000,
            "largest_difference": None,
            "note": "",
        }
        for name in ("ours", "PyTorch")
    ],
    "missing": {"OpenVINO": "not installed"},
    "gain": True,
    "verdict": "faster",
}
FILES = ("hf_sparse_run.json", "trainer_state.json", "eval_results.json", "latency.json")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("home"))


def make(home: Path) -> Path:
    """Write two runs, the second of which started from the first and learned from it."""
    first = write_run(home / "first", sparsity=None, log=LOG)
    second = write_run(
        home / "second", sparsity=None, base_model=str(first), teacher=str(first), recipe=PRUNED, log=LOG
    )
    for run in (first, second):
        (run / "latency.json").write_text(json.dumps(LATENCY))
    return home


def show(home: Path) -> None:
    """Do what report, compare and cards do with the files of runs, but for their models."""
    run = read_run(home / "second")
    runs = [stage for line in lines_of(find_runs(home)) for stage in line]
    measured = [MeasuredRun(one, name, (), {}) for one, name in zip(runs, names_of(runs), strict=True)]
    comparison = Comparison(tuple(measured))
    json.dumps(comparison_as_dict(comparison), allow_nan=False)
    json.dumps(Lineage(comparison, [measured]).to_dict(), allow_nan=False)
    console = Console(file=io.StringIO(), width=80)
    print_runs(comparison, console), print_differences(comparison, console)
    if is_worth_printing(run.log):
        print_history(run.log, console)
    page_of(comparison, [measured])
    for one in measured:
        list(curves(one))
    stages_figure(measured, "stages", {one.name: number for number, one in comparison.numbered})
    scatters(comparison)
    teachers_of(runs)


def card(home: Path) -> None:
    run = read_run(home / "second")
    scores_of(run)
    if run.record is not None:
        _stage(run)
        is_outdated(home / "second" / "eval_results.json", run.record)
    run.latency_reports()


READERS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "shown": (show, FILES),
    "log": (lambda home: read_log(home / "second"), ("trainer_state.json",)),
    "card": (card, FILES),
    "dense": (lambda home: _dense_from_file(home / "second" / "eval_results.json"), ("eval_results.json",)),
    "public record": (
        lambda home: copy_public_record(home / "second", home / "copy"),
        ("hf_sparse_run.json",),
    ),
    "pushed": (
        lambda home: copy_beside_weights(home / "second", home / "second"),
        ("hf_sparse_run.json", "trainer_state.json"),
    ),
    "format": (lambda home: format_of(home / "second"), ("config.json",)),
}


@pytest.mark.parametrize("reader", READERS)
def test_they_are_refused_in_plain_words(reader: str, home: Path) -> None:
    call, files = READERS[reader]
    (home / "copy").mkdir(exist_ok=True)
    for random in cases(reader, 60 if reader == "shown" else 120):
        path = home / "second" / random.choice(files)
        content = as_text(damaged(json.loads(path.read_text()), random), random)

        def read() -> None:
            with plain_errors_only(home / "second"):
                call(home)

        rewritten(path, content, read)
