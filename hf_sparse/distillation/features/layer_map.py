"""Which layer of the student learns from which layer of the teacher."""

from collections.abc import Mapping

CHOICES = ("uniform", "last")


def layer_map(layers: str | Mapping[int, int], student: int, teacher: int, lowest: int = 1) -> dict[int, int]:
    """Map layers of a student of `student` layers to those of a teacher of `teacher` layers, from 1.

    `uniform`: layer m learns from round(m * teacher / student), as in TinyBERT (Jiao et al. 2020,
    arXiv:1909.10351, section 3). `last`: the last from the last. A mapping is checked and returned; its
    layers begin at `lowest`. Raises `ValueError` for layers that a model does not have.
    """
    if layers == "last":
        return {student: teacher}
    if layers == "uniform":
        return {layer: max(round(layer * teacher / student), 1) for layer in range(1, student + 1)}
    for who, wanted, last in (("student", layers.keys(), student), ("teacher", layers.values(), teacher)):
        wrong = [layer for layer in wanted if not lowest <= layer <= last]
        if wrong:
            raise ValueError(
                f"the {who} has no layer {wrong[0]} to compare; its layers are {lowest} to {last}, counted "
                "from 1"
            )
    return dict(layers)


def told_pairs(layers: str | Mapping[int, int], student: int, teacher: int) -> tuple[str, ...]:
    """Say which layer learns from which, where the depths differ and a rule has paired them."""
    if student == teacher or not isinstance(layers, str):
        return ()
    pairs = [f"{ours} from {theirs}" for ours, theirs in layer_map(layers, student, teacher).items()]
    return (
        f"{student} layers of the student and {teacher} of the teacher are paired by layers: {layers}, "
        f"{', '.join(pairs)}; a mapping pairs others",
    )
