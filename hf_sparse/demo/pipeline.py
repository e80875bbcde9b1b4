"""The stages of the demo in their order: teacher, student pruned once, four models of the task."""

import hashlib
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import transformers
from rich.progress import Progress

import hf_sparse
from hf_sparse.atomic.file_group import recover_directories
from hf_sparse.checkpoint.run_record import public_name
from hf_sparse.demo.lessons import Lesson, language_lesson, task_lesson
from hf_sparse.demo.origin import Origin, find_origin
from hf_sparse.demo.progress import StageProgress
from hf_sparse.demo.settings import DemoSettings, Plan, Training
from hf_sparse.demo.sources import Sources
from hf_sparse.demo.stages import (
    UNFINISHED,
    Outcome,
    Stage,
    read_outcome,
    require_own_directories,
    run_stage,
)
from hf_sparse.recipe import Recipe

_TASKS = {"language": "fill-mask", "task": "text-classification"}
_BUILT_IN = {
    "language": "topics and docstrings of Python's standard library",
    "task": "docstrings of Python's standard library",
}


@dataclass(frozen=True)
class Outcomes:
    """All stages of one job, in the order they were run."""

    teacher: Outcome
    student: Outcome
    dense: Outcome
    transfer: Outcome
    finetune: Outcome
    quantized: Outcome


def run_pipeline(settings: DemoSettings, sources: Sources, progress: Progress) -> tuple[Outcomes, Lesson]:
    """Run every stage whose outcome is not in the output directory already; return the task, too.

    An outcome is taken as it is if settings, data and versions are those it was made with. A stage that was
    interrupted starts again from its beginning.
    """
    names = ("teacher", "pruned", "task-dense", "task-transfer", "task-gmp", "task-int8")
    require_own_directories(settings.output_dir, names)
    recover_directories(settings.output_dir / UNFINISHED, settings.output_dir)
    origin = find_origin(settings, sources)
    plan = replace(settings.plan, length=origin.length)
    language = language_lesson(sources, origin.tokenizer, plan, settings.seed)
    task = task_lesson(sources, origin.tokenizer, plan)
    line = _Line(settings, origin, _basis(sources, plan), progress)

    teacher = line.run("teacher", "1 Prepare the teacher", language, plan.prepare, Recipe(), None)
    student = line.run(
        "pruned", "2 Prune once", language, plan.prune, settings.prune_recipe, teacher, teacher
    )
    dense = line.run("task-dense", "3 Fine-tune dense", task, plan.task, Recipe(), teacher)
    transfer = line.run(
        "task-transfer", "4 Transfer", task, plan.task, settings.transfer_recipe, student, dense
    )
    finetune = line.run(
        "task-gmp", "5 Prune by fine-tuning", task, plan.task, settings.finetune_recipe, teacher, dense
    )
    quantized = line.run(
        "task-int8", "6 Quantize", task, plan.quantize, settings.quantize_recipe, transfer, dense
    )
    shutil.rmtree(settings.output_dir / UNFINISHED, ignore_errors=True)
    return Outcomes(teacher, student, dense, transfer, finetune, quantized), task


@dataclass(frozen=True)
class _Line:
    """What all stages of one job have in common."""

    settings: DemoSettings
    origin: Origin
    basis: str
    progress: Progress

    def run(
        self,
        name: str,
        title: str,
        lesson: Lesson,
        training: Training,
        recipe: Recipe,
        start: Outcome | None,
        teacher: Outcome | None = None,
    ) -> Outcome:
        """Run one stage, or show that it has been run already."""
        home = self.settings.output_dir
        stage = Stage(
            name,
            lesson,
            training,
            recipe,
            self.settings.seed,
            start or self.origin.fingerprint,
            teacher,
            facts_of(self.settings, lesson.name),
        )
        fingerprint = stage.fingerprint(self.basis)
        line = StageProgress(self.progress, title)
        done = read_outcome(home / name)
        if done is not None and done.fingerprint == fingerprint:
            line.skip(training.steps)
            return done
        load = self.origin.load if start is None else partial(lesson.load, home / start.name)
        return run_stage(stage, home, fingerprint, self.origin.tokenizer, load, line)


def facts_of(settings: DemoSettings, lesson: str) -> dict[str, str]:
    """Return what the record of a run says of its task and its data, by the name of the lesson.

    A data set of the Hub goes by its name, a file or a directory by its own name alone.
    """
    given = settings.dataset if lesson == "task" else settings.text or settings.dataset
    facts = {"task": _TASKS[lesson], "dataset": _BUILT_IN[lesson]}
    if given is not None:
        facts["dataset"] = Path(given).name if Path(given).exists() else public_name(given)
    if settings.dataset_config is not None and given == settings.dataset:
        facts["config"] = settings.dataset_config
    return facts


def _basis(sources: Sources, plan: Plan) -> str:
    """Return a hash of what all stages depend on: data, the length that texts are cut to, versions."""
    versions = (hf_sparse.__version__, torch.__version__, transformers.__version__)
    return hashlib.sha256(repr((sources.digest, plan.length, versions)).encode()).hexdigest()
