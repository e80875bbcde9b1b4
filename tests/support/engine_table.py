"""What each engine that trains over several processes can do: cases, engines, and what is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hf_sparse import Recipe


@dataclass(frozen=True)
class Case:
    """A recipe by what it does; `assignments` are its settings, `width` is the hidden size of the teacher."""

    method: str = ""
    pattern: str = ""
    distillation: str = ""
    quantization: str = ""
    assignments: tuple[str, ...] = ()
    width: int = 32

    @property
    def recipe(self) -> Recipe:
        """The recipe of the case."""
        parts: dict[str, Any] = {}
        if self.method == "lock":
            parts["sparsity"] = {"method": "lock"}
        elif self.method:
            # N:M knows one sparsity alone.
            final = 0.5 if ":" in self.pattern else 0.6
            begin = final if ":" in self.pattern else 0.0 if self.trained else 0.3
            schedule = {"initial": begin, "final": final, "ramp_end": 2, "every": 1}
            method = self.method.split()[0]
            parts["sparsity"] = {"method": method, "pattern": self.pattern, "schedule": schedule}
            if self.trained:
                # Scores and groups are made ready in training.
                schedule["begin"] = 1
        if self.distillation:
            parts["distillation"] = {"task": 0.3, "logits": 0.7}
            if (term := self.distillation.split()[0]) != "logits":
                parts["distillation"][term] = 0.5
        if self.quantization:
            parts["quantization"] = {"weights": self.quantization.split()[0]}
        return Recipe.from_dict(parts).override(self.assignments)

    @property
    def trained(self) -> bool:
        """Whether the method has to train before it removes anything."""
        return self.method.split()[:1] not in ([], ["magnitude"], ["lock"])

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.method, self.pattern, self.distillation, self.quantization)))


def _cases() -> list[Case]:
    patterns = ("unstructured", "1x4", "4x4", "2:4", "row", "column", "row/8")
    revived = Case("magnitude with revival", "unstructured", assignments=("sparsity.revive=true",))
    both = {"distillation": "logits", "quantization": "int8_per_channel"}
    return [
        *(Case("magnitude", pattern) for pattern in patterns),
        Case("magnitude ranked over all layers", "1x4", assignments=("sparsity.allocation=global",)),
        revived,
        Case("group_lasso", "4x4"),
        Case("group_lasso", "row"),
        Case("movement", "unstructured"),
        Case("soft_movement", "unstructured"),
        Case("lock"),
        Case(distillation="logits"),
        Case(distillation="hidden"),
        Case(distillation="attention"),
        Case(distillation="relations"),
        Case(distillation="hidden of another width", width=48),
        Case(quantization="int8_per_channel"),
        Case(
            quantization="int8_per_channel of embeddings too",
            assignments=("quantization.embeddings=int8_per_channel",),
        ),
        Case(quantization="int4_group_32"),
        Case("magnitude with revival", "1x4", **both, assignments=("sparsity.revive=true",)),
        Case("group_lasso", "4x4", **both),
        Case("lock", **both),
    ]


CASES: Mapping[str, Case] = MappingProxyType({str(case): case for case in _cases()})


@dataclass(frozen=True)
class Engine:
    """A way to train.

    Attributes:
        name: Its column in the table.
        chosen: How it is chosen.
        processes: How many of them the tests start.
        refused: The reason by the names of the cases that it refuses.
        stage: Stage of DeepSpeed ZeRO; None without DeepSpeed.
    """

    name: str
    chosen: str
    processes: int
    refused: Mapping[str, str] = field(default_factory=dict)
    stage: int | None = None


_SCORES = "scores join the optimizer, and accelerate saves its state for the model's own parameters alone"
_LEARNED = dict.fromkeys(("movement, unstructured", "soft_movement, unstructured"), _SCORES)
_PROJECTED = {"hidden of another width": "projections to that width join the optimizer, as scores do"}
_STEPS = "the method changes gradients or weights at every step, and DeepSpeed holds both in parts"
_REMEMBERED = "revival needs the values of removed weights at every step, which ZeRO-3 holds in parts"
_OPTIMIZER = "projections to that width would have to join the optimizer of DeepSpeed"
_ZERO = dict.fromkeys((name for name, case in CASES.items() if case.trained), _STEPS) | {
    "hidden of another width": _OPTIMIZER
}
_ZERO_3 = _ZERO | dict.fromkeys((name for name in CASES if "revival" in name), _REMEMBERED)
ENGINES = {
    engine.name: engine
    for engine in (
        Engine("one process", "`python train.py`", 1),
        Engine("DDP", "`torchrun train.py`", 2),
        Engine("FSDP2", "`torchrun train.py --fsdp`, version 2", 2, _LEARNED | _PROJECTED),
        Engine("FSDP2 at load time", "`from_pretrained(distributed_config=...)`", 2, _LEARNED),
        Engine("ZeRO-1", "`deepspeed=`, stage 1", 2, _ZERO, 1),
        Engine("ZeRO-2", "`deepspeed=`, stage 2", 2, _ZERO, 2),
        Engine("ZeRO-3", "`deepspeed=`, stage 3", 2, _ZERO_3, 3),
    )
}


def table() -> list[str]:
    """Return the lines of the table of engines in the documentation."""
    lines = [
        "| method | pattern | distillation | quantization | " + " | ".join(ENGINES) + " |",
        "|---" * (4 + len(ENGINES)) + "|",
    ]
    reasons: list[str] = []
    for name, case in CASES.items():
        cells = []
        for engine in ENGINES.values():
            reason = engine.refused.get(name)
            if reason is not None and reason not in reasons:
                reasons.append(reason)
            cells.append("works" if reason is None else f"refused ({1 + reasons.index(reason)})")
        own = (case.method, case.pattern, case.distillation, case.quantization)
        lines.append("| " + " | ".join([*own, *cells]) + " |")
    return [*lines, "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))]
