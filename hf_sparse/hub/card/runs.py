"""The section "How it was made": the runs that led to a model, with all that repeats them."""

from collections.abc import Callable

import yaml

from hf_sparse.hub.card.card_data import Facts, Stage
from hf_sparse.hub.card.escape import code, fenced, hub_link, plain
from hf_sparse.hub.card.tables import Rows, markdown, paragraphs, picture

# Values at which a setting changes nothing.
_OFF = (None, False, 0, 0.0)


def runs(facts: Facts) -> str:
    """Return the runs in one sentence, and folded below it their settings, recipes and environment."""
    if not facts.stages:
        return ""
    return paragraphs(
        _made(facts),
        "<details>\n<summary>How to reproduce it: settings, recipes, hardware, versions</summary>",
        markdown(_table(facts)),
        _shared_settings(facts),
        *_environments(facts),
        "The recipes, for `SparseTrainer(..., recipe=Recipe.from_yaml(file))` or `--recipe file` "
        "of the scripts:",
        *[block for stage in facts.stages if stage.recipe for block in (code(stage.name), _recipe(stage))],
        picture(facts, "training.png", "Loss, zeros and learning rate of the last run, by step"),
        "</details>",
    )


def _recipe(stage: Stage) -> str:
    return fenced(yaml.safe_dump(dict(stage.recipe), sort_keys=False).rstrip(), "yaml")


def _made(facts: Facts) -> str:
    """Return what the model started from and the runs that followed, in one sentence."""
    first = facts.stages[0]
    if facts.base_model is not None:
        start = hub_link(facts.base_model)
    else:
        start = code(first.base_model) if first.base_model else "a new model with random weights"
    chain = " → ".join(code(stage.name) for stage in facts.stages)
    times = [stage.seconds for stage in facts.stages if stage.seconds is not None]
    whole = len(times) == len(facts.stages)
    took = f", {_duration(sum(times))} of training in all" if whole else ""
    runs = "one run" if len(facts.stages) == 1 else f"{len(facts.stages)} runs"
    return f"Made from {start} in {runs} of hf_sparse{took}: {chain}."


def _table(facts: Facts) -> Rows:
    """Return the runs side by side: models they started and learned from, data, settings that differ."""
    stages = facts.stages
    rows: Rows = [("", *(code(stage.name) for stage in stages))]
    parts: dict[str, Callable[[Stage], str]] = {
        "starts from": lambda stage: code(stage.base_model) if stage.base_model else "random weights",
        "teacher": lambda stage: code(stage.teacher) if stage.teacher else "",
        "data": _data,
        "examples": lambda stage: "" if stage.train_samples is None else f"{stage.train_samples:,}",
        "steps": lambda stage: f"{stage.step:,}",
    }
    own = {name: lambda stage, name=name: _value(stage, name) for name in _settings(facts) - _common(facts)}
    parts |= {name: own[name] for name in sorted(own)}
    parts["took"] = lambda stage: "" if stage.seconds is None else _duration(stage.seconds)
    for name, part in parts.items():
        if any(cells := [part(stage) for stage in stages]):
            rows.append((plain(name), *cells))
    return rows


def _shared_settings(facts: Facts) -> str:
    """Return the settings that all runs have in common, in one sentence."""
    last = facts.stages[-1]
    common = _common(facts)
    said = ", ".join(f"{plain(name)} {_value(last, name)}" for name in last.arguments if name in common)
    return f"{'Settings' if len(facts.stages) == 1 else 'Settings of all runs'}: {said}." if said else ""


def _environments(facts: Facts) -> list[str]:
    """Return hardware and versions, once if all runs have them in common, else for each run."""
    stages = facts.stages
    if len({(str(stage.hardware), str(stage.versions)) for stage in stages}) == 1:
        return [_environment(stages[-1])]
    return [f"{code(stage.name)}: {_environment(stage)}" for stage in stages]


def _environment(stage: Stage) -> str:
    """Return hardware and versions of a run, in one sentence."""
    hardware = stage.hardware
    parts = [plain(hardware[name]) for name in ("accelerator", "processor", "system") if name in hardware]
    if (count := hardware.get("torch_threads")) is not None:
        parts.append("1 thread" if count == 1 else f"{plain(count)} threads")
    software = ", ".join(f"{plain(name)} {plain(number)}" for name, number in stage.versions.items())
    return f"Made on {', '.join(parts)}, with {software}."


def _settings(facts: Facts) -> set[str]:
    """Return the names of the settings that any run has a value for."""
    return {name for stage in facts.stages for name in stage.arguments if _value(stage, name)}


def _common(facts: Facts) -> set[str]:
    first = facts.stages[0]
    return {
        name
        for name in _settings(facts)
        if all(_value(stage, name) == _value(first, name) for stage in facts.stages)
    }


def _value(stage: Stage, name: str) -> str:
    value = stage.arguments.get(name)
    # 0 is a seed like any other.
    if value in _OFF and name != "seed":
        return ""
    return f"{value:g}" if isinstance(value, float) else plain(value)


def _data(stage: Stage) -> str:
    found = [stage.facts[name] for name in ("dataset", "config") if name in stage.facts]
    return ", ".join(", ".join(map(plain, said)) if isinstance(said, list) else plain(said) for said in found)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
