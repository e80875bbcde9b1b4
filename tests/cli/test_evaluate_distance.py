"""`hf-sparse evaluate-distance`: how far the hidden states of one encoder are from those of another."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel, T5Config, T5ForConditionalGeneration

from tests.cli.commands import lines, refused, run
from tests.data.tiny_tokenizers import bert as tokenizer

SIZES = {"vocab_size": len(tokenizer()), "num_hidden_layers": 2, "num_attention_heads": 2}


def save(folder: Path, seed: int, kind: type = BertModel, width: int = 16, **config: object) -> Path:
    torch.manual_seed(seed)
    kind(BertConfig(**SIZES | {"hidden_size": width, "intermediate_size": 32} | config)).save_pretrained(
        folder
    )
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return save(tmp_path / "student", 0)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    # A head on it does not matter.
    return save(tmp_path / "teacher", 1, BertForMaskedLM)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = ["who sat,the cat sat", "where ?,on a mat in paris", "the big cat,a mat"] * 4
    (tmp_path / "pairs.csv").write_text("\n".join(["question,sentence", *rows]) + "\n")
    return tmp_path / "pairs.csv"


def distances(*arguments: object) -> dict[str, float]:
    (text,) = lines("evaluate-distance", *arguments, "--json")
    return json.loads(text)["distances"]


def test_a_table_has_the_error_of_every_layer(
    student: Path, teacher: Path, pairs: Path, narrow: None
) -> None:
    shown = lines("evaluate-distance", student, teacher, pairs)
    assert "Hidden states, 12 texts" in shown[0] and max(map(len, shown)) <= 80
    cells = [line.strip("│").split("│") for line in shown if line.startswith("│")]
    found = distances(student, teacher, pairs)
    assert [[cell.strip() for cell in row] for row in cells] == [
        [layer, f"{value:.3f}"] for layer, value in found.items()
    ]
    assert list(found) == ["1", "2"] and all(value > 0.1 for value in found.values())


def test_a_copy_is_at_distance_0_and_its_head_does_not_matter(
    tmp_path: Path, teacher: Path, pairs: Path
) -> None:
    BertModel.from_pretrained(teacher).save_pretrained(tmp_path / "encoder")
    # The tokenizer is the teacher's where the student has none.
    assert distances(tmp_path / "encoder", teacher, pairs) == {"1": 0.0, "2": 0.0}


def test_json_is_all_that_is_printed(student: Path, teacher: Path, pairs: Path) -> None:
    result = run("evaluate-distance", student, teacher, pairs, "--samples", 5, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["texts"] == 5 and list(found) == ["texts", "distances"]


def test_batches_do_not_matter_and_cut_texts_do(student: Path, teacher: Path, pairs: Path) -> None:
    whole = distances(student, teacher, pairs)
    assert distances(student, teacher, pairs, "--batch-size", 1) == pytest.approx(whole, rel=1e-4)
    assert distances(student, teacher, pairs, "--max-seq-length", 4) != pytest.approx(whole, rel=1e-4)


def test_columns_are_texts_or_pairs_of_them(student: Path, teacher: Path, pairs: Path) -> None:
    both, one, other = (
        distances(student, teacher, pairs, *(word for name in names for word in ("--text-column", name)))
        for names in (("question", "sentence"), ("question",), ("sentence",))
    )
    assert distances(student, teacher, pairs) == both
    assert both != one != other


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--samples", 0], "samples must be above 0, got 0"),
        (["--batch-size", 0], "batch_size must be above 0, got 0"),
        (["--text-column", "answer"], "'answer'"),
    ],
)
def test_a_wrong_option_is_one_plain_sentence(
    student: Path, teacher: Path, pairs: Path, options: list, sentence: str
) -> None:
    assert sentence in refused("evaluate-distance", student, teacher, pairs, *options)


def test_models_that_cannot_be_compared_are_refused_in_one_sentence(
    tmp_path: Path, student: Path, teacher: Path, pairs: Path
) -> None:
    wide = save(tmp_path / "wide", 0, width=32)
    assert "states of width 16 and 32 cannot be compared" in refused(
        "evaluate-distance", student, wide, pairs
    )
    sizes = {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": len(tokenizer()),
    }
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    tokenizer().save_pretrained(tmp_path / "t5")
    assert "an encoder-decoder has two stacks" in refused(
        "evaluate-distance", student, tmp_path / "t5", pairs
    )
    swapped = tokenizer().get_vocab()
    swapped["cat"], swapped["mat"] = swapped["mat"], swapped["cat"]
    type(tokenizer())(vocab=swapped).save_pretrained(teacher)
    assert "2 tokens other ids, such as ['cat', 'mat']" in refused(
        "evaluate-distance", student, teacher, pairs
    )


def test_nothing_there_is_refused_and_a_wrong_command_line_is_another_code(
    tmp_path: Path, student: Path, teacher: Path, pairs: Path
) -> None:
    assert "nowhere" in refused("evaluate-distance", tmp_path / "nowhere", teacher, pairs)
    assert "no.csv" in refused("evaluate-distance", student, teacher, tmp_path / "no.csv")
    (tmp_path / "empty.csv").write_text("text\n")
    refused("evaluate-distance", student, teacher, tmp_path / "empty.csv")
    assert run("evaluate-distance", student, teacher).exit_code == 2
    assert run("evaluate-distance", student, teacher, pairs, "--layers", 3).exit_code == 2
