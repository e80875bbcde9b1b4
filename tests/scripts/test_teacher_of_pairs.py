"""A teacher with token types gets them even if its student has none."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertTokenizerFast,
)

from tests.scripts.tiny_data import sentences, write_table

Script = Callable[[str], ModuleType]


@pytest.fixture
def student(tmp_path: Path, config: BertConfig, tokenizer: BertTokenizerFast) -> Path:
    sizes = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 32}
    DistilBertForMaskedLM(DistilBertConfig(vocab_size=config.vocab_size, **sizes)).save_pretrained(
        tmp_path / "student"
    )
    DistilBertTokenizerFast(vocab=tokenizer.get_vocab(), model_max_length=32).save_pretrained(
        tmp_path / "student"
    )
    return tmp_path / "student"


def heard_by(teacher_of: Any, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor | None]:
    """Return a list that is filled with the types of tokens which the teacher is given."""
    heard: list[torch.Tensor | None] = []

    def load(*args: Any, **kwargs: Any) -> Any:
        teacher = load_teacher(*args, **kwargs)
        keep = lambda module, args, given: heard.append(given.get("token_type_ids"))  # noqa: E731
        teacher.register_forward_pre_hook(keep, with_kwargs=True)
        return teacher

    load_teacher = teacher_of.load_teacher
    monkeypatch.setattr(teacher_of, "load_teacher", load)
    return heard


@pytest.mark.parametrize("task", ["classes", "answers"])
def test_the_teacher_of_pairs_is_told_where_the_second_text_begins(
    script: Script,
    student: Path,
    config: BertConfig,
    tokenizer: BertTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
) -> None:
    kind = BertForSequenceClassification if task == "classes" else BertForQuestionAnswering
    kind(config).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    texts = sentences(8, 0), sentences(8, 1)
    if task == "classes":
        name = "run_glue"
        table = {"sentence1": texts[0], "sentence2": texts[1], "label": [index % 2 for index in range(8)]}
    else:
        name = "run_qa"
        answers = [{"text": [context.split()[0]], "answer_start": [0]} for context in texts[1]]
        table = {
            "id": [str(index) for index in range(8)],
            "question": texts[0],
            "context": texts[1],
            "answers": answers,
        }
    write_table(tmp_path / "data" / "train.parquet", table)
    heard = heard_by(script("common"), monkeypatch)
    (tmp_path / "recipe.yaml").write_text("distillation: {}\n")
    more = ["--doc_stride", "2", "--max_seq_length", "32"] if name == "run_qa" else []
    script(name).main(
        [
            *f"--model_name_or_path {student} --train_file {tmp_path / 'data' / 'train.parquet'}".split(),
            *f"--output_dir {tmp_path / 'out'} --teacher_name_or_path {tmp_path / 'teacher'}".split(),
            *f"--do_train --recipe {tmp_path / 'recipe.yaml'} --max_steps 1 --use_cpu True".split(),
            *more,
        ]
    )
    assert heard and all(types is not None and types.unique().tolist() == [0, 1] for types in heard)
    # The student's tokenizer is saved as it was.
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "token_type_ids" not in saved("one", "two")
