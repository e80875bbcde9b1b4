"""The plan of the accuracy study: stages as data, with the stages they start from and their commands."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ENCODER = "ENCODER"
# The sparse model of this repository, relative to its root, where stages are started.
STARTER, _STARTER = "STARTER", "models/minilm-wiki-sparse90"
_KEYS = {"script", "start", "teacher", "data", "recipe", "override", "seed", "arguments", "group", "distance"}
_NAME = re.compile(r"[A-Za-z0-9_-]+")
# Other contents of the work directory.
_TAKEN = {ENCODER, STARTER, "datasets", "lock"}
# The same for every stage; checkpoints are so frequent that a kill costs a few minutes.
_COMMON = {
    "do_train": True,
    "do_eval": True,
    "save_steps": 200,
    "save_total_limit": 1,
    "logging_steps": 100,
    "per_device_eval_batch_size": 64,
    "disable_tqdm": True,
    "report_to": "none",
}


@dataclass(frozen=True)
class Stage:
    """One training run of the study.

    `start` and `teacher` are names of other stages, ENCODER, the dense encoder that all comes from, or
    STARTER, the sparse one that this repository holds. `data` names a folder of the data directory.
    `distance`: measure afterwards how far the states of each layer are from those of the encoder, on pairs of
    these. `group` is what a figure calls the arm.
    """

    name: str
    script: str
    start: str
    data: str
    teacher: str | None = None
    recipe: str | None = None
    override: tuple[str, ...] = ()
    seed: int = 42
    arguments: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    distance: Mapping[str, Any] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The stages whose models it reads, in the order of use."""
        return tuple(
            name for name in dict.fromkeys((self.start, self.teacher)) if name not in (None, ENCODER, STARTER)
        )

    def command(self, places: "Places", scripts: Path) -> list[str]:
        """Return its command line: the script with its arguments, without the interpreter."""
        words = [str(scripts / f"{self.script}.py"), "--model_name_or_path", places.model(self.start)]
        words += ["--dataset_name", places.data(self.data), "--output_dir", str(places.output(self.name))]
        if self.teacher is not None:
            words += ["--teacher_name_or_path", places.model(self.teacher)]
        if self.recipe is not None:
            words += ["--recipe", self.recipe]
        if self.override:
            words += ["--recipe_override", *self.override]
        for name, value in {**_COMMON, "seed": self.seed, **self.arguments}.items():
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        return words


@dataclass(frozen=True)
class Places:
    """The places of data, encoder and models on this machine."""

    encoder: str
    data_directory: Path
    work: Path

    def model(self, name: str) -> str:
        return {ENCODER: self.encoder, STARTER: _STARTER}.get(name) or str(self.output(name))

    def data(self, name: str) -> str:
        return str(self.data_directory / name)

    def output(self, name: str) -> Path:
        return self.work / name

    def attempts(self, name: str) -> Path:
        return self.work / f"{name}.attempts.json"

    def ending(self, name: str) -> Path:
        """Return the last file that is written of a stage: its results, beside its model."""
        return self.output(name) / "stage.json"

    def stands(self, name: str) -> bool:
        """Return whether a stage has left a finished model here."""
        return name in (ENCODER, STARTER) or self.ending(name).is_file()

    def files(self, name: str) -> list[str]:
        """Return the files of a finished stage, relative to the work directory: the model, no checkpoint.

        The one that tells a finished stage comes last, since a copy may be interrupted.
        """
        if not self.stands(name):
            raise ValueError(f"stage {name} is not finished in {self.work}; run it first, with --only {name}")
        last = self.ending(name)
        made = [path for path in sorted(self.output(name).iterdir()) if path.is_file() and path != last]
        # The file holds a pickle of the machine's settings, and stages do not read it.
        made = [path for path in made if path.name != "training_args.bin"]
        return [str(path.relative_to(self.work)) for path in (*made, last)]


class _PlanLoader(yaml.SafeLoader):
    """YAML with aliases, which recipes may not have, and with numbers as recipes have them: 1e-4 is one."""

    # Of its own: they are shared with every other user of PyYAML otherwise.
    yaml_implicit_resolvers = {
        first: [*kinds] for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_PlanLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"\d+(\.\d*)?[eE][-+]?\d+$"), list("0123456789")
)


def read_plan(path: Path) -> dict[str, Stage]:
    """Read a plan: under `stages` a mapping from names, each of which may only need earlier ones.

    Raises:
        ValueError: A stage has an unknown key, lacks one, or needs a stage that is not above it.
    """
    plan = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlanLoader)
    if not isinstance(plan, Mapping) or not isinstance(plan.get("stages"), Mapping):
        raise ValueError(f"{path.name} lacks stages; write under stages: a mapping from names")
    stages: dict[str, Stage] = {}
    for name, given in plan["stages"].items():
        values = given or {}
        if name in _TAKEN or not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be a stage, which gives its name to a directory; take letters, digits, - "
                f"and _, and none of {', '.join(sorted(_TAKEN))}"
            )
        if unknown := sorted(set(values) - _KEYS):
            raise ValueError(
                f"stage {name} has an unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}"
            )
        if missing := [key for key in ("script", "start", "data") if key not in values]:
            raise ValueError(f"stage {name} lacks {missing[0]}; add it to {path.name}")
        if isinstance(values.get("override"), str):
            raise ValueError(
                f"override of stage {name} is a list of assignments; write [{values['override']}]"
            )
        if not isinstance(values.get("arguments", {}), Mapping):
            raise ValueError(f"arguments of stage {name} are a mapping, got {values['arguments']!r}")
        stage = Stage(name, **(values | {"override": tuple(values.get("override", ()))}))
        if wanting := [need for need in stage.needs if need not in stages]:
            raise ValueError(f"stage {name} needs {wanting[0]}, which is not above it in {path.name}")
        stages[name] = stage
    return stages


def to_make(
    stages: Mapping[str, Stage], places: Places, results: Path, only: Collection[str] | None = None
) -> list[str]:
    """Return what is still to be run, of all stages or some, each after what it needs.

    A stage is finished once its results are published; its model is made again where a later one needs it and
    it no longer lies here.
    """
    wanted: dict[str, None] = {}

    def want(name: str) -> None:
        if name in wanted or places.stands(name):
            return
        for need in stages[name].needs:
            want(need)
        wanted[name] = None

    for name in only or stages:
        if not (results / f"{name}.json").is_file():
            for need in stages[name].needs:
                want(need)
            wanted.setdefault(name)
    return list(wanted)


def read_finished(results: Path) -> dict[str, dict[str, Any]]:
    """Read what has been measured so far, by the name of the stage."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))
    }
