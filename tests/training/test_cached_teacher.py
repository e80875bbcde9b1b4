"""A run that reads its teacher from a cache learns what a run with a live teacher learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration, TrainerCallback

from hf_sparse import Recipe, SparseTrainer, TeacherCache
from hf_sparse.distillation.features.hidden import Hidden
from hf_sparse.distillation.features.term import FeatureTerm
from tests.support.lessons import LESSONS, Spoiled
from tests.support.runs import checkpoint
from tests.support.tiny import arguments, bert, same_weights, sentences

TEACHING = Recipe.from_dict({"distillation": {"temperature": 2.0, "task": 0.3, "logits": 0.7}})
FEATURES = TEACHING.override(
    ["distillation.hidden=0.5", "distillation.relations=0.5", "distillation.attention=0.5"]
)
ROWS = 16


def padded(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Collate rows without their padding, as long as the longest of them."""
    columns: dict[str, Tensor] = {}
    for name in rows[0]:
        values = [
            row[name][: int(row["attention_mask"].sum())] if row[name].dim() else row[name] for row in rows
        ]
        columns[name] = pad_sequence(values, batch_first=True) if values[0].dim() else torch.stack(values)
    return columns


def lesson(
    folder: Path, cache: TeacherCache | str | None, name: str = "classification", **changes: Any
) -> SparseTrainer:
    others = {key: changes.pop(key) for key in ("recipe", "teacher", "data_collator") if key in changes}
    return SparseTrainer(
        LESSONS[name].make(0),
        arguments(folder, **({"max_steps": -1, "num_train_epochs": 2} | changes)),
        train_dataset=LESSONS[name].rows(ROWS),
        teacher_cache=cache,
        **({"recipe": TEACHING, "teacher": LESSONS[name].make(1)} | others),
    )


def losses(trainer: SparseTrainer) -> list[float]:
    return [
        value for line in trainer.state.log_history for key, value in line.items() if key.startswith("loss")
    ]


def close(trainer: SparseTrainer) -> None:
    """Make a teacher raise if it is run again."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the teacher was run")

    trainer.distiller.teacher.forward = refuse


@pytest.mark.parametrize("name", LESSONS)
def test_every_kind_of_head_learns_the_same_from_a_cache(name: str, tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "cache", top_k=None)
    live, first, again = (lesson(tmp_path / "run", kept, name) for kept in (None, cache, cache))
    live.train()
    first.train()
    assert (first.distiller.cache.computed, first.distiller.cache.read) == (ROWS, ROWS)
    # The first epoch has the same batches; in the second, entries come from other batches.
    half = len(losses(live)) // 2
    assert losses(first)[:half] == losses(live)[:half]
    assert losses(first) == pytest.approx(losses(live), rel=1e-4)
    close(again)
    again.train()
    assert losses(again) == losses(first)


def test_other_batches_with_other_padding_find_their_examples(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "cache", top_k=None, states=True)
    changes = {"recipe": FEATURES.override(["distillation.attention=null"])}
    lesson(tmp_path / "run", cache, **changes).train()
    trainer = lesson(
        tmp_path / "run", cache, per_device_train_batch_size=3, data_collator=padded, seed=7, **changes
    )
    live = lesson(tmp_path / "run", None, per_device_train_batch_size=3, seed=7, **changes)
    close(trainer)
    for run in (trainer, live):
        run.train()
    assert losses(trainer) == pytest.approx(losses(live), rel=1e-4)


def test_outputs_at_padding_do_not_matter(tmp_path: Path) -> None:
    for name in ("masked", "answers"):
        cache = TeacherCache(tmp_path / name, top_k=None)
        clean, spoiled = lesson(tmp_path / "run", None, name), LESSONS[name].make(1)
        trainer = lesson(tmp_path / "run", cache, name, teacher=Spoiled(spoiled))
        for run in (clean, trainer):
            run.train()
        assert losses(trainer) == pytest.approx(losses(clean), rel=1e-4)


def eager(trainer_kind: str, seed: int) -> PreTrainedModel:
    model = LESSONS[trainer_kind].make(seed)
    model.set_attn_implementation("eager")
    return model


def featured(folder: Path, cache: TeacherCache | None) -> SparseTrainer:
    return SparseTrainer(
        eager("classification", 0),
        arguments(folder, max_steps=-1, num_train_epochs=2),
        train_dataset=sentences(ROWS),
        recipe=FEATURES,
        teacher=eager("classification", 1),
        teacher_cache=cache,
    )


def test_inner_states_come_from_the_cache_if_it_is_asked_for(tmp_path: Path) -> None:
    live = featured(tmp_path / "run", None)
    live.train()
    for half, tolerance in ((False, 1e-4), (True, 5e-3)):
        cache = TeacherCache(tmp_path / str(half), states=True, half=half)
        first, again = (featured(tmp_path / "run", cache) for _ in range(2))
        first.train()
        close(again)
        again.train()
        assert losses(again) == losses(first) == pytest.approx(losses(live), rel=tolerance)
    with pytest.raises(
        ValueError, match=r"compares hidden, attention, relations, and .*--teacher_cache_states"
    ):
        featured(tmp_path / "run", TeacherCache(tmp_path / "logits"))


def test_the_loss_of_the_largest_logits_is_below_that_of_all(tmp_path: Path) -> None:
    found = {}
    for top_k in (None, 4, 20):
        trainer = lesson(
            tmp_path / "run", TeacherCache(tmp_path / str(top_k), top_k=top_k), "masked", max_steps=1
        )
        trainer.train()
        found[top_k] = trainer.state.log_history[0]["loss_logits"]
    assert found[4] < found[20] < found[None]


class Stop(TrainerCallback):
    """Ends a run with an error after a step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 3}
    straight = lesson(tmp_path / "straight", str(tmp_path / "one"), **saving)
    straight.train()
    broken = lesson(tmp_path / "broken", str(tmp_path / "two"), **saving)
    broken.add_callback(Stop)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = lesson(tmp_path / "broken", str(tmp_path / "two"), **saving)
    close(resumed)
    resumed.train(resume_from_checkpoint=str(checkpoint(tmp_path / "broken", 4)))
    assert same_weights(straight.model, resumed.model)


@pytest.mark.parametrize("kind", ["self", "base"])
def test_teachers_that_are_made_from_the_student_are_cached(kind: str, tmp_path: Path) -> None:
    def trainer(cache: str | None) -> SparseTrainer:
        model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        if kind == "base":
            peft = pytest.importorskip("peft")
            model = peft.get_peft_model(
                model, peft.LoraConfig(target_modules=["query"], modules_to_save=["classifier"])
            )
        return SparseTrainer(
            model,
            arguments(tmp_path / "run", max_steps=8),
            train_dataset=sentences(ROWS),
            recipe=TEACHING.override([f"distillation.teacher={kind}"]),
            teacher_cache=cache,
        )

    found = []
    for cache in (None, str(tmp_path / "cache"), str(tmp_path / "cache")):
        torch.manual_seed(0)
        run = trainer(cache)
        run.train()
        found.append(losses(run))
    assert run.distiller.cache.computed == 0
    assert found[1] == found[2] == pytest.approx(found[0], rel=1e-4, abs=1e-6)


def test_the_log_says_what_is_kept_where(tmp_path: Path) -> None:
    said = {
        64: "of more than 128 classes the 64 largest logits",
        None: "all logits",
    }
    for top_k, logits in said.items():
        where = tmp_path / str(top_k)
        trainer = lesson(tmp_path / "run", TeacherCache(where, top_k=top_k))
        line = f"Keeping the teacher's outputs, {logits}, in {where}: 0 examples so far, 0.0 kB"
        assert [*trainer.parts[0].describe()][1] == line


def test_a_foreign_cache_is_refused_when_the_trainer_is_made(tmp_path: Path) -> None:
    lesson(tmp_path / "run", str(tmp_path / "cache")).train()
    with pytest.raises(ValueError, match="was written with a teacher whose digest is"):
        lesson(tmp_path / "run", str(tmp_path / "cache"), teacher=LESSONS["classification"].make(2))


def test_a_term_that_does_not_say_what_it_reads_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hidden, "reads", FeatureTerm.reads)
    cache = TeacherCache(tmp_path / "cache", states=True)
    with pytest.raises(ValueError, match="what hidden reads of the teacher is unknown.*define `reads`"):
        lesson(tmp_path / "run", cache, recipe=TEACHING.override(["distillation.hidden=0.5"]))


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    def t5(seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
        return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))

    with pytest.raises(ValueError, match="is an encoder-decoder, .*; leave teacher_cache out"):
        SparseTrainer(
            t5(0), arguments(tmp_path), recipe=TEACHING, teacher=t5(1), teacher_cache=str(tmp_path / "c")
        )


def test_a_cache_without_distillation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the recipe lacks distillation; leave it out, or add distillation"):
        SparseTrainer(bert(), arguments(tmp_path), teacher_cache=str(tmp_path / "cache"))


def test_a_teacher_that_is_never_asked_stays_where_it_is(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    lesson(tmp_path / "run", cache).train()
    trainer = lesson(tmp_path / "run", cache)
    trainer.distiller.teacher.to("meta")
    trainer.train()
