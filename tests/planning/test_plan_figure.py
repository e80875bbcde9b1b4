"""The picture of a planned run."""

from pathlib import Path

import pytest

from hf_sparse import Recipe
from hf_sparse.planning.plan import Plan, make_plan
from hf_sparse.planning.plan_figure import plan_figure
from hf_sparse.report.pictures import write_png


def make(preset: str, *assignments: str, **settings: object) -> Plan:
    return make_plan(Recipe.preset(preset).override(assignments), 1000, **settings)


def test_sparsity_rate_and_weights_are_drawn_against_the_step() -> None:
    plan = make("prune_ofa_90", "distillation.task=0.25")
    zeros, rate, losses = plan_figure(plan, "title").axes
    assert zeros.lines[0].get_xydata().tolist() == [
        [step, 100 * share] for step, share in enumerate(plan.sparsity)
    ]
    assert [segment[0][0] for segment in zeros.collections[1].get_segments()] == list(plan.updates)
    assert rate.lines[0].get_ydata().tolist() == list(plan.learning_rate[1:])
    assert rate.lines[0].get_xdata()[0] == 1
    assert [text.get_text() for text in losses.texts] == ["task 0.25", "logits 0.5"]
    assert losses.get_ylim() == (0, 0.75)
    assert all(axes.get_ylabel() for axes in (zeros, rate, losses))


def test_names_of_steps_that_are_close_stand_above_each_other() -> None:
    plan = make("prune_ofa_90", "quantization={begin: 1, freeze: 850}")
    zeros = plan_figure(plan, "title").axes[0]
    heights = {text.get_text(): text.xyann[1] for text in zeros.texts if "," in text.get_text()}
    assert heights == {
        "rounding begins, 1": 3,
        "ramp ends, 500": 3,
        "updates end, 800": 3,
        "ranges freeze, 850": 15,
    }


def test_what_is_unknown_is_not_drawn() -> None:
    figure = plan_figure(make("transfer", lr_scheduler_type="greedy"), "title")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss\nweights"]
    with pytest.raises(ValueError, match="this plan has nothing to draw"):
        plan_figure(make_plan(Recipe(), 10, lr_scheduler_type="greedy"), "title")


def test_it_is_written_as_png(tmp_path: Path) -> None:
    write_png(plan_figure(make("prune_ofa_90"), "title"), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
