"""The sections "How to load it" and "How fast it is" of a card."""

from dataclasses import dataclass
from math import isfinite

from hf_sparse.hub.card.card_data import Facts
from hf_sparse.hub.card.escape import argument, code, fenced, literal, plain
from hf_sparse.hub.card.tables import Rows, markdown, paragraphs, picture
from hf_sparse.runs.latency import RUNTIMES, LatencyReport
from hf_sparse.units import counted, short, size

# The input of `pipeline` for each task of transformers that needs nothing but a text.
_TEXTS = {
    "text-classification": '"A text to classify."',
    "token-classification": '"A text with words to classify."',
    "text-generation": '"A text to go on with"',
    "fill-mask": 'f"A text with a {run.tokenizer.mask_token} in it."',
}
_HEADS = {
    f"For{head}": f"AutoModelFor{head}"
    for head in ("SequenceClassification", "QuestionAnswering", "MaskedLM", "TokenClassification", "CausalLM")
}


@dataclass(frozen=True)
class Way:
    """One way to load a model: its purpose, the language of its code, and the code.

    The card folds the `rare` ones.
    """

    purpose: str
    language: str
    code: str
    rare: bool = False


def loading(facts: Facts) -> str:
    """Return the code of every way, the rarer ones in a part that readers unfold."""
    ways = ways_to_load(facts)
    usual = [_shown(way) for way in ways if not way.rare]
    rare = [_shown(way) for way in ways if way.rare]
    folded = ["<details>\n<summary>Other ways</summary>", *rare, "</details>"] if rare else []
    return paragraphs(*usual, *folded)


def _shown(way: Way) -> str:
    return f"{way.purpose}:\n\n{fenced(way.code, way.language)}"


def ways_to_load(facts: Facts) -> list[Way]:
    """Return the ways to load a model, the most common first."""
    if not facts.stock:
        return [Way("With the code that defines its class", "python", _with_its_class(facts))]
    root, packed = facts.files[0], [files for files in facts.files if files.form == "packed"]
    ways = [] if root.form == "packed" else [_stock(facts, root.form)]
    if (packed or root.form == "plain") and _skips_zeros(facts):
        ways.append(_fast(facts, packed[0].folder if packed else "", bool(packed)))
    if packed:
        ways.append(_plugin(facts, packed[0].folder))
    if packed or root.form == "plain":
        ways.append(_onnx(facts, packed[0].folder if packed else ""))
    return ways


def _skips_zeros(facts: Facts) -> bool:
    """Return whether the runtime of hf_sparse speeds the model up: not with scales by group of inputs."""
    held = facts.quantization
    return facts.sparse if held is None else "group" not in held.weights


def _with_its_class(facts: Facts) -> str:
    return f"model = {_class(facts)}.from_pretrained({literal(facts.repo_id)}{_options(facts)})"


def _class(facts: Facts) -> str:
    return facts.architecture if facts.architecture.isidentifier() else "ItsClass"


def _stock(facts: Facts, form: str) -> Way:
    purpose = "With transformers alone" + (", which computes it in floats" if facts.quantization else "")
    if form == "compressed-tensors":
        purpose = "With transformers and `pip install compressed-tensors`" + _size(facts, form)
    if not facts.tokenizer or facts.task not in _TEXTS:
        return Way(purpose, "python", _from_pretrained(facts, ""))
    lines = [
        "from transformers import pipeline",
        "",
        f"repo = {literal(facts.repo_id)}",
        f'run = pipeline("{facts.task}", model=repo{_options(facts)})',
        f"print(run({_TEXTS[facts.task]}))",
    ]
    return Way(purpose, "python", "\n".join(lines))


def _fast(facts: Facts, folder: str, packed: bool) -> Way:
    rounded = "" if facts.quantization else ", whose runtime rounds the layers to 8 bits"
    purpose = f"Fast on a CPU, with hf_sparse installed{_size(facts, 'packed') if packed else rounded}"
    # `load` accepts a revision for packed files only.
    downloaded = facts.revision is not None and not packed
    place = f"snapshot_download(repo{_options(facts)})" if downloaded else f"repo{_options(facts, folder)}"
    lines = [
        *(["from huggingface_hub import snapshot_download"] if downloaded else []),
        "from hf_sparse.runtime import load",
        *(["from transformers import AutoTokenizer"] if facts.tokenizer else []),
        "",
        f"repo = {literal(facts.repo_id)}",
        f"model = load({place})",
    ]
    if facts.tokenizer:
        lines += [f"tokenizer = AutoTokenizer.from_pretrained(repo{_options(facts)})", *_answer(facts)]
    return Way(purpose, "python", "\n".join(lines))


def _size(facts: Facts, form: str) -> str:
    """Return the size of the file of a form in words, nothing if there is one file only."""
    taken = next(files.bytes for files in facts.files if files.form == form)
    return f", from the file of {size(taken)}" if len(facts.files) > 1 else ""


def _answer(facts: Facts) -> list[str]:
    """Return code that gives the model a text and prints its output; none for an unknown class."""
    if facts.architecture.endswith("ForQuestionAnswering"):
        return [
            'inputs = tokenizer("Who wrote it?", "Ada wrote it.", return_tensors="pt")',
            "outputs = model(**inputs)",
            "begin, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()",
            'print(tokenizer.decode(inputs["input_ids"][0, begin : end + 1]))',
        ]
    with_head = facts.architecture.endswith((*_HEADS, "LMHeadModel"))
    shown = "logits" if with_head else "last_hidden_state"
    if not with_head and facts.task != "feature-extraction":
        return []
    return [f'print(model(**tokenizer("A text.", return_tensors="pt")).{shown})']


def _plugin(facts: Facts, folder: str) -> Way:
    code = f"import hf_sparse  # now transformers reads packed files\n{_from_pretrained(facts, folder)}"
    purpose = "To train it further, from the packed file, with hf_sparse and transformers 5.23 or later"
    return Way(purpose, "python", code, rare=True)


def _onnx(facts: Facts, folder: str) -> Way:
    place = f"{facts.name}/{folder}" if folder else facts.name
    revision = f" --revision {argument(facts.revision)}" if facts.revision else ""
    code = (
        f"hf download {argument(facts.repo_id)}{revision} --local-dir {argument(facts.name)}\n"
        f"hf-sparse export {argument(place)} onnx --format onnx"
    )
    return Way("As ONNX, for ONNX Runtime and others", "bash", code, rare=True)


def _from_pretrained(facts: Facts, folder: str) -> str:
    found = (kind for ending, kind in _HEADS.items() if facts.architecture.endswith(ending))
    kind = next(found, _class(facts))
    names = sorted([kind, *(["AutoTokenizer"] if facts.tokenizer else [])])
    lines = [
        f"from transformers import {', '.join(names)}",
        "",
        f"repo = {literal(facts.repo_id)}",
        f"model = {kind}.from_pretrained(repo{_options(facts, folder)})",
    ]
    if facts.tokenizer:
        lines.append(f"tokenizer = AutoTokenizer.from_pretrained(repo{_options(facts)})")
    return "\n".join(lines)


def _options(facts: Facts, folder: str = "") -> str:
    """Return the keyword arguments for the folder and the revision of the files."""
    found = {"subfolder": folder, "revision": facts.revision}
    return "".join(f", {name}={literal(value)}" for name, value in found.items() if value)


def speed(facts: Facts) -> str:
    """Return what was measured, nothing if no latency was."""
    if not facts.latencies:
        return ""
    measured = [
        block
        for latency in facts.latencies
        for block in (_machine(latency), markdown(_table(latency)), _notes(latency))
    ]
    return paragraphs(*measured, picture(facts, "latency.png", "Median latency of every runtime"))


def times_as_fast(latency: LatencyReport) -> str | None:
    """Return one sentence with the speed-up over the fastest other runtime, None without a gain."""
    best, rival = latency.best, latency.rival
    if best is None or rival is None or not latency.gain:
        return None
    times = f"{rival.median_ms / best.median_ms:.1f} times as fast"
    return (
        f"On {_threads(latency)} of {_article(latency.conditions.processor)} it is **{times}** in "
        f"hf_sparse's runtime as in {plain(rival.name)}."
    )


def _machine(latency: LatencyReport) -> str:
    """Return the processor, the inputs and the versions that were measured."""
    on, versions = latency.conditions, latency.machine["versions"]
    cores = counted(on.cores, "core")
    kernels = f", hf_sparse's kernels for {plain(on.kernels)}" if on.kernels else ""
    timed = [row.name.lower().replace(" ", "") for row in latency.rows]
    others = [name for name in RUNTIMES if any(row.startswith(name) for row in timed)]
    names = ("hf_sparse", "torch", "transformers", *others)
    software = ", ".join(f"{name} {plain(versions[name])}" for name in names if name in versions)
    tokens = counted(latency.length, "token")
    texts = "one text" if latency.batch == 1 else f"batches of {latency.batch} texts"
    return (
        f"Measured on {_article(on.processor)} ({cores}{kernels}), {_threads(latency)}, {texts} of "
        f"{tokens}; {software}. {code(latency.file)}:"
    )


def _table(latency: LatencyReport) -> Rows:
    """Return a row for each runtime, the fastest first."""
    rows: Rows = [("", "median", "95th percentile", "texts per second", "weight memory", "difference")]
    for row in latency.ranked:
        cells = [
            plain(row.name),
            f"{short(row.median_ms)} ms",
            f"{short(row.p95_ms)} ms",
            f"{short(latency.per_second(row))}",
            size(row.weight_bytes),
            f"{row.difference:.1e}" if isfinite(row.difference) and row.name != latency.reference else "",
        ]
        rows.append([f"**{cell}**" if row.own and cell else cell for cell in cells])
    return rows


def _notes(latency: LatencyReport) -> str:
    """Return notes: the verdict without a gain, what differences mean, what was not measured."""
    notes = [f"{plain(row.name)}: {plain(row.note)}" for row in latency.rows if row.note]
    notes += [f"Not measured: {plain(name)}: {plain(reason)}." for name, reason in latency.missing.items()]
    reference = plain(latency.reference)
    differ = f"The last column is the largest difference of any output from that of {reference}."
    said = "" if latency.gain else f"{plain(latency.verdict)} "
    return " ".join([f"{said}{differ}", *notes])


def _threads(latency: LatencyReport) -> str:
    return "one thread" if latency.threads == 1 else f"{latency.threads} threads"


def _article(processor: str) -> str:
    return f"{'an' if processor[:1].upper() in 'AEIOU' else 'a'} {plain(processor)}"
