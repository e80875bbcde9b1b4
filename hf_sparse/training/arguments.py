"""The command-line arguments a script adds to its `HfArgumentParser`."""

from dataclasses import dataclass, field
from pathlib import Path

from hf_sparse.distillation.teacher_cache import TeacherCache
from hf_sparse.recipe.recipe import Recipe, preset_names


@dataclass
class SparseArguments:
    """Recipe and teacher of a run, as fields for `HfArgumentParser((TrainingArguments, SparseArguments))`.

    Attributes:
        recipe: Name of a preset, or path of a recipe in YAML. None, with no other field, prunes nothing.
        recipe_override: Assignments of dotted keys, such as `sparsity.schedule.final=0.85`.
        sparsity: Final share of removed weights, in [0, 1). Without a recipe it means the preset
            `gmp_finetune`.
        pattern: `unstructured`, or the rows x columns of blocks, such as `4x1`.
        quantize: Scheme of weights: `int8`, `int4`, or a full name such as `int4_group_32`.
        teacher_name_or_path: Model to distill from.
        teacher_cache: Directory that keeps the teacher's outputs, so that each example is computed once.
        teacher_cache_top_k, teacher_cache_states, teacher_cache_half: See `TeacherCache`; a `top_k` of 0
            keeps all logits.
        allow_schedule_change: See `SparseTrainerMixin`.
    """

    recipe: str | None = field(
        default=None,
        metadata={"help": "Recipe: name of a preset, or YAML file; nothing is pruned by default."},
    )
    recipe_override: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Changes to the recipe, such as sparsity.schedule.final=0.85 or distillation=null."
        },
    )
    sparsity: float | None = field(
        default=None,
        metadata={
            "help": "Share of weights to remove, between 0 and 1; alone it means the preset gmp_finetune."
        },
    )
    pattern: str | None = field(
        default=None,
        metadata={
            "help": "Pattern of the zeros: unstructured, blocks of rows x columns such as 4x1; with --recipe "
            "or --sparsity."
        },
    )
    quantize: str | None = field(
        default=None,
        metadata={
            "help": "Quantize as well, with this scheme of the weights: int8, int4 or another such as "
            "int4_group_32."
        },
    )
    teacher_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Model to distill from, if the recipe has distillation: Hub name or directory."},
    )
    teacher_cache: str | None = field(
        default=None,
        metadata={
            "help": "Directory that keeps the teacher's outputs, so that later epochs and runs read them."
        },
    )
    teacher_cache_top_k: int = field(
        default=TeacherCache.top_k or 0,
        metadata={
            "help": "Of the logits of a token, keep so many largest ones and the mass of the rest; 0: all."
        },
    )
    teacher_cache_states: bool = field(
        default=False,
        metadata={"help": "Keep the hidden states, attention or relations that the recipe compares, too."},
    )
    teacher_cache_half: bool = field(
        default=False, metadata={"help": "Round what the teacher cache keeps to float16."}
    )
    allow_schedule_change: bool = field(
        default=False,
        metadata={
            "help": "Let a resumed run change schedule, length or training arguments; sparsity never falls."
        },
    )

    def build_recipe(self) -> Recipe:
        """Return the recipe that these arguments describe.

        Returns:
            The checked recipe, empty if no argument asks for anything.

        Raises:
            ValueError: They contradict each other, or the recipe is neither a preset nor a valid file.
        """
        if self.recipe is None and self.sparsity is None:
            self._check_changes()
        assignments = list(self.recipe_override)
        if self.quantize is not None:
            scheme = _SHORT.get(self.quantize, self.quantize)
            assignments.insert(0, f"quantization.weights={scheme}")
        if self.sparsity is not None:
            assignments.insert(0, f"sparsity.schedule.final={self.sparsity}")
        if self.pattern is not None:
            assignments.insert(0, f"sparsity.pattern={self.pattern}")
        return self._base().override(assignments)

    def build_teacher_cache(self) -> TeacherCache | None:
        """Return the cache that these arguments describe.

        Returns:
            The cache, None without a directory.

        Raises:
            ValueError: Its settings are given without a directory, or are out of range.
        """
        cache = TeacherCache(
            "unused" if self.teacher_cache is None else self.teacher_cache,
            top_k=self.teacher_cache_top_k or None,
            states=self.teacher_cache_states,
            half=self.teacher_cache_half,
        )
        if self.teacher_cache is not None:
            return cache
        settings = ("top_k", "states", "half")
        if changed := [name for name in settings if getattr(cache, name) != getattr(TeacherCache, name)]:
            raise ValueError(
                f"--teacher_cache_{changed[0]} is about a teacher cache, and none is given; add "
                "--teacher_cache DIRECTORY, or leave it out"
            )
        return None

    def _check_changes(self) -> None:
        if self.pattern is not None:
            raise ValueError("--pattern changes a recipe, and none is given; add --recipe or --sparsity")
        if self.recipe_override and self.quantize is None:
            raise ValueError(
                "--recipe_override changes a recipe, and none is given; add --recipe, --sparsity or "
                "--quantize"
            )

    def _base(self) -> Recipe:
        if self.recipe is None:
            return Recipe() if self.sparsity is None else Recipe.preset("gmp_finetune")
        if self.recipe in preset_names():
            return Recipe.preset(self.recipe)
        if not Path(self.recipe).is_file():
            raise ValueError(
                f"recipe {self.recipe} is neither a file nor a preset; presets are "
                f"{', '.join(preset_names())}"
            )
        return Recipe.from_yaml(self.recipe)


_SHORT = {"int8": "int8_per_channel", "int4": "int4_per_channel"}
