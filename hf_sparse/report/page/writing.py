"""The page as a directory: `report.html`, and every figure as a PNG beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import hf_sparse
from hf_sparse.atomic.directories import replacing_directory
from hf_sparse.atomic.files import write_atomically
from hf_sparse.checkpoint.companions import holds_only
from hf_sparse.report.comparison import Comparison, comparison_as_dict
from hf_sparse.report.heatmap import sparsity_figure
from hf_sparse.report.measured import MeasuredRun, lines_of, measure_run, names_of, teachers_of
from hf_sparse.report.page.canvas import Picture, entitle, to_svg
from hf_sparse.report.page.cells import heat_maps
from hf_sparse.report.page.colours import COLOURS, STEPS, shades
from hf_sparse.report.page.content import Page, file_name, page_of, split_lines
from hf_sparse.report.page.curves import curves
from hf_sparse.report.page.scatter import scatters
from hf_sparse.report.page.stages import stages_figure
from hf_sparse.report.pictures import write_png
from hf_sparse.report.run import Run

PAGE = "report.html"


@dataclass(frozen=True)
class Material:
    """What a page is made of: all runs that are compared, and the lines of stages among them."""

    comparison: Comparison
    lines: Sequence[Sequence[MeasuredRun]]

    @property
    def stages(self) -> list[MeasuredRun]:
        return list({run.name: run for line in self.lines for run in line}.values())


@dataclass(frozen=True)
class _Figures:
    """Pictures with their elements, by where they stand."""

    comparison: Sequence[tuple[Picture, Markup]]
    runs: dict[str, Sequence[tuple[Picture, Markup]]]


def collect(runs: Sequence[Run]) -> Material:
    """Measure runs with those that they started from and that taught them, as far as they are here."""
    lines = lines_of(runs)
    stages = [run for line in lines for run in line]
    known = {run.directory.resolve(): run for run in [*stages, *teachers_of(stages)]}
    order = sorted(known.values(), key=lambda run: (run.record or {}).get("date") or "")
    measured = dict(
        zip((run.directory.resolve() for run in order), map(measure_run, order, names_of(order)), strict=True)
    )
    chosen = [[measured[run.directory.resolve()] for run in line] for line in lines]
    return Material(Comparison(tuple(measured.values())), chosen)


def material_as_dict(material: Material) -> dict[str, Any]:
    """Return what the page is made of as JSON takes it; a logged number that is not finite gives None."""
    return comparison_as_dict(material.comparison) | {
        "lines": [[run.name for run in line] for line in material.lines],
        "logs": {
            run.name: [
                {key: value if isfinite(value) else None for key, value in row.items()} for row in run.run.log
            ]
            for run in material.stages
        },
    }


def write_page(material: Material, directory: Path) -> list[str]:
    """Write the page and its pictures, in place of an earlier page; return the names of the files.

    Raises `ValueError` if the directory holds something else, or if matplotlib is not installed.
    """
    page = page_of(material.comparison, material.lines)
    with replacing_directory(directory, _is_ours) as staged:
        figures = _draw(material, staged)
        write_atomically(staged / PAGE, _render(page, figures).encode(errors="replace"))
        return sorted(path.name for path in staged.iterdir())


def _is_ours(directory: Path) -> bool:
    return (directory / PAGE).is_file() and holds_only(directory, PAGE, "*.png")


def _draw(material: Material, directory: Path) -> _Figures:
    lines, _ = split_lines(material.lines)
    numbers = {run.name: number for number, run in material.comparison.numbered}
    stages = [stages_figure(line, f"stages-{number}", numbers) for number, line in enumerate(lines, start=1)]
    shared = [*(picture for picture in stages if picture is not None), *scatters(material.comparison)]
    found = _Figures([_keep(picture, "", directory) for picture in shared], {})
    for number, run in enumerate(material.stages, start=1):
        home = f"{number}-{file_name(run.name)}-" if len(material.stages) > 1 else ""
        found.runs[run.name] = [
            _keep(
                Picture(f"{home}{picture.name}", picture.title, picture.caption, picture.figure),
                f"{run.name}: ",
                directory,
            )
            for picture in curves(run)
        ]
        if heat_maps(run.weights)[0]:
            write_png(sparsity_figure(run.weights, f"{run.name}: zeros (%)"), directory / f"{home}layers.png")
    return found


def _keep(picture: Picture, before: str, directory: Path) -> tuple[Picture, Markup]:
    """Write a picture as PNG, its title after what tells it from others; return its element."""
    element = Markup(to_svg(picture))
    if entitle(picture.figure, f"{before}{picture.title}") == 1:
        # Laying out takes as long as drawing, and what is drawn has its place by now.
        picture.figure.set_layout_engine("none")
    write_png(picture.figure, directory / f"{picture.name}.png")
    return picture, element


def _render(page: Page, figures: _Figures) -> str:
    environment = Environment(
        loader=PackageLoader("hf_sparse.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html.jinja").render(
        page=page,
        figures=figures,
        headings=[
            name
            for name in (page.rows[0].cells if page.rows else ())
            if any(row.cells[name] for row in page.rows)
        ],
        colours=COLOURS,
        light_shades=shades(dark=False),
        dark_shades=shades(dark=True),
        last_shade=STEPS,
        version=hf_sparse.__version__,
    )


def _breakable(text: str) -> Markup:
    """Let a long name break after its dots and underscores."""
    return escape(text).replace(".", Markup(".<wbr>")).replace("_", Markup("_<wbr>"))
