"""Student and teacher each get the columns of a row that their forward pass takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import BertTokenizer, PreTrainedModel, Trainer

from hf_sparse import Recipe, SparseTrainer
from tests.support.featured import gradients
from tests.support.lessons import Gradients
from tests.support.pairs import make
from tests.support.tiny import arguments

RECIPE = Recipe.from_dict({"distillation": {}})


def rows(count: int = 8) -> list[dict[str, Any]]:
    """Pairs of texts: only the types of their tokens tell where the second one begins."""
    ids = torch.randint(10, 100, (count, 8), generator=torch.Generator().manual_seed(0))
    types = (torch.arange(8) >= 2 + torch.arange(count)[:, None] % 4).long()
    columns = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
    return [
        {name: values[index].tolist() for name, values in columns.items()}
        | {"labels": index % 2, "note": "-"}
        for index in range(count)
    ]


def listen(model: PreTrainedModel) -> list[set[str]]:
    heard: list[set[str]] = []
    model.register_forward_pre_hook(lambda module, args, given: heard.append({*given}), with_kwargs=True)
    return heard


def trainer(folder: Path, student: Any, teacher: Any, data: Any = None, **changes: Any) -> SparseTrainer:
    parts = {name: changes.pop(name) for name in ("processing_class", "recipe") if name in changes}
    return SparseTrainer(
        student,
        arguments(folder, max_steps=1, max_grad_norm=0.0, **changes),
        train_dataset=rows() if data is None else data,
        eval_dataset=rows() if data is None else data,
        teacher=teacher,
        callbacks=[Gradients()],
        **({"recipe": RECIPE} | parts),
    )


@pytest.mark.parametrize("kind", [list, Dataset.from_list], ids=["list", "data set"])
def test_the_teacher_reads_the_types_of_tokens_that_the_student_has_no_use_for(
    kind: Any, tmp_path: Path
) -> None:
    student, teacher = make("distilbert"), make("bert", 1)
    ours, theirs = listen(student), listen(teacher)
    run = trainer(tmp_path, student, teacher, kind(rows()), eval_strategy="steps", eval_steps=1)
    run.train()
    run.predict(kind(rows()))
    assert {"input_ids", "attention_mask", "token_type_ids"} <= theirs[0]
    assert all(not given & {"token_type_ids", "note"} for given in ours)
    assert len(ours) >= 3


def test_the_student_reads_the_types_of_tokens_that_the_teacher_has_no_use_for(tmp_path: Path) -> None:
    student = make("bert")
    ours = listen(student)
    trainer(tmp_path, student, make("distilbert", 1)).train()
    assert "token_type_ids" in ours[0]


def test_what_the_teacher_says_is_what_it_says_alone(tmp_path: Path) -> None:
    teacher, batch = make("bert", 1), {name: [row[name] for row in rows()] for name in rows()[0]}
    names = ("input_ids", "attention_mask", "token_type_ids")
    alone = teacher.eval()(**{name: torch.tensor(batch[name]) for name in names}).logits
    said: list[Tensor] = []
    teacher.register_forward_hook(lambda module, args, output: said.append(output.logits))
    trainer(
        tmp_path,
        make("distilbert"),
        teacher,
        per_device_train_batch_size=8,
        train_sampling_strategy="sequential",
    ).train()
    torch.testing.assert_close(said[0], alone)


def test_the_gradient_does_not_depend_on_how_the_batch_is_cut(tmp_path: Path) -> None:
    def step(batch: int, micro_batches: int) -> dict[str, Tensor]:
        cut = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": micro_batches}
        run = trainer(tmp_path, make("distilbert"), make("bert", 1), **cut)
        run.train()
        return gradients(run)

    found = [step(*cut) for cut in ((8, 1), (2, 4))]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_student_that_takes_nothing_else_is_given_nothing_else(tmp_path: Path) -> None:
    """Trainer would pass every column, and the student fails at the first it does not take."""

    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make("distilbert")

        def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels)

    data = [{name: value for name, value in row.items() if name != "note"} for row in rows()]
    changes = {"remove_unused_columns": False, "eval_strategy": "steps", "eval_steps": 1}
    run = trainer(tmp_path, Narrow(), make("bert", 1), data, **changes)
    run.train()
    assert "eval_loss" in run.state.log_history[1]


def test_without_a_teacher_the_columns_are_those_of_trainer(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    runs = [kind(make("distilbert"), args, train_dataset=rows()) for kind in (SparseTrainer, Trainer)]
    ours, stock = ({*next(iter(run.get_train_dataloader()))} for run in runs)
    assert ours == stock


def test_a_teacher_that_needs_another_column_is_refused_before_the_first_step(tmp_path: Path) -> None:
    class Boxes(nn.Module):
        def forward(self, input_ids: Tensor, bbox: Tensor) -> Any:
            raise AssertionError("it is not to be called")

    run = trainer(tmp_path, make("distilbert"), Boxes())
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with pytest.raises(ValueError, match="the teacher Boxes needs bbox, and a batch has attention_mask"):
        run.train()
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_a_teacher_whose_tokenizer_gives_other_ids_is_refused(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two"]
    swapped = [*words[:5], "two", "one"]
    ours, theirs = (
        BertTokenizer(vocab={word: index for index, word in enumerate(order)}) for order in (words, swapped)
    )
    make("bert", 1).save_pretrained(tmp_path / "teacher")
    teacher = type(make("bert")).from_pretrained(tmp_path / "teacher")
    # No tokenizer lies there yet.
    trainer(tmp_path / "run", make("bert"), teacher, processing_class=ours)
    ours.save_pretrained(tmp_path / "teacher")
    trainer(tmp_path / "run", make("bert"), teacher, processing_class=ours)
    theirs.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="student and teacher give 2 tokens other ids"):
        trainer(tmp_path / "run", make("bert"), teacher, processing_class=ours)
