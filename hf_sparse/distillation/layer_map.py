"""Which layer of the student learns from which layer of the teacher."""

from collections.abc import Mapping

CHOICES = ("uniform", "last")


def layer_map(layers: str | Mapping[int, int], student: int, teacher: int, lowest: int = 1) -> dict[int, int]:
    """Map student layers to teacher layers, both counted from 1.

    Args:
        layers: `uniform`: layer m learns from round(m * teacher / student), as in TinyBERT (Jiao et al. 2020,
            arXiv:1909.10351, section 3). `last`: the last layer learns from the last. A mapping is checked
            and returned as it is.
        student: The number of layers of the student.
        teacher: The number of layers of the teacher.
        lowest: The lowest layer that a mapping may name; 0 for the embeddings.

    Raises:
        ValueError: A mapping names a layer outside of a model, or `layers` is another string.
    """
    if layers == "last":
        return {student: teacher}
    if layers == "uniform":
        return {layer: max(round(layer * teacher / student), 1) for layer in range(1, student + 1)}
    if isinstance(layers, str):
        raise ValueError(f"layers is {' or '.join(CHOICES)} or a mapping such as {{1: 2}}, got {layers!r}")
    for role, wanted, last in (("student", layers.keys(), student), ("teacher", layers.values(), teacher)):
        wrong = [layer for layer in wanted if not lowest <= layer <= last]
        if wrong:
            raise ValueError(
                f"layer {wrong[0]} of the {role} does not exist; its layers are {lowest} to {last}, counted "
                "from 1"
            )
    return dict(layers)


def chosen_pairs(layers: str | Mapping[int, int], student: int, teacher: int) -> tuple[str, ...]:
    """Describe the pairs that a rule has chosen for models of different depths; empty in all other cases."""
    if student == teacher or not isinstance(layers, str):
        return ()
    pairs = [f"{layer} from {source}" for layer, source in layer_map(layers, student, teacher).items()]
    return (
        f"{student} layers of the student and {teacher} of the teacher are paired by layers: {layers}, "
        f"{', '.join(pairs)}; a mapping pairs others",
    )
