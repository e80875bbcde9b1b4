"""Scores in words."""

import pytest

from hf_sparse.runs.score_text import (
    chance,
    change,
    compared,
    lower_is_better,
    title,
    worth_showing,
    written,
)

GLUE, SQUAD = "text-classification", "question-answering"


def test_losses_are_shown_only_where_there_is_nothing_else() -> None:
    assert worth_showing({"loss": 0.5, "accuracy": 0.9}) == {"accuracy": 0.9}
    assert worth_showing({"loss": 0.5}) == {"loss": 0.5}


def test_counts_and_thresholds_are_no_scores() -> None:
    found = {"exact": 70.0, "total": 100.0, "best_exact": 71.0, "best_f1_thresh": -1.0, "HasAns_total": 50.0}
    assert worth_showing(found) == {"exact": 70.0}


@pytest.mark.parametrize(
    ("name", "value", "task", "text"),
    [
        ("accuracy", 0.93456, GLUE, "93.46 %"),
        ("f1_mm", 0.5, GLUE, "50.00 %"),
        ("f1", 88.123, SQUAD, "88.12 %"),
        ("matthews_correlation", 0.56789, GLUE, "0.5679"),
        ("loss", 1.23456, None, "1.235"),
        ("HasAns_f1", 88.123, SQUAD, "88.12 %"),
        # In the other unit than usual, or none that anybody knows.
        ("accuracy", 91.3, GLUE, "91.3"),
        ("f1", 0.88, SQUAD, "0.88"),
        ("exact_match", 81.25, None, "81.25"),
        ("score", 0.5, SQUAD, "0.5"),
    ],
)
def test_scores_have_their_unit(name: str, value: float, task: str | None, text: str) -> None:
    assert written(name, value, task) == text


def test_a_difference_has_a_sign_in_points_and_in_per_cent() -> None:
    assert change("accuracy", 0.8, 0.78, GLUE) == "-2.00 points (-2.5 %)"
    assert change("f1", 80.0, 81.0, SQUAD) == "+1.00 points (+1.2 %)"
    assert change("loss", 2.0, 2.5, None) == "+0.5 (+25.0 %)"
    assert change("matthews_correlation", 0.0, 0.1, GLUE) == "+0.1"
    assert change("accuracy", 80.0, 78.0, GLUE) == "-2 (-2.5 %)"


def test_a_difference_in_words() -> None:
    assert compared("accuracy", 0.8, 0.78, GLUE) == "2.0 points below"
    assert compared("accuracy", 0.8, 0.80001, GLUE) == "the same as"
    assert compared("loss", 2.0, 2.5, None) == "0.5 above"
    assert compared("accuracy", 80.0, 78.0, GLUE) == "2 below"


def test_metrics_have_names_and_directions() -> None:
    assert title("matthews_correlation") == "Matthews correlation"
    assert title("accuracy_mm") == "accuracy, mismatched" and title("my_metric") == "my metric"
    assert lower_is_better("loss") and lower_is_better("wer") and not lower_is_better("accuracy")


def test_chance_moves_what_is_counted() -> None:
    assert chance("accuracy", 0.9, 900, GLUE) == "1.0 points"
    assert chance("accuracy", 1.0, 900, GLUE) is None and chance("f1", 0.9, 900, GLUE) is None
    assert chance("accuracy", 0.9, 900, "fill-mask") is None
