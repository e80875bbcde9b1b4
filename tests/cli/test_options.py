"""One name for each option, over all commands and scripts; old names go on working."""

import importlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import pytest
import typer
from transformers import TrainingArguments

from hf_sparse.cli.main import app
from hf_sparse.cli.options import OLD_OPTIONS, OLD_OPTIONS_OF_SCRIPTS, with_new_keys, with_new_options
from tests.cli.commands import lines, run
from tests.support.tiny import bert

ROOT = Path(__file__).resolve().parents[2]
# Endings that make no other thing of a name: `batch` would be `batch_size`, `dataset` be `dataset_name`.
ENDINGS = ("_dir", "_id", "_kwargs", "_message", "_name", "_name_or_path", "_names", "_size", "_type")
TRAINING = {field.name for field in fields(TrainingArguments)}


@dataclass(frozen=True)
class Option:
    """An option of a command or a script."""

    name: str
    owner: str
    help: str
    kind: str

    @property
    def subject(self) -> str:
        """Return the help up to the first comma, colon or full stop."""
        return re.split(r"[:;,.]", self.help)[0].lower()


def of_commands() -> Iterator[Option]:
    callbacks = [info.callback for info in app.registered_commands]
    hints = {callback.__name__.replace("_", "-"): get_type_hints(callback) for callback in callbacks}
    for owner, command in typer.main.get_command(app).commands.items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                (long,) = parameter.opts
                name = long.removeprefix("--").replace("-", "_")
                annotation = hints[owner][parameter.name]
                yield Option(name, owner, parameter.help, str(annotation | None))


def of_scripts() -> Iterator[Option]:
    """Yield the options that scripts add to those of `TrainingArguments`."""
    common = importlib.import_module("common")
    for path in sorted((ROOT / "scripts").glob("run_*.py")):
        module = importlib.import_module(path.stem)
        kinds = {value for name, value in vars(module).items() if name.endswith("Arguments")}
        for kind in {*kinds, common.ModelArguments, common.ScriptArguments} - {TrainingArguments}:
            for field in fields(kind):
                yield Option(field.name, path.stem, field.metadata.get("help", ""), "")


@pytest.fixture(scope="module")
def options() -> list[Option]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        return [*of_commands(), *of_scripts()]


def by(options: list[Option], key: str, value: str) -> Mapping[str, set[str]]:
    found = defaultdict(set)
    for option in options:
        found[getattr(option, key)].add(getattr(option, value))
    return found


def test_every_option_is_explained_in_whole_phrases(options: list[Option]) -> None:
    assert [option for option in options if not re.fullmatch(r"[A-Z].*\.", option.help)] == []
    assert len({option.owner for option in options}) == len(app.registered_commands) + 3


def test_what_has_one_meaning_has_one_name(options: list[Option]) -> None:
    names = by(options, "subject", "name")
    assert {text: found for text, found in names.items() if len(found) > 1} == {}


def test_what_has_one_name_has_one_meaning(options: list[Option]) -> None:
    # Those of TrainingArguments mean in commands what they mean there.
    meanings = by([option for option in options if option.name not in TRAINING], "name", "subject")
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}
    kinds = by(list(of_commands()), "name", "kind")
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_no_name_is_another_with_an_ending(options: list[Option]) -> None:
    names = {option.name for option in options} | TRAINING
    twins = {(name, other) for name in names for ending in ENDINGS if (other := name + ending) in names}
    assert {pair for pair in twins if not set(pair) <= TRAINING} == set()


def test_the_options_of_a_run_have_the_names_of_its_scripts(options: list[Option]) -> None:
    of_plan = {option.name for option in options if option.owner == "plan"}
    of_scripts = {option.name for option in options if option.owner.startswith("run_")}
    assert of_plan - of_scripts - TRAINING == {"json", "model_option", "png", "processes", "speed"}


OLD = [(command, old, new) for command, names in OLD_OPTIONS.items() for old, new in names.items()]


@pytest.mark.parametrize(("command", "old", "new"), OLD)
def test_an_old_name_is_read_as_the_new_one_with_a_warning(command: str, old: str, new: str) -> None:
    group = typer.main.get_command(app).commands[command]
    known = {option for parameter in group.params for option in parameter.opts}
    assert new in known and old not in known
    with pytest.warns(FutureWarning, match=f"^{re.escape(old)} is an old name; write {re.escape(new)}$"):
        words = list(with_new_options([old, "1", f"{old}=2"], OLD_OPTIONS[command]))
    assert words == [new, "1", f"{new}=2"]


def test_a_value_behind_two_dashes_is_no_option(recwarn: pytest.WarningsRecorder) -> None:
    assert list(with_new_options(["--", "--to"], {"--to": "--format"})) == ["--", "--to"]
    assert len(recwarn) == 0


def test_commands_run_with_old_names(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="--steps is an old name; write --max-steps"):
        old = lines("plan", "gmp_finetune", "--set", "sparsity.schedule.final=0.5", "--steps", 10, "--json")
    new = ["--recipe-override", "sparsity.schedule.final=0.5", "--max-steps", 10, "--json"]
    assert lines("plan", "gmp_finetune", *new) == old
    # As scripts write them.
    assert lines("plan", "gmp_finetune", *(str(word).replace("max-s", "max_s") for word in new)) == old
    bert(num_hidden_layers=1).save_pretrained(tmp_path / "model")
    with pytest.warns(FutureWarning, match="--to is an old name; write --format"):
        assert "choose one of onnx, openvino" in run("export", tmp_path / "model", "out", "--to", "x").output


def test_an_old_name_in_a_script_is_read_as_the_new_one(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="--text_column_names is an old name; write --text-column"):
        assert list(with_new_options(["--text_column_names"], OLD_OPTIONS_OF_SCRIPTS)) == ["--text-column"]
    with pytest.warns(FutureWarning, match="^text_column_names is an old name; write text_column$"):
        found = with_new_keys({"text_column_names": ["a"], "seed": 1}, OLD_OPTIONS_OF_SCRIPTS)
    assert found == {"text_column": ["a"], "seed": 1}


def test_settings_of_the_schedule_may_be_json_as_for_scripts() -> None:
    plan = ["plan", "gmp_finetune", "--max-steps", 10, "--lr-scheduler-type", "cosine_with_min_lr", "--json"]
    one = json.loads(lines(*plan, "--lr-scheduler-kwargs", "min_lr_rate=0.1")[-1])
    assert json.loads(lines(*plan, "--lr-scheduler-kwargs", '{"min_lr_rate": 0.1}')[-1]) == one
    wrong = run(*plan, "--lr-scheduler-kwargs", "{min_lr_rate}")
    assert wrong.exit_code == 1 and "write an object, or KEY=VALUE" in wrong.stderr


def test_the_page_names_every_old_name_with_the_new_one() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[\w`, ]+`) \| (`--[^|]+) \| (`--[^|]+) \|$", page, re.MULTILINE)
    shown = {
        (command.strip("`"), old.strip("`"), new.strip("`"))
        for commands, olds, news in rows
        for command in commands.split(", ")
        for old, new in zip(olds.split(", "), news.split(", "), strict=True)
    }
    assert shown == set(OLD)
