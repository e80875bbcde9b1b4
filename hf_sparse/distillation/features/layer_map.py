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
