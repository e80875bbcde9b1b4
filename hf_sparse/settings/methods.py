"""What a recipe says about one pruning method."""

from typing import Annotated

from hf_sparse.settings.values import Factor, Part, Point, one_of


class GroupLassoRecipe(Part):
    """How groups are made small before they are removed; see `GroupLasso`.

    Without a `strength`, proximal steps begin with one that would do at an even pace, gradients with 1e-4.
    With `spare` only groups are pushed that would be removed now.
    """

    step: Annotated[str, one_of(("proximal", "gradient"))] = "proximal"
    strength: Factor | None = None
    adapt: bool = True
    spare: bool = True
    epsilon: Factor = 1e-3
    threshold: Factor = 0.1
    refresh: Point = "5%"
    every: Point = "1%"


class MovementRecipe(Part):
    """How scores are learned, and in soft movement drawn below a threshold; see `ScorePenalty`."""

    learning_rate: Factor = 1e-2
    strength: Factor = 1.0
    adapt: bool = True
    threshold: Factor = 0.1
    every: Point = "1%"


# The settings that only some methods have.
PARTS = {"group_lasso": ("group_lasso",), "movement": ("movement", "soft_movement")}
