"""The page as files: what it holds, what it leaves out, where it goes."""

import re
from pathlib import Path

import pytest

from hf_sparse.report.page.write import write_page
from hf_sparse.runs.comparison import trace_runs
from hf_sparse.runs.measured_run import gather_runs
from tests.report.page.markup import Markup
from tests.report.runs import PRUNED, write_run


def page_of(out: Path, *runs: Path) -> tuple[Markup, list[str]]:
    files = write_page(trace_runs(gather_runs(runs)), out)
    return Markup((out / "report.html").read_text(encoding="utf-8")), files


def pipeline(home: Path) -> Path:
    """Write a dense run, one pruned from it, one trained from that; return the last."""
    dense = write_run(home / "dense", sparsity=0.0, accuracy=0.8, recipe={}, milliseconds=4.0)
    pruned = write_run(home / "pruned", base_model=str(dense), teacher=str(dense), date="2026-01-02")
    locked = {"sparsity": {"method": "lock"}, "quantization": {}}
    return write_run(
        home / "task", base_model=str(pruned), recipe=locked, milliseconds=2.0, date="2026-01-03", step=5
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Markup, list[str]]:
    """The page of a pipeline of three stages."""
    home = tmp_path_factory.mktemp("home")
    return page_of(home / "out", pipeline(home))


def test_a_run_is_shown_with_all_that_came_before_it(whole: tuple[Markup, list[str]]) -> None:
    page, _ = whole
    assert page.inside("h1") == ["task"]
    assert page.inside("h2") == ["Stages", "Side by side", "dense", "pruned", "task", "Machine and software"]
    for said in (
        "from random weights; trained without pruning",
        "from dense; pruned to 50 % by magnitude, unstructured; taught by dense",
        "from pruned; zeros locked; weights int8_per_channel, inputs uint8_per_tensor",
        "5 of 10",
        "1:15 min",
        "For comparison, dense: accuracy 0.8000",
        "Abacus",
    ):
        assert said in page.text.replace("\u00a0", " ")
    assert any("final: 0.5" in recipe for recipe in page.inside("pre"))


def test_every_figure_is_a_file_and_says_what_it_shows(whole: tuple[Markup, list[str]]) -> None:
    page, files = whole
    titles = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert titles[:2] == ["Stages up to task", "Accuracy against latency"]
    assert len(page.inside("figcaption")) == len(titles)
    assert {"stages-1.png", "latency.png", "2-pruned-loss.png", "2-pruned-layers.png"} <= set(files)
    assert len(files) == len(titles) + 2 + len(["report.html"])


def test_the_page_is_sound_and_asks_for_nothing(whole: tuple[Markup, list[str]]) -> None:
    page, _ = whole
    assert page.unbalanced == [] and page.open == []
    identifiers = page.values("id")
    assert len(set(identifiers)) == len(identifiers)
    links = [*page.values("href"), *page.values("src")]
    assert all(link.startswith("#") and link[1:] in identifiers for link in links if link != "data:,")
    assert {"script", "img", "iframe"} & {tag for tag, _ in page.elements} == set()
    assert any(value.startswith("default-src 'none'") for value in page.values("content"))


def test_the_zeros_of_every_layer_are_numbers_in_cells(whole: tuple[Markup, list[str]]) -> None:
    page, _ = whole
    cells = [attributes for tag, attributes in page.elements if tag == "td" and "class" in attributes]
    assert len([cell for cell in cells if re.fullmatch(r"s\d+", cell["class"])]) == 2 * 2 * 7
    assert page.inside("td").count("50.0") == 2 * 2 * 7


def test_what_is_not_there_leaves_no_heading(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", sparsity=None, accuracy=None, log=[], recipe={}, hardware={}, versions={}
    )
    (run / "hf_sparse_run.json").unlink()
    page, files = page_of(tmp_path / "out", run)
    assert files == ["report.html"] and page.inside("h2") == [] and page.inside("h3") == []
    assert "svg" not in {tag for tag, _ in page.elements}


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    name = '<b>&amp; "x" $y$ {{ z }}'
    page, files = page_of(tmp_path / "out", write_run(tmp_path / name))
    assert page.inside("h1") == [name] and "b" not in {tag for tag, _ in page.elements}
    assert "loss.png" in files and page.unbalanced == []


def test_names_that_differ_in_a_sign_alone_are_kept_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, sparsity=None) for name in ("a b", "a+b")]
    page, files = page_of(tmp_path / "out", *runs)
    assert len(set(page.values("id"))) == len(page.values("id")) and len(files) == 7


def test_runs_of_one_origin_stand_beside_each_other(tmp_path: Path) -> None:
    dense = write_run(tmp_path / "home" / "dense", sparsity=None, recipe={}, log=[])
    for name in "abc":
        write_run(tmp_path / "home" / name, sparsity=None, base_model=str(dense), log=[], recipe=PRUNED)
    page, _ = page_of(tmp_path / "out", tmp_path / "home")
    lists = [attributes["class"] for tag, attributes in page.elements if tag == "ol"]
    assert lists == ["line", "line alone"] and page.inside("h1") == ["4 runs"]


def test_an_earlier_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sparsity=None)
    page_of(tmp_path / "out", run)
    (tmp_path / "out" / "stale.png").touch()
    _, files = page_of(tmp_path / "out", run)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files and "stale.png" not in files
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.png").touch()
    with pytest.raises(ValueError, match="holds something else"):
        page_of(tmp_path / "mine", run)
    assert (tmp_path / "mine" / "holiday.png").exists()


def test_everything_drawn_is_in_the_json(tmp_path: Path) -> None:
    log = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}]
    found = trace_runs(gather_runs([write_run(tmp_path / "run", sparsity=None, log=log)])).to_dict()
    assert found["lines"] == [["run"]]
    assert found["logs"]["run"] == [{"step": 1, "loss": None}, {"step": 2, "loss": 1.0}]
