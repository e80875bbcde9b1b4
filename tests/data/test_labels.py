"""Class names, their order, and the labels of rows."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertConfig

from hf_sparse.data.glue import GLUE_TASKS, glue_task
from hf_sparse.data.texts import Labels, find_labels, label_encoder


def rows(values: list[object], feature: object = None) -> Dataset:
    features = Features({"label": feature}) if feature is not None else None
    return Dataset.from_dict({"label": values}, features=features)


def test_strings_become_classes_in_sorted_order() -> None:
    data = rows(["pear", "apple", "pear", "fig"])
    labels = find_labels(data)
    assert labels.names == ("apple", "fig", "pear")
    assert [label_encoder(data, "label", labels)(value) for value in data["label"]] == [2, 0, 2, 1]


def test_whole_numbers_become_classes_in_numeric_order() -> None:
    data = rows([10, 2, 10])
    labels = find_labels(data)
    assert labels.names == ("2", "10")
    assert label_encoder(data, "label", labels)(10) == 1


def test_other_numbers_mean_a_regression() -> None:
    data = rows([0.5, 3.0])
    labels = find_labels(data)
    assert labels.regression and labels.outputs == 1 and labels.id2label == {}
    assert label_encoder(data, "label", labels)(0.5) == 0.5


def test_a_class_label_type_brings_its_names() -> None:
    data = rows([1, 0], ClassLabel(names=["no", "yes"]))
    labels = find_labels(data)
    assert labels.id2label == {0: "no", 1: "yes"} and labels.outputs == 2
    assert label_encoder(data, "label", labels)(1) == 1


@pytest.mark.parametrize(
    "data",
    [
        rows(["not_entailment", "entailment"]),
        rows([1, 0]),
        rows([1, 0], ClassLabel(names=["entailment", "not_entailment"])),
        rows([0, 1], ClassLabel(names=["not_entailment", "entailment"])),
        rows(["not_entailment", "entailment"], Value("large_string")),
    ],
    ids=["strings", "numbers", "class label", "class label reversed", "large strings"],
)
def test_a_task_fixes_the_order_however_rows_spell_it(data: Dataset) -> None:
    labels = find_labels(data, task="qnli")
    assert labels.names == ("entailment", "not_entailment")
    assert [label_encoder(data, "label", labels, "qnli")(value) for value in data["label"]] == [1, 0]


def test_similarity_of_sentences_is_a_regression_even_of_whole_numbers() -> None:
    data = rows([0, 5])
    labels = find_labels(data, task="stsb")
    assert labels.regression and label_encoder(data, "label", labels, "stsb")(5) == 5.0


def test_a_task_has_labels_for_every_class() -> None:
    assert {task: len(entry.labels) for task, entry in GLUE_TASKS.items()} == {
        "cola": 2, "sst2": 2, "mrpc": 2, "qqp": 2, "stsb": 0, "mnli": 3, "qnli": 2, "rte": 2, "wnli": 2
    }  # fmt: skip


def test_a_configuration_is_told_the_classes() -> None:
    config = BertConfig(num_labels=5, problem_type="regression")
    Labels(("no", "yes", "maybe")).write_to(config)
    assert config.num_labels == 3 and config.problem_type == "single_label_classification"
    assert config.id2label == {0: "no", 1: "yes", 2: "maybe"} and config.label2id["maybe"] == 2
    Labels(()).write_to(config)
    assert config.num_labels == 1 and config.problem_type == "regression"


def test_a_model_that_knows_the_names_keeps_its_order() -> None:
    labels = Labels(("entailment", "neutral", "contradiction"))
    ordered = labels.in_order_of({0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"})
    assert ordered.names == ("contradiction", "entailment", "neutral")
    data = rows([0, 1, 2])
    assert [label_encoder(data, "label", ordered, "mnli")(value) for value in (0, 1, 2)] == [1, 2, 0]


def test_a_model_with_other_names_changes_nothing() -> None:
    labels = Labels(("negative", "positive"))
    assert labels.in_order_of({0: "LABEL_0", 1: "LABEL_1"}) == labels
    assert labels.in_order_of({}) == labels


def test_a_label_that_is_no_class_is_refused() -> None:
    encode = label_encoder(rows(["a", "b"]), "label", Labels(("a", "b")))
    with pytest.raises(ValueError, match=r"label 'c' in column 'label' is not one of \('a', 'b'\)"):
        encode("c")
    with pytest.raises(ValueError, match="label -1"):
        label_encoder(rows([0, -1]), "label", Labels(glue_task("sst2").labels), "sst2")(-1)
    with pytest.raises(ValueError, match="label None in column 'label' is not a number"):
        label_encoder(rows([0.5]), "label", Labels(()))(None)


def test_columns_that_hold_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"label column 'genre' is missing among \['label'\]"):
        find_labels(rows(["a"]), "genre")
    with pytest.raises(ValueError, match="holds only"):
        find_labels(rows(["a", "a"]))
    with pytest.raises(ValueError, match="without a label"):
        find_labels(rows(["a", None]))
    with pytest.raises(ValueError, match="one label"):
        find_labels(rows([[0, 1], [1]]))
    with pytest.raises(ValueError, match=r"rte has the classes .* 'label' \('no', 'yes'\)"):
        find_labels(rows([0], ClassLabel(names=["no", "yes"])), task="rte")
    with pytest.raises(ValueError, match="rename duplicates"):
        Labels(("a", "a"))
