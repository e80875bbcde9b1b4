"""The runner: what it does when a stage fails, when it was killed, when the machine is a new one."""

import fcntl
import json
from pathlib import Path

import pytest
import run
from stages import Places, read_plan

from tests.benchmarks.accuracy.fakes import LOSS, SCORES, leave_trained, options, write_plan, write_script


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path)
    monkeypatch.setattr(run, "SCRIPTS", tmp_path)
    monkeypatch.setattr(run, "_LOOK_EVERY", 0.05)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "work").mkdir()
    return Places("encoder", tmp_path / "data", tmp_path / "work")


def run_plan(places: Places, stages: dict[str, dict], **changes: object) -> int:
    plan = read_plan(write_plan(places.work.parent / "plan.yaml", **stages))
    return run.run(plan, places, options(places.work.parent, **changes))


def results(places: Places) -> set[str]:
    return {path.stem for path in (places.work.parent / "results").glob("*.json")}


def begun(places: Places) -> set[str]:
    return {path.name.removesuffix(".attempts.json") for path in places.work.glob("*.attempts.json")}


def command_line(places: Places, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    folder = places.work.parent
    given = ["--encoder", "encoder", "--data", folder / "data", "--work", places.work]
    given += ["--plan", folder / "plan.yaml", "--results", folder / "results", *words]
    monkeypatch.setattr("sys.argv", ["run.py", *map(str, given)])
    run.main()


def test_others_go_on_where_a_stage_fails(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    stages = {
        "bad": {"arguments": {"fail": 3}},
        "after": {"start": "bad"},
        "good": {},
        "last": {"start": "good"},
    }
    assert run_plan(places, stages) == 1
    assert results(places) == {"good", "last"}
    assert begun(places) == {"bad", "good", "last"}
    said = capsys.readouterr().out
    assert (
        "bad failed with exit code 3; see bad.log" in said and "after waits for a stage that failed" in said
    )


def test_others_go_on_where_results_cannot_be_written(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_trained(places.output("bad"), loss=LOSS | {"loss": float("nan")})
    assert run_plan(places, {"bad": {}, "good": {}}) == 1
    assert results(places) == {"good"} and not places.stands("bad")
    assert "bad is trained, but its results could not be written" in capsys.readouterr().out


def test_a_stage_that_ended_without_its_runner_is_not_trained_again(places: Places) -> None:
    """The runner was killed after the process ended, before it wrote results; there is no checkpoint."""
    leave_trained(places.output("one"))
    assert run_plan(places, {"one": {}}) == 0
    assert results(places) == {"one"} and begun(places) == set()


def test_a_stage_whose_results_were_not_published_yet_is_not_trained_again(places: Places) -> None:
    """The runner was killed between the results beside the model and the published ones."""
    assert run_plan(places, {"one": {}}) == 0
    written = places.work.parent / "results" / "one.json"
    content = written.read_bytes()
    written.unlink()
    assert run_plan(places, {"one": {}}) == 0
    assert written.read_bytes() == content
    assert json.loads(content)["rows"][0]["attempts"] == 1


def test_results_are_written_once(places: Places) -> None:
    stages = {"one": {}, "two": {"start": "one"}}
    assert run_plan(places, stages) == 0
    written = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in places.work.rglob("*.json")}
    assert run_plan(places, stages) == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in written} == written


def test_a_model_in_part_without_a_checkpoint_is_moved_away(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        leave_trained(places.output("one"))
        (places.output("one") / "all_results.json").write_text("{")
        assert run_plan(places, {"one": {}}) == 0
        places.ending("one").unlink()
        (places.work.parent / "results" / "one.json").unlink()
    assert (places.work / "one.aside-1" / "model.safetensors").exists()
    assert (places.work / "one.aside-2" / "model.safetensors").exists()
    assert "one had a model in part, without a checkpoint" in capsys.readouterr().out


def test_a_model_with_a_checkpoint_stays(places: Places) -> None:
    (places.output("one") / "checkpoint-3").mkdir(parents=True)
    (places.output("one") / "config.json").write_text("{}")
    assert run.set_aside(places.output("one")) is None


def test_a_new_machine_makes_what_is_needed_and_keeps_what_is_published(places: Places) -> None:
    stages = {"unneeded": {}, "one": {}, "two": {"start": "one"}}
    (places.work.parent / "results").mkdir()
    for name in ("unneeded", "one"):
        (places.work.parent / "results" / f"{name}.json").write_text("published")
    assert run_plan(places, stages) == 0
    assert begun(places) == {"one", "two"}
    assert (places.work.parent / "results" / "one.json").read_text() == "published"
    assert "two" in results(places)


def test_only_some_are_run(places: Places) -> None:
    assert run_plan(places, {"one": {}, "two": {"start": "one"}, "three": {}}, only=["two"]) == 0
    assert results(places) == {"one", "two"}


def test_a_stage_is_run_elsewhere_and_brought_back(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {"one": {}, "two": {"start": "one", "arguments": {"fail": 3}}}
    there = Places("encoder", tmp_path / "data", tmp_path / "there" / "work")
    assert run_plan(places, stages, only=["one"]) == 0
    capsys.readouterr()
    command_line(places, monkeypatch, "--needs", "two")
    needed = capsys.readouterr().out.split()
    assert needed[-1] == "one/stage.json" and "one/model.safetensors" in needed
    copy(needed, places, there)
    assert run_plan(there, {"one": {}, "two": {"start": "one"}}, only=["two"]) == 0
    assert begun(there) == {"two"}
    copy(there.files("two"), there, places)
    assert run_plan(places, stages) == 0
    assert results(places) == {"one", "two"} and begun(places) == {"one"}
    command_line(places, monkeypatch, "--needs", "one")
    assert capsys.readouterr().out.splitlines()[-1].split()[1:4] == ["two", "is", "done:"]


def copy(files: list[str], here: Places, there: Places) -> None:
    for file in files:
        (there.work / file).parent.mkdir(parents=True, exist_ok=True)
        (there.work / file).write_bytes((here.work / file).read_bytes())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "none"), "stage none is not in the plan, which has one"),
        (("--made", "one"), "stage one is not finished in .*; run it first, with --only one"),
        (("--jobs", "0"), "2"),
    ],
)
def test_what_cannot_be_done_is_said(
    places: Places, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    write_plan(places.work.parent / "plan.yaml", one={})
    with pytest.raises(SystemExit, match=message):
        command_line(places, monkeypatch, *words)


def test_two_runners_do_not_work_in_one_directory(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plan(places.work.parent / "plan.yaml", one={})
    with (places.work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="another runner works in .*/work; wait for it"):
            command_line(places, monkeypatch)
    assert begun(places) == set()


def test_the_plan_is_listed_with_what_is_measured(
    places: Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {"upstream90_1M_lr1e-3": {"recipe": "transfer"}, "two": {"start": "upstream90_1M_lr1e-3"}}
    assert run_plan(places, stages, only=["upstream90_1M_lr1e-3"]) == 0
    capsys.readouterr()
    command_line(places, monkeypatch, "--list")
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [cell.strip() for cell in lines[0].split("│")[1:-1]] == [
        "upstream90_1M_lr1e-3",
        "ENCODER",
        "0.00 M",
        "0.0",
        f"{SCORES['eval_accuracy']:.4f}",
        "yes",
    ]
    assert len(lines) == 2
