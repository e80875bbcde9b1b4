"""The section "What is in it": zeros, bits and sizes of the weights."""

from hf_sparse.hub.card.card_data import Facts, Quantization
from hf_sparse.hub.card.escape import code, plain
from hf_sparse.hub.card.tables import Rows, layers, markdown, paragraphs, percent, picture
from hf_sparse.units import size


def contents(facts: Facts) -> str:
    """Return zeros and bits in sentences, and the sizes of the files in a table."""
    sized = facts.files[0].sizes is not None and facts.small_by_design
    return paragraphs(
        _weights(facts),
        picture(facts, "sparsity.png", "Share of zeros in every weight, by layer"),
        markdown(_table(facts)) if sized else "",
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


def _table(facts: Facts) -> Rows:
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
