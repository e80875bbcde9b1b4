"""Settings of the demo: data, training budget, and the recipe of every stage."""

from dataclasses import dataclass, field
from pathlib import Path

from hf_sparse.recipe.recipe import Recipe


@dataclass(frozen=True)
class Training:
    """Training of one stage: optimizer steps of `batch` texts each, and the peak learning rate."""

    steps: int
    learning_rate: float
    batch: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a stage trains at least 1 step, got {self.steps}; raise the budget")


@dataclass(frozen=True)
class Plan:
    """Sizes of the demo: training of every stage, tokens of a text, shape of a new model.

    Three models learn the task in equal steps: `task` the dense one, `transfer` the one pruned before,
    `finetune` the one that is pruned meanwhile. In a new model each has the learning rate of 5e-4, 1e-3 and
    2e-3 that is best over two seeds.
    """

    prepare: Training
    prune: Training
    task: Training
    transfer: Training
    finetune: Training
    quantize: Training
    length: int = 64
    vocabulary: int = 4096
    hidden: int = 128
    layers: int = 2
    # Rows used of any split at most; None means all.
    rows: int | None = None


def default_plan(new_model: bool) -> Plan:
    """Return a plan: minutes on two cores for a small new model, fewer steps for a pre-trained one."""
    if new_model:
        return Plan(
            prepare=Training(900, 1e-3, 16),
            prune=Training(700, 1e-3, 16),
            task=Training(700, 5e-4, 16),
            transfer=Training(700, 2e-3, 16),
            finetune=Training(700, 1e-3, 16),
            quantize=Training(250, 2e-4, 16),
        )
    return Plan(
        prepare=Training(200, 5e-5, 16),
        prune=Training(400, 1e-4, 16),
        task=Training(400, 5e-5, 32),
        transfer=Training(400, 1e-4, 32),
        finetune=Training(400, 1e-4, 32),
        quantize=Training(150, 2e-5, 32),
        length=128,
    )


def quick_plan() -> Plan:
    """Return a plan of some seconds, to see that everything works."""
    tiny = Training(8, 1e-3, 4)
    return Plan(tiny, tiny, tiny, tiny, tiny, tiny, length=16, vocabulary=512, hidden=32, layers=2, rows=64)


@dataclass(frozen=True)
class DemoSettings:
    """Settings that the user gives.

    `model`, `dataset` and `text` are Hub names, directories or files; None means the built-in ones. `budget`
    multiplies the steps of every stage.
    """

    output_dir: Path = Path("hf_sparse_demo")
    model: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    text: str | None = None
    sparsity: float = 0.9
    seed: int = 0
    budget: float = 1.0
    quick: bool = False
    plan: Plan = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity is a share between 0 and 1 such as 0.9, got {self.sparsity}")
        if not 0 < self.budget <= 1000:
            raise ValueError(
                f"the budget multiplies the steps; it is above 0, at most 1000, got {self.budget}"
            )
        if self.seed < 0:
            raise ValueError(f"a seed is at least 0, got {self.seed}")
        if self.dataset_config is not None and self.dataset is None:
            raise ValueError("a dataset configuration was given without a dataset; add --dataset-name")
        object.__setattr__(self, "plan", self._scaled())

    def _scaled(self) -> Plan:
        plan = quick_plan() if self.quick else default_plan(new_model=self.model is None)
        scaled = {
            name: Training(
                max(_FEWEST_STEPS, round(part.steps * self.budget)), part.learning_rate, part.batch
            )
            for name, part in vars(plan).items()
            if isinstance(part, Training)
        }
        return Plan(**(vars(plan) | scaled))

    @property
    def prune_recipe(self) -> Recipe:
        """Prune once, while pre-training, with the dense model as teacher; no weight is revived."""
        return Recipe.preset("prune_ofa_90").override([self._final, "sparsity.revive=false"])

    @property
    def transfer_recipe(self) -> Recipe:
        """Learn the task with the zeros locked."""
        return Recipe.preset("transfer")

    @property
    def finetune_recipe(self) -> Recipe:
        """Prune while learning the task, with the same teacher and to the same sparsity as the transfer."""
        distillation = self.transfer_recipe.to_dict()["distillation"]
        recipe = Recipe.preset("gmp_finetune").override([self._final])
        return Recipe.from_dict(recipe.to_dict() | {"distillation": distillation})

    @property
    def quantize_recipe(self) -> Recipe:
        """Train on while everything is rounded to 8 bits, embeddings too, with the zeros locked."""
        return Recipe.preset("transfer_int8").override(["quantization.embeddings=int8_per_channel"])

    @property
    def _final(self) -> str:
        return f"sparsity.schedule.final={self.sparsity}"


# Schedules are shares of a run, which need some steps.
_FEWEST_STEPS = 8
