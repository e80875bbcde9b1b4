"""The demo as a whole: all its stages in their order, then table, results and picture."""

import hashlib
import shutil
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.progress import Progress

import hf_sparse
from hf_sparse.atomic.directories import require_writable
from hf_sparse.atomic.file_group import recover_directories
from hf_sparse.checkpoint.run_record import public_name
from hf_sparse.demo.finished_models import Adapted, Speed, measure_speed, speed_table, try_adapter
from hf_sparse.demo.learning_tasks import Task, classification_task, language_task
from hf_sparse.demo.progress import StageProgress, silence, stage_lines
from hf_sparse.demo.settings import DemoSettings, Plan, Training
from hf_sparse.demo.sources import BaseModel, Sources, find_base_model, load_sources, words
from hf_sparse.demo.stages import (
    UNFINISHED,
    Outcome,
    Stage,
    read_outcome,
    require_own_directories,
    run_stage,
)
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.report.history import plot_demo
from hf_sparse.report.tables import ModelRow, duration, model_table
from hf_sparse.runs.results import write_results

RESULTS, _PICTURE = "results.json", "demo.png"
_TASKS = {"language": "fill-mask", "task": "text-classification"}
_BUILT_IN = {
    "language": "topics and docstrings of Python's standard library",
    "task": "docstrings of Python's standard library",
}


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of all stages, in the order they are run."""

    teacher: Outcome
    student: Outcome
    dense: Outcome
    transfer: Outcome
    finetune: Outcome
    quantized: Outcome


def run_demo(settings: DemoSettings, console: Console) -> Outcomes:
    """Run the demo; write a model for every stage, `results.json` and `demo.png` into the output directory.

    Raises `ValueError` if settings or data cannot be used, before anything is trained.
    """
    require_writable(settings.output_dir)
    began = time.perf_counter()
    with silence():
        with console.status("Collecting text"):
            sources = load_sources(settings)
        console.print(_about(sources))
        with stage_lines(console) as progress:
            outcomes, task = run_pipeline(settings, sources, progress)
        with console.status("Measuring the model in 8 bits"):
            speed = measure_speed(settings.output_dir / outcomes.quantized.name, task)
        with console.status("Trying an adapter"):
            base = settings.output_dir / outcomes.transfer.name
            adapted = try_adapter(base, task, settings.plan.task, settings.seed)
    elapsed = time.perf_counter() - began
    _report(settings, sources, outcomes, speed, adapted, elapsed, console)
    return outcomes


def run_pipeline(settings: DemoSettings, sources: Sources, progress: Progress) -> tuple[Outcomes, Task]:
    """Run every stage that is not complete in the output directory; return the outcomes and the task.

    A complete stage is reused if settings, data and versions are the same. A stage that was interrupted is
    run again from its beginning.
    """
    names = ("teacher", "pruned", "task-dense", "task-transfer", "task-gmp", "task-int8")
    require_own_directories(settings.output_dir, names)
    recover_directories(settings.output_dir / UNFINISHED, settings.output_dir)
    base = find_base_model(settings, sources)
    plan = replace(settings.plan, length=base.length)
    language = language_task(sources, base.tokenizer, plan, settings.seed)
    task = classification_task(sources, base.tokenizer, plan)
    line = _Line(settings, base, _basis(sources, plan), progress)

    teacher = line.run("teacher", "1 Prepare the teacher", language, plan.prepare, Recipe(), None)
    student = line.run(
        "pruned", "2 Prune once", language, plan.prune, settings.prune_recipe, teacher, teacher
    )
    dense = line.run("task-dense", "3 Fine-tune dense", task, plan.task, Recipe(), teacher)
    transfer = line.run(
        "task-transfer", "4 Transfer", task, plan.transfer, settings.transfer_recipe, student, dense
    )
    finetune = line.run(
        "task-gmp",
        "5 Prune by fine-tuning",
        task,
        plan.finetune,
        settings.finetune_recipe,
        teacher,
        dense,
    )
    quantized = line.run(
        "task-int8", "6 Quantize", task, plan.quantize, settings.quantize_recipe, transfer, dense
    )
    shutil.rmtree(settings.output_dir / UNFINISHED, ignore_errors=True)
    return Outcomes(teacher, student, dense, transfer, finetune, quantized), task


@dataclass(frozen=True)
class _Line:
    """What all stages of one demo share."""

    settings: DemoSettings
    base: BaseModel
    basis: str
    progress: Progress

    def run(
        self,
        name: str,
        title: str,
        task: Task,
        training: Training,
        recipe: Recipe,
        start: Outcome | None,
        teacher: Outcome | None = None,
    ) -> Outcome:
        """Run one stage, or show that it was run before."""
        home = self.settings.output_dir
        stage = Stage(
            name,
            task,
            training,
            recipe,
            self.settings.seed,
            start or self.base.fingerprint,
            teacher,
            facts_of(self.settings, task.name),
        )
        fingerprint = stage.fingerprint(self.basis)
        line = StageProgress(self.progress, title)
        done = read_outcome(home / name)
        if done is not None and done.fingerprint == fingerprint:
            line.skip(training.steps)
            return done
        load = self.base.load if start is None else partial(task.load, home / start.name)
        return run_stage(stage, home, fingerprint, self.base.tokenizer, load, line)


def facts_of(settings: DemoSettings, name: str) -> dict[str, str]:
    """Return task and dataset for the record of a run, by the name of the task.

    A dataset of the Hub is named by its Hub name, a file or a directory without its path.
    """
    given = settings.dataset if name == "task" else settings.text or settings.dataset
    facts = {"task": _TASKS[name], "dataset": _BUILT_IN[name]}
    if given is not None:
        facts["dataset"] = Path(given).name if Path(given).exists() else public_name(given)
    if settings.dataset_config is not None and given == settings.dataset:
        facts["config"] = settings.dataset_config
    return facts


def _basis(sources: Sources, plan: Plan) -> str:
    """Return a hash of what all stages depend on: data, tokens of a text, versions."""
    versions = (hf_sparse.__version__, torch.__version__, transformers.__version__)
    return hashlib.sha256(repr((sources.digest, plan.length, versions)).encode()).hexdigest()


def _about(sources: Sources) -> str:
    return (
        f"Text: {words(sources.texts):,} words. Task: {len(sources.names)} classes, "
        f"{len(sources.train):,} examples to learn from, {len(sources.validation):,} held out."
    )


def _report(
    settings: DemoSettings,
    sources: Sources,
    outcomes: Outcomes,
    speed: Speed,
    adapted: Adapted,
    elapsed: float,
    console: Console,
) -> None:
    home = settings.output_dir
    write_results(home / RESULTS, _results(settings, sources, outcomes, speed, adapted, elapsed))
    plot_demo(
        outcomes.student.log,
        {
            "dense": outcomes.dense.accuracy,
            "pruned once,\ntransferred": outcomes.transfer.accuracy,
            "pruned once,\nin 8 bits": outcomes.quantized.accuracy,
            "pruned while\nfine-tuning": outcomes.finetune.accuracy,
        },
        sources.majority,
        f"One model at {settings.sparsity:.0%} sparsity: pruned in two ways, one of them also in 8 bits",
        home / _PICTURE,
    )
    console.print(model_table(_groups(outcomes)))
    console.print(speed_table(speed))
    console.print(_notes(settings, sources, outcomes.quantized))
    console.print(str(adapted))
    where = f"{duration(elapsed)} min in all. Models, {RESULTS}, {_PICTURE}: {home}"
    console.print(where, soft_wrap=True, markup=False)


def _notes(settings: DemoSettings, sources: Sources, quantized: Outcome) -> str:
    plan, sizes = settings.plan, quantized.sizes or {}
    return (
        f"All models learned the task in {plan.task.steps:,} steps, the one in 8 bits in "
        f"{plan.quantize.steps:,} more. Pruning once took {plan.prune.steps:,} steps of pre-training more, "
        "once for any number of tasks.\n"
        f"Always answering the most frequent class scores {sources.majority:.1%}.\n"
        "Zeros alone make no file smaller. Packed in 8 bits, the encoder is "
        f"{sizes['encoder_ratio']:.1f}x smaller than dense, the whole model {sizes['ratio']:.1f}x; papers, "
        f"which count values without their places, would call the encoder {sizes['counted_ratio']:.1f}x."
    )


def _groups(outcomes: Outcomes) -> list[tuple[str, list[ModelRow]]]:
    language = [("teacher, dense", outcomes.teacher), ("student, pruned once", outcomes.student)]
    task = [
        ("fine-tuned dense", outcomes.dense),
        ("pruned once, transferred", outcomes.transfer),
        ("pruned once, in 8 bits", outcomes.quantized),
        ("pruned while fine-tuning", outcomes.finetune),
    ]
    return [
        ("Guessing masked words", [_row(*pair) for pair in language]),
        ("The task", [_row(*pair) for pair in task]),
    ]


def _row(name: str, outcome: Outcome) -> ModelRow:
    return ModelRow(name, outcome.accuracy, outcome.sparsity, outcome.bytes, outcome.seconds)


def _results(
    settings: DemoSettings,
    sources: Sources,
    outcomes: Outcomes,
    speed: Speed,
    adapted: Adapted,
    elapsed: float,
) -> dict:
    asked = {name: value for name, value in vars(settings).items() if name not in ("plan", "output_dir")}
    return {
        "settings": asked | {"plan": asdict(settings.plan)},
        "data": {
            "words": words(sources.texts),
            "train": len(sources.train),
            "validation": len(sources.validation),
            "classes": sources.balance,
            "majority_accuracy": sources.majority,
            "digest": sources.digest,
        },
        "seconds": round(elapsed, 1),
        "speed": speed.as_dict(),
        "adapter": asdict(adapted),
        "stages": [
            {name: value for name, value in vars(outcome).items() if name != "log"}
            for outcome in vars(outcomes).values()
        ],
    }
