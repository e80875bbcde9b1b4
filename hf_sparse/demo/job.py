"""The demo as a whole: from sources through all stages to table, results, picture."""

import time
from dataclasses import asdict

from rich.console import Console

from hf_sparse.atomic.directories import require_writable
from hf_sparse.demo.adapter import Adapted, try_adapter
from hf_sparse.demo.pipeline import Outcomes, run_pipeline
from hf_sparse.demo.progress import silence, stage_lines
from hf_sparse.demo.settings import DemoSettings
from hf_sparse.demo.sources import Sources, load_sources, words
from hf_sparse.demo.speed import Speed, measure_speed, speed_table
from hf_sparse.demo.stages import Outcome
from hf_sparse.report.history import plot_demo
from hf_sparse.report.tables import ModelRow, duration, model_table
from hf_sparse.runs.results import write_results

RESULTS, _PICTURE = "results.json", "demo.png"


def run_demo(settings: DemoSettings, console: Console) -> Outcomes:
    """Run the demo, leaving in the output directory a model for every stage, `results.json`, `demo.png`.

    Raises `ValueError` if settings or data cannot be used, before anything is trained.
    """
    require_writable(settings.output_dir)
    began = time.perf_counter()
    with silence():
        with console.status("Collecting text"):
            sources = load_sources(settings)
        console.print(_about(sources))
        with stage_lines(console) as progress:
            outcomes, lesson = run_pipeline(settings, sources, progress)
        with console.status("Measuring the model in 8 bits"):
            speed = measure_speed(settings.output_dir / outcomes.quantized.name, lesson)
        with console.status("Trying an adapter"):
            base = settings.output_dir / outcomes.transfer.name
            adapted = try_adapter(base, lesson, settings.plan.task, settings.seed)
    elapsed = time.perf_counter() - began
    _report(settings, sources, outcomes, speed, adapted, elapsed, console)
    return outcomes


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
    plan, sizes = settings.plan, quantized.sizes
    return (
        f"All learnt the task in {plan.task.steps:,} steps, the one in 8 bits in {plan.quantize.steps:,} "
        f"more. Pruning once took {plan.prune.steps:,} more of pre-training, which serve any number of "
        "tasks.\n"
        f"Always answering the most frequent class scores {sources.majority:.1%}.\n"
        "Zeros alone shrink no file. Packed in 8 bits, the encoder is "
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
