"""The page as a directory: `report.html`, and every figure as a PNG beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import hf_sparse
from hf_sparse.atomic.directories import replacing_directory
from hf_sparse.atomic.files import write_atomically
from hf_sparse.checkpoint.companions import holds_only
from hf_sparse.report.colors import COLORS, STEPS, shades
from hf_sparse.report.grid import arrange
from hf_sparse.report.heatmap import sparsity_figure
from hf_sparse.report.page.canvas import Picture, entitle, to_svg
from hf_sparse.report.page.content import Page, file_name, page_of, split_lines
from hf_sparse.report.page.curves import curves, stages_figure
from hf_sparse.report.page.scatter import scatters
from hf_sparse.report.pictures import write_png
from hf_sparse.runs.comparison import Lineage

PAGE = "report.html"


@dataclass(frozen=True)
class _Figures:
    """Pictures with their SVG elements: those of the comparison, and those of each run."""

    comparison: Sequence[tuple[Picture, Markup]]
    runs: dict[str, Sequence[tuple[Picture, Markup]]]


def write_page(lineage: Lineage, directory: Path) -> list[str]:
    """Write the page and its pictures, replacing an earlier page; return the names of the files.

    Raises `ValueError` if the directory holds anything else, or if matplotlib is not installed.
    """
    page = page_of(lineage.comparison, lineage.lines)
    with replacing_directory(directory, _is_ours) as staged:
        figures = _draw(lineage, staged)
        write_atomically(staged / PAGE, _render(page, figures).encode(errors="replace"))
        return sorted(path.name for path in staged.iterdir())


def _is_ours(directory: Path) -> bool:
    return (directory / PAGE).is_file() and holds_only(directory, PAGE, "*.png")


def _draw(lineage: Lineage, directory: Path) -> _Figures:
    lines, _ = split_lines(lineage.lines)
    numbers = {run.name: number for number, run in lineage.comparison.numbered}
    stages = [stages_figure(line, f"stages-{number}", numbers) for number, line in enumerate(lines, start=1)]
    shared = [*(picture for picture in stages if picture is not None), *scatters(lineage.comparison)]
    found = _Figures([_keep(picture, "", directory) for picture in shared], {})
    for number, run in enumerate(lineage.stages, start=1):
        home = f"{number}-{file_name(run.name)}-" if len(lineage.stages) > 1 else ""
        found.runs[run.name] = [
            _keep(
                Picture(f"{home}{picture.name}", picture.title, picture.caption, picture.figure),
                f"{run.name}: ",
                directory,
            )
            for picture in curves(run)
        ]
        if any(weight.zeros for weight in run.weights) and arrange(run.weights)[0]:
            write_png(sparsity_figure(run.weights, f"{run.name}: zeros (%)"), directory / f"{home}layers.png")
    return found


def _keep(picture: Picture, before: str, directory: Path) -> tuple[Picture, Markup]:
    """Write a picture as PNG, with the run before its title; return its SVG element."""
    element = Markup(to_svg(picture))
    if entitle(picture.figure, f"{before}{picture.title}") == 1:
        # The layout is unchanged, and computing it again takes as long as drawing.
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
        colors=COLORS,
        light_shades=shades(dark=False),
        dark_shades=shades(dark=True),
        last_shade=STEPS,
        version=hf_sparse.__version__,
    )


def _breakable(text: str) -> Markup:
    """Allow line breaks after dots and underscores of a name."""
    return escape(text).replace(".", Markup(".<wbr>")).replace("_", Markup("_<wbr>"))
