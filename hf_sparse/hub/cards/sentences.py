"""What a card says in sentences, each true of the facts at hand and left out where they are missing."""

from hf_sparse.hub.cards.escaping import code, hub_link, plain
from hf_sparse.hub.cards.facts import Facts, Files, Latency
from hf_sparse.hub.cards.metadata import on_the_hub
from hf_sparse.hub.cards.tables import dense_title, layers
from hf_sparse.report.scores import chance, compared, lower_is_better, title, written

_KINDS = {
    "text-classification": "text classifier",
    "token-classification": "classifier of words",
    "question-answering": "model that finds answers in a text",
    "fill-mask": "masked language model",
    "text-generation": "language model",
}
# As `report.latency`: with less than this there is no gain to speak of.
_GAIN = 1.05


def summary(facts: Facts) -> str:
    """Say what the model is, with what was measured of it."""
    kind = _KINDS.get(facts.task or "", "model")
    size_of = f", {facts.parameters / 1e6:,.2f} million parameters"
    made = [part for part in (_removed(facts), _rounded(facts)) if part]
    first = f"A {kind} ({code(facts.architecture)}{size_of}){' with ' + ' and '.join(made) if made else ''}."
    return " ".join([first, *_measured(facts)])


def labels(facts: Facts) -> str:
    """Name the classes that a classifier tells apart."""
    return f"It tells {len(facts.labels)} classes apart: {', '.join(map(plain, facts.labels))}."


def _removed(facts: Facts) -> str | None:
    return (
        f"**{_percent(facts.zeros.share)} of its {layers(facts)}'s weights removed**"
        if facts.sparse
        else None
    )


def _rounded(facts: Facts) -> str | None:
    if facts.quantization is None:
        return None
    what = "the others" if facts.sparse else f"its {layers(facts)}'s weights"
    return f"{what} in **{facts.quantization.bits} bits**"


def _measured(facts: Facts) -> list[str]:
    found = []
    if facts.scores is not None:
        name, value = next(iter(facts.scores.values.items()))
        score = f"{plain(title(name))} is **{written(name, value, facts.task, 1)}**"
        before = facts.dense and facts.dense.scores.values.get(name)
        beside = f", {compared(name, before, value, facts.task)} its {dense_title(facts)}" if before else ""
        found.append(f"Its {score}{beside}.")
    small = facts.small
    if small.sizes is not None and small.sizes.ratio >= _GAIN:
        form = f" ({small.form})" if len(facts.files) > 1 else ""
        found.append(f"Its weight file{form} is **{small.sizes.ratio:.1f} times smaller** than as float32.")
    if facts.latencies and (speed := _speed(facts.latencies[0])):
        found.append(speed)
    return found


def _speed(latency: Latency) -> str | None:
    best, rival = latency.best, latency.rival
    if best is None or rival is None or not latency.gain:
        return None
    times = f"{rival.median_ms / best.median_ms:.1f} times as fast"
    return (
        f"On {_threads(latency)} of {_article(latency.processor)} it is **{times}** in hf_sparse's runtime "
        f"as in {plain(rival.name)}."
    )


def scored(facts: Facts) -> str:
    """Say what the scores were measured on and which files say so."""
    where = [f"{code(facts.scores.file)} of the run"]
    if facts.dense is not None:
        where.append(f"{code(facts.dense.scores.file)} of {code(facts.dense.name)}")
    on = _examples(facts)
    lower = [plain(title(name)) for name in facts.scores.values if lower_is_better(name)]
    better = f" Lower is better of {', '.join(lower)}." if lower else ""
    return f"Scores are {on}from {' and '.join(where)}.{better}"


def _examples(facts: Facts) -> str:
    count = f"{facts.scores.samples:,} examples" if facts.scores.samples is not None else ""
    data = _data(facts)
    joined = " of ".join(part for part in (count, data) if part)
    return f"on {joined}, " if joined else ""


def _data(facts: Facts) -> str:
    if facts.dataset is None:
        return ""
    name = hub_link(facts.dataset, "datasets/") if on_the_hub(facts.dataset) else plain(facts.dataset)
    more = [plain(part) for part in (facts.config, facts.split) if part]
    return f"{name} ({', '.join(more)})" if more else name


def zeros(facts: Facts) -> str:
    """Say how many weights are zero, in which pattern, how they are rounded."""
    found, said = facts.zeros, []
    share = f"{found.zeros:,} of the {found.weights:,} weights"
    where = f"in the {found.matrices} matrices of the {layers(facts)}"
    if facts.sparse:
        asked = found.asked and _percent(found.asked)
        kept = asked == _percent(found.share)
        pattern = f", pattern {plain(found.pattern)}" if found.pattern else ""
        said.append(
            f"{share} {where} are zero ({_percent(found.share)}{', as asked for' if kept else ''}{pattern})."
        )
        if asked and not kept:
            said.append(f"{asked} were asked for, {_percent(found.achieved)} were removed.")
    else:
        said.append(f"Nothing was removed from the {found.weights:,} weights {where}.")
    if facts.quantization is not None:
        said.append(_schemes(facts))
    elif facts.files[0].form == "compressed-tensors":
        said.append("How weights are rounded is said in `quantization_config` of `config.json`.")
    return " ".join(said)


def _schemes(facts: Facts) -> str:
    held = facts.quantization
    inputs = "" if held.activations == "none" else f", inputs {code(held.activations)}"
    embeddings = f", embeddings {code(held.embeddings)}" if held.embeddings else ""
    more = facts.zeros.rounded
    sparser = more is not None and round(more, 3) > round(facts.zeros.share, 3)
    rounding = f" Rounding makes more zeros: {_percent(more)} in all." if sparser else ""
    return f"Weights are rounded as {code(held.weights)}{inputs}{embeddings}.{rounding}"


def sizes(facts: Facts) -> str:
    """Say what the two ways to count mean."""
    said = "Sizes are those of the files, scales and positions included, against 4 bytes a number."
    if any(files.form != "packed" for files in facts.files) and facts.sparse:
        said += (
            " Only packed files leave zeros out." if _packed(facts) else " Zeros take room in these files."
        )
    return (
        f"{said} Papers count the bits of the weights that are not zero and nothing else, hence the last "
        "column."
    )


def _packed(facts: Facts) -> Files | None:
    return next((files for files in facts.files if files.form == "packed"), None)


def machine(latency: Latency) -> str:
    """Say on what latencies were measured and of what."""
    cores = "1 core" if latency.cores == 1 else f"{latency.cores} cores"
    kernels = f", hf_sparse's kernels for {plain(latency.kernels)}" if latency.kernels else ""
    timed = [row.name.lower().replace(" ", "") for row in latency.rows]
    others = [name for name in ("onnxruntime", "openvino") if any(row.startswith(name) for row in timed)]
    names = ("hf_sparse", "torch", "transformers", *others)
    software = ", ".join(
        f"{name} {plain(latency.versions[name])}" for name in names if name in latency.versions
    )
    tokens = "1 token" if latency.length == 1 else f"{latency.length} tokens"
    texts = "one text" if latency.batch == 1 else f"batches of {latency.batch} texts"
    return (
        f"Measured on {_article(latency.processor)} ({cores}{kernels}), {_threads(latency)}, {texts} of "
        f"{tokens}; {software}. {code(latency.file)}:"
    )


def verdict(latency: Latency) -> str:
    """Say whether the runtime is worth while, what was not measured, what differences are."""
    notes = [f"{plain(row.name)}: {plain(row.note)}" for row in latency.rows if row.note]
    notes += [f"Not measured: {plain(name)}: {plain(reason)}." for name, reason in latency.missing.items()]
    reference = plain(latency.reference)
    differ = f"In the last column is the largest difference of any output from that of {reference}."
    said = "" if latency.gain else f"{plain(latency.verdict)} "
    return " ".join([f"{said}{differ}", *notes])


def limits(facts: Facts) -> list[str]:
    """Return what somebody must know who would rely on the model."""
    found = []
    if facts.scores is not None:
        found.append(_certainty(facts))
    if len(facts.language) == 1:
        found.append(f"It was trained and measured on {code(facts.language[0])} alone.")
    if facts.sparse:
        found.append(
            "Zeros make it fast only in hf_sparse's runtime. PyTorch and ONNX Runtime compute with them as "
            "with any number: there it is no faster than a dense model of the same bits."
        )
    held = facts.quantization
    if held is not None and held.activations == "uint8_per_tensor":
        found.append(
            "Inputs of its layers are rounded to 8 bits over ranges that were fixed in training; what lies "
            "outside, as texts of another kind may give, is clipped."
        )
    if held is not None and facts.scores is not None:
        found.append("Scores were measured in PyTorch, which simulates the rounding.")
    if facts.latencies:
        found.append("Latencies hold for the processor, the sizes and the versions named, and for no others.")
    elif facts.sparse or held is not None:
        found.append("How fast it is was not measured. `hf-sparse benchmark` does that on your machine.")
    if facts.scores is None:
        found.append("How good it is was not measured.")
    return found


def _certainty(facts: Facts) -> str:
    samples = facts.scores.samples
    seed = facts.stages[-1].arguments.get("seed") if facts.stages else None
    runs = "Scores are of one run" + ("" if seed is None else f", seed {plain(seed)}")
    if samples is None:
        return f"{runs}; on how many examples was not recorded."
    name, value = next(iter(facts.scores.values.items()))
    error = chance(name, value, samples, facts.task)
    luck = (
        f": by chance alone other examples would move the {plain(title(name))} by about {error}"
        if error
        else ""
    )
    return f"{runs}, on {samples:,} examples{luck}."


def licence(facts: Facts) -> str:
    """Say under which licence the model is, or that nobody said so."""
    if facts.licence is not None:
        return f"{plain(facts.licence)}."
    if facts.base_model is not None:
        where = hub_link(facts.base_model)
        return f"None was stated with this model; follow the licence of its base model, {where}."
    return "None was stated with this model; ask who published it."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _threads(latency: Latency) -> str:
    return "one thread" if latency.threads == 1 else f"{latency.threads} threads"


def _article(processor: str) -> str:
    return f"{'an' if processor[:1].upper() in 'AEIOU' else 'a'} {plain(processor)}"
