"""Progress of the demo: one line for every stage, live on a terminal, else printed when the stage ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

# datasets raises every error that it logs.
_QUIET = {
    "hf_sparse": logging.ERROR,
    "huggingface_hub": logging.ERROR,
    "datasets": logging.CRITICAL,
}

_SHOWN = ("loss", "sparsity")


class _Numbers(ProgressColumn):
    """Column with the steps and, once they are logged, the latest loss and sparsity."""

    def render(self, task: Task) -> Text:
        parts = [f"{task.completed:.0f}/{task.total:.0f}"]
        if (loss := task.fields.get("loss")) is not None:
            parts.append(f"loss {loss:.2f}")
        if (sparsity := task.fields.get("sparsity")) is not None:
            parts.append(f"zeros {sparsity:.0%}")
        if (note := task.fields.get("note")) is not None:
            parts.append(note)
        return Text("  ".join(parts), style="progress.percentage")


class StageProgress(TrainerCallback):
    """Updates the line of a stage as its Trainer goes on."""

    def __init__(self, progress: Progress, title: str) -> None:
        self.progress = progress
        self.line = progress.add_task(title, total=None, start=False, visible=False)

    def skip(self, steps: int) -> None:
        """Show a stage as finished earlier."""
        self.progress.update(self.line, total=steps, completed=steps, visible=True, note="done before")
        self._print_ended()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.progress.start_task(self.line)
        self.progress.update(self.line, total=state.max_steps, visible=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.progress.update(self.line, completed=state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.progress.stop_task(self.line)
        self._print_ended()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        shown: dict[str, Any] = {name: value for name, value in (logs or {}).items() if name in _SHOWN}
        self.progress.update(self.line, **shown)

    def _print_ended(self) -> None:
        """Print the line of a stage once, if the console is not a terminal."""
        if self.progress.disable:
            (task,) = (task for task in self.progress.tasks if task.id == self.line)
            # rich flushes what it prints.
            self.progress.console.print(self.progress.make_tasks_table([task]))


def stage_lines(console: Console) -> Progress:
    """Return the display that stages add their lines to."""
    return Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=10),
        _Numbers(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def silence() -> Iterator[None]:
    """Keep libraries from printing anything but errors; restore their levels afterwards."""
    verbosity = transformers_logging.get_verbosity()
    loggers = {logging.getLogger(name): level for name, level in _QUIET.items()}
    levels = {logger: logger.level for logger in loggers}
    bars = datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for logger, level in loggers.items():
        logger.setLevel(level)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for logger, level in levels.items():
            logger.setLevel(level)
        if not bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            transformers_logging.enable_progress_bar()
