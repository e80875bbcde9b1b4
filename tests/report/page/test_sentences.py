"""What came out, in a sentence."""

from pathlib import Path

from hf_sparse.report.page.sentences import result_of
from tests.report.runs import compared, write_run


def test_one_run_is_described_by_what_was_measured(tmp_path: Path) -> None:
    comparison = compared(write_run(tmp_path / "run", milliseconds=2.5))
    sentence = result_of(comparison).replace("\u00a0", " ")
    for said in (
        "Accuracy 0.7500 on 40 examples of letters, 50.0 % zeros in the weights of its layers (",
        " MB, 2.5 ms. Latencies are for batches of 1 x 32 tokens, 1 thread, Abacus, kernels for avx2.",
    ):
        assert said in sentence


def test_what_was_not_measured_is_not_mentioned(tmp_path: Path) -> None:
    comparison = compared(write_run(tmp_path / "run", sparsity=None, accuracy=None, log=[]))
    assert result_of(comparison) == "Nothing was measured of it."


def test_a_chosen_run_stands_beside_a_dense_one_that_was_scored_alike(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "other", sparsity=0.0, samples=3),
        write_run(tmp_path / "dense", sparsity=0.0, accuracy=0.8),
        write_run(tmp_path / "run"),
    )
    assert ". For comparison, dense: accuracy 0.8000, dense, " in result_of(comparison, comparison.runs[-1])


def test_of_several_the_best_and_the_smallest_are_named(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "a", sparsity=0.0, accuracy=0.9), write_run(tmp_path / "b", accuracy=0.8)
    )
    sentence = result_of(comparison)
    assert "Of 2 runs scored by accuracy on 40 examples of letters, a has the highest" in sentence
    small = compared(
        write_run(tmp_path / "c", sparsity=None, accuracy=0.9), write_run(tmp_path / "d", accuracy=0.8)
    )
    assert "The smallest file is that of d" in result_of(small)


def test_scores_that_do_not_compare_are_not_ranked(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "a", sparsity=None), write_run(tmp_path / "b", sparsity=None, samples=3)
    )
    assert result_of(comparison) == "2 runs, whose scores cannot be compared."
