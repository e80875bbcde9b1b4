"""Layers are mapped as published, and only to layers that exist."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_sparse.distillation.layer_map import chosen_pairs, layer_map


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (4, 12, {1: 3, 2: 6, 3: 9, 4: 12}),
        (6, 12, {1: 2, 2: 4, 3: 6, 4: 8, 5: 10, 6: 12}),
        (3, 3, {1: 1, 2: 2, 3: 3}),
        (4, 2, {1: 1, 2: 1, 3: 2, 4: 2}),
    ],
)
def test_uniform_spreads_the_teachers_layers(student: int, teacher: int, expected: dict[int, int]) -> None:
    assert layer_map("uniform", student, teacher) == expected


@given(st.integers(1, 48), st.integers(1, 48))
def test_uniform_stays_within_the_teacher_in_order_to_the_end(student: int, teacher: int) -> None:
    mapped = list(layer_map("uniform", student, teacher).values())
    assert mapped == sorted(mapped)
    assert len(mapped) == student
    assert mapped[0] >= 1
    assert mapped[-1] == teacher


def test_last_maps_the_last_layers() -> None:
    assert layer_map("last", 4, 12) == {4: 12}


def test_a_mapping_is_taken_as_it_is() -> None:
    assert layer_map({1: 12, 3: 1}, 4, 12) == {1: 12, 3: 1}
    assert layer_map({0: 0}, 4, 12, lowest=0) == {0: 0}


@pytest.mark.parametrize(
    ("layers", "lowest", "message"),
    [
        ({5: 12}, 1, "layer 5 of the student does not exist; its layers are 1 to 4, counted from 1"),
        ({4: 13}, 1, "layer 13 of the teacher does not exist; its layers are 1 to 12"),
        ({0: 1}, 1, "layer 0 of the student does not exist; its layers are 1 to 4"),
        ({1: 13}, 0, "layer 13 of the teacher does not exist; its layers are 0 to 12"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers: dict[int, int], lowest: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_map(layers, 4, 12, lowest)


def test_pairs_of_two_depths_are_told_unless_somebody_chose_them() -> None:
    (said,) = chosen_pairs("uniform", 3, 12)
    assert "3 layers of the student and 12 of the teacher" in said and "1 from 4, 2 from 8, 3 from 12" in said
    (said,) = chosen_pairs("last", 3, 12)
    assert "by layers: last, 3 from 12; a mapping" in said
    assert chosen_pairs({1: 4}, 3, 12) == chosen_pairs("uniform", 3, 3) == ()
