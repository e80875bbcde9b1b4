"""The sections "Limits" and "Licence": what to know before relying on the model."""

from hf_sparse.hub.cards.escaping import code, hub_link, plain
from hf_sparse.hub.cards.facts import Facts, Scores
from hf_sparse.report.scores import chance, title


def limits(facts: Facts) -> str:
    """Return a list of what the measurements do not cover."""
    return "\n".join(f"- {limit}" for limit in _limits(facts))


def _limits(facts: Facts) -> list[str]:
    found = []
    if facts.scores is not None:
        found.append(_certainty(facts, facts.scores))
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


def _certainty(facts: Facts, scores: Scores) -> str:
    seed = facts.stages[-1].arguments.get("seed") if facts.stages else None
    runs = "Scores are of one run" + ("" if seed is None else f", seed {plain(seed)}")
    if scores.samples is None:
        return f"{runs}; on how many examples was not recorded."
    name, value = next(iter(scores.values.items()))
    error = chance(name, value, scores.samples, facts.task)
    luck = (
        f": by chance alone other examples would move the {plain(title(name))} by about {error}"
        if error
        else ""
    )
    return f"{runs}, on {scores.samples:,} examples{luck}."


def license_terms(facts: Facts) -> str:
    """Return the licence of the model, or where to ask for it."""
    if facts.license is not None:
        return f"{plain(facts.license)}."
    if facts.base_model is not None:
        where = hub_link(facts.base_model)
        return f"None was stated with this model; follow the licence of its base model, {where}."
    return "None was stated with this model; ask who published it."
