"""The sections "What is in it", "How it was made", "Limits" and "License" of a card."""

from collections.abc import Callable

import yaml

from hf_sparse.hub.card.card_data import Facts, Quantization, Scores, Stage
from hf_sparse.hub.card.escape import code, fenced, hub_link, plain
from hf_sparse.hub.card.tables import Rows, layers, markdown, paragraphs, percent, picture
from hf_sparse.runs.score_text import chance, title
from hf_sparse.units import size


def contents(facts: Facts) -> str:
    """Return zeros and bits in sentences, and the sizes of the files in a table."""
    sized = facts.files[0].sizes is not None and facts.small_by_design
    return paragraphs(
        _weights(facts),
        picture(facts, "sparsity.png", "Share of zeros in every weight, by layer"),
        markdown(_sizes_table(facts)) if sized else "",
        _about_sizes(facts) if sized else "",
    )


def _weights(facts: Facts) -> str:
    """Return how many weights are zero, in which pattern, and how the others are rounded."""
    found, said = facts.zeros, []
    where = f"in the {found.matrices} matrices of the {layers(facts)}"
    if facts.sparse:
        asked = None if found.asked is None else percent(found.asked)
        kept = asked == percent(found.share)
        pattern = f", pattern {plain(found.pattern)}" if found.pattern else ""
        said.append(
            f"{found.zeros:,} of the {found.weights:,} weights {where} are zero "
            f"({percent(found.share)}{', as asked for' if kept else ''}{pattern})."
        )
        if found.asked and found.achieved is not None and not kept:
            said.append(f"{asked} were asked for, {percent(found.achieved)} were removed.")
    else:
        said.append(f"Nothing was removed from the {found.weights:,} weights {where}.")
    if facts.quantization is not None:
        said.append(_schemes(facts, facts.quantization))
    elif facts.files[0].form == "compressed-tensors":
        said.append("`quantization_config` in `config.json` describes how weights are rounded.")
    return " ".join(said)


def _schemes(facts: Facts, held: Quantization) -> str:
    inputs = "" if held.activations == "none" else f", inputs {code(held.activations)}"
    embeddings = f", embeddings {code(held.embeddings)}" if held.embeddings else ""
    more = facts.zeros.rounded
    rounding = ""
    if more is not None and round(more, 3) > round(facts.zeros.share, 3):
        rounding = f" Rounding makes more zeros: {percent(more)} in all."
    return f"Weights are rounded as {code(held.weights)}{inputs}{embeddings}.{rounding}"


def _sizes_table(facts: Facts) -> Rows:
    """Return every form of the files beside float32, in bytes and as papers count."""
    rows: Rows = [("", "dense, float32", "here", "times smaller", "as papers count")]
    for files in facts.files:
        form = "floats" if files.form == "plain" else files.form
        if (found := files.sizes) is None:
            rows.append((f"{form}, whole model", "", size(files.bytes), "", ""))
            continue
        rows += [
            (f"{form}, whole model", size(found.dense_bytes), size(files.bytes), _times(found.ratio), ""),
            (
                f"{form}, {layers(facts)} alone",
                size(found.encoder_dense_bytes),
                size(found.encoder_bytes + found.scale_bytes),
                _times(found.encoder_ratio),
                _times(found.counted_ratio),
            ),
        ]
    return rows


def _about_sizes(facts: Facts) -> str:
    """Return what the two ways of counting in the table mean."""
    said = "Sizes are of the files, with scales and positions, compared with 4 bytes per number."
    forms = {files.form for files in facts.files}
    if facts.sparse and forms - {"packed"}:
        said += (
            " Only packed files omit zeros." if "packed" in forms else " Zeros take up room in these files."
        )
    return f"{said} The last column counts as papers do: the bits of the non-zero weights alone."


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < float("inf") else ""


# Values at which a setting changes nothing.
_OFF = (None, False, 0, 0.0)


def runs(facts: Facts) -> str:
    """Return the runs in one sentence, and folded below it their settings, recipes and environment."""
    if not facts.stages:
        return ""
    return paragraphs(
        _made(facts),
        "<details>\n<summary>How to reproduce it: settings, recipes, hardware, versions</summary>",
        markdown(_runs_table(facts)),
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


def _runs_table(facts: Facts) -> Rows:
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


def limits(facts: Facts) -> str:
    """Return a list of what the measurements do not cover."""
    return "\n".join(f"- {limit}" for limit in _limits(facts))


def _limits(facts: Facts) -> list[str]:
    found = []
    if facts.scores is not None:
        found.append(_certainty(facts, facts.scores))
    if len(facts.language) == 1:
        found.append(f"It was trained and measured on {code(facts.language[0])} only.")
    if facts.sparse:
        found.append(
            "Only hf_sparse's runtime skips zeros. In PyTorch and ONNX Runtime the model is not faster than "
            "a dense one with as many bits."
        )
    held = facts.quantization
    if held is not None and held.activations == "uint8_per_tensor":
        found.append(
            "Inputs of its layers are rounded to 8 bits within ranges that were fixed in training; values "
            "outside, which other kinds of text may give, are clipped."
        )
    if held is not None and facts.scores is not None:
        found.append("Scores were measured in PyTorch, which simulates the rounding.")
    if facts.latencies:
        found.append("Latencies hold only for the processor, the input sizes and the versions named above.")
    elif facts.sparse or held is not None:
        found.append("Its speed was not measured; `hf-sparse benchmark` measures it on your machine.")
    if facts.scores is None:
        found.append("Its quality was not measured.")
    return found


def _certainty(facts: Facts, scores: Scores) -> str:
    seed = facts.stages[-1].arguments.get("seed") if facts.stages else None
    runs = "Scores are of one run" + ("" if seed is None else f" (seed {plain(seed)})")
    if scores.samples is None:
        return f"{runs}; the number of examples was not recorded."
    name, value = next(iter(scores.values.items()))
    error = chance(name, value, scores.samples, facts.task)
    standard = f"; the standard error of the {plain(title(name))} is {error}" if error else ""
    return f"{runs} on {scores.samples:,} examples{standard}."


def license_terms(facts: Facts) -> str:
    """Return the license of the model, or where to ask for it."""
    if facts.license is not None:
        return f"{plain(facts.license)}."
    if facts.base_model is not None:
        where = hub_link(facts.base_model)
        return f"No license was stated; follow the license of its base model, {where}."
    return "No license was stated; ask the author of the model."
