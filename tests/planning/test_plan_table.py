"""How a planned run is shown."""

import json
from io import StringIO

import pytest
from rich.console import Console

from hf_sparse import Recipe
from hf_sparse.planning.plan import Plan, make_plan
from hf_sparse.planning.plan_table import plan_as_dict, print_plan, sampled_steps
from tests.support.tiny import bert

EVERY_TERM = "distillation={task: 0.1, logits: 0.2, hidden: 0.3, attention: 0.4, relations: 0.5}"


def make(*assignments: str, steps: int = 1000, preset: str = "prune_ofa_90", **settings: object) -> Plan:
    return make_plan(Recipe.preset(preset).override(assignments), steps, **settings)


def printed(plan: Plan) -> list[str]:
    console = Console(file=StringIO(), width=80)
    print_plan(plan, console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("steps", [2, 7, 20, 23, 999, 1000, 12345, 200_000])
def test_at_most_20_steps_are_shown_with_all_those_where_something_changes(steps: int) -> None:
    plan = make("sparsity.schedule.begin=10%", steps=steps)
    shown = sampled_steps(plan)
    assert len(shown) <= 20 and shown == sorted(set(shown))
    assert set(plan.key_steps) <= set(shown)
    assert {0, plan.schedule.begin, plan.schedule.ramp_end, plan.schedule.update_end, steps} == set(
        plan.key_steps
    )


def test_a_short_run_is_shown_step_by_step() -> None:
    assert sampled_steps(make(steps=19)) == list(range(20))


def test_a_row_shows_sparsity_rate_weights_and_updates() -> None:
    rows = [line.split() for line in printed(make(learning_rate=1e-3))]
    assert ["500", "90.0%", "9.8e-04", "0.5", "0.5", "51", "ramp", "ends"] in rows
    assert ["0", "0.0%", "-", "0.5", "0.5", "1", "ramp", "begins"] in rows
    assert ["800", "90.0%", "4.0e-04", "0.5", "0.5", "81", "updates", "end"] in rows


def test_ramps_are_described() -> None:
    text = " ".join(printed(make()))
    assert "from 0.0% at step 0 to 90.0% at step 500. Masks: every 10 steps until step 800." in text
    text = " ".join(
        printed(make("sparsity.schedule={shape: one_shot, final: 0.5}", "sparsity.lr_rewind=false"))
    )
    assert "(one_shot): 50.0% at step 0." in text and "pruned at once" in text
    assert "every step until" in " ".join(printed(make(steps=20)))


def test_quantization_is_described() -> None:
    plan = make("quantization={begin: 100, freeze: 900}")
    lines = printed(plan)
    text = " ".join(lines)
    assert "Quantized from step 100: weights int8_per_channel, inputs uint8_per_tensor, ranges frozen" in text
    rows = [line.split() for line in lines]
    assert any(row[:1] == ["100"] and row[-2:] == ["rounding", "begins"] for row in rows)
    assert any(row[:1] == ["900"] and row[-2:] == ["ranges", "freeze"] for row in rows)
    assert (plan_as_dict(plan)["rounding"], plan_as_dict(plan)["freezing"]) == (100, 900)
    text = " ".join(printed(make("quantization={activations: none}")))
    assert "inputs none." in text and "frozen" not in text and "freeze" not in text


def test_the_first_step_is_the_start_where_nothing_else_begins() -> None:
    rows = [line.split() for line in printed(make(preset="gmp_finetune"))]
    assert ["0", "0.0%", "-", "0", "start"] in rows


def test_what_is_unknown_is_a_dash() -> None:
    rows = [line.split() for line in printed(make(preset="transfer", lr_scheduler_type="greedy"))]
    assert ["100", "-", "-", "0", "1", "0"] in rows


def test_a_model_adds_its_numbers() -> None:
    lines = printed(make(model=bert()))
    assert any(line.startswith("12 weight matrices, 16,384 entries in all: 0 (0.0%) are") for line in lines)
    assert any(line.split() == ["masks", "2.0", "kB"] for line in lines)
    assert any("estimated" in line and "1.44 x a plain one" in line for line in lines)
    assert any(line.split() == ["teacher's", "forward", "pass", "+", "0.33"] for line in lines)


@pytest.mark.parametrize(
    ("assignments", "steps"),
    [
        ([], 10),
        ([EVERY_TERM], 10),
        ([EVERY_TERM, "sparsity.revive=true"], 10),
        (["sparsity=null"], 10),
        (["distillation=null", "quantization={}"], 10),
        ([EVERY_TERM], 1_000_000),
    ],
)
def test_no_line_is_longer_than_80_characters(assignments: list[str], steps: int) -> None:
    model = bert(attn_implementation="eager", attention_probs_dropout_prob=0.0) if steps < 100 else None
    lines = printed(make(*assignments, steps=steps, model=model))
    assert max(map(len, lines)) <= 80
    # Nothing is cut off either: rich writes an ellipsis where it does.
    assert not any("…" in line for line in lines)


def test_the_numbers_survive_json() -> None:
    plan = make(steps=10, model=bert())
    numbers = json.loads(json.dumps(plan_as_dict(plan), allow_nan=False))
    assert numbers["sparsity"] == list(plan.sparsity) and len(numbers["sparsity"]) == 11
    assert numbers["learning_rate"] == list(plan.learning_rate) and numbers["learning_rate"][0] is None
    assert numbers["mask_updates"] == list(plan.updates)
    assert numbers["schedule"]["ramp_end"] == 5
    assert numbers["loss_weights"] == {"task": 0.5, "logits": 0.5}
    assert numbers["model"]["removed_finally"] == round(0.9 * 16384 - 5.6)
    assert Recipe.from_dict(numbers["recipe"]) == plan.recipe
    assert json.loads(json.dumps(plan_as_dict(make(preset="transfer"))))["model"] is None
