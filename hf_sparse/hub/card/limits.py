"""The sections "Limits" and "Licence": what to know before relying on the model."""

from hf_sparse.hub.card.card_data import Facts, Scores
from hf_sparse.hub.card.escape import code, hub_link, plain
from hf_sparse.runs.score_text import chance, title


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
    """Return the licence of the model, or where to ask for it."""
    if facts.license is not None:
        return f"{plain(facts.license)}."
    if facts.base_model is not None:
        where = hub_link(facts.base_model)
        return f"No licence was stated; follow the licence of its base model, {where}."
    return "No licence was stated; ask the author of the model."
