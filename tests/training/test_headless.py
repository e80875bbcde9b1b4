"""An encoder without a head learns from hidden states, attention, relations, and stays an encoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, BertModel

from hf_sparse import Recipe, SparseTrainer, measure_sparsity
from tests.support.pairs import make
from tests.support.tiny import arguments, sentences

PRUNED = {"schedule": {"final": 0.5, "begin": 0, "ramp_end": 2, "every": 1}}
ALONE = {"teacher": "self", "task": 0.0, "logits": 0.0}


def encoder() -> BertModel:
    config = make("bert").config
    torch.manual_seed(0)
    return BertModel(config)


def rows(count: int = 8) -> list[dict[str, torch.Tensor]]:
    return [{name: row[name] for name in ("input_ids", "attention_mask")} for row in sentences(count)]


def distil(folder: Path, model: torch.nn.Module, **distillation: Any) -> SparseTrainer:
    recipe = Recipe.from_dict({"sparsity": PRUNED, "distillation": ALONE | distillation})
    args = arguments(folder, max_steps=4, per_device_train_batch_size=4)
    return SparseTrainer(model, args, recipe=recipe, train_dataset=rows())


@pytest.mark.parametrize("terms", [["hidden"], ["attention"], ["relations"], ["hidden", "relations"]])
def test_inner_states_alone_teach_an_encoder(terms: list[str], tmp_path: Path) -> None:
    model = encoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = distil(tmp_path, model, **dict.fromkeys(terms, 1.0))
    run.train()
    line = run.state.log_history[0]
    assert {name for name in line if name.startswith("loss_")} == {f"loss_{name}" for name in terms}
    assert line["loss"] == pytest.approx(sum(line[f"loss_{name}"] for name in terms), rel=1e-4)
    assert not torch.equal(
        model.encoder.layer[0].output.dense.weight, before["encoder.layer.0.output.dense.weight"]
    )
    for name in ("weight", "bias"):
        assert torch.equal(getattr(model.pooler.dense, name), before[f"pooler.dense.{name}"])
    assert measure_sparsity(model).overall == pytest.approx(0.5, abs=1e-3)


def test_it_is_saved_as_the_encoder_it_is(tmp_path: Path) -> None:
    run = distil(tmp_path, encoder(), hidden=1.0)
    run.train()
    run.save_model(tmp_path / "saved")
    again, loading = BertModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert again.config.architectures == ["BertModel"]
    task, loading = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert loading["missing_keys"] == {"classifier.weight", "classifier.bias"}
    assert measure_sparsity(task).overall == measure_sparsity(again).overall == pytest.approx(0.5, abs=1e-3)


def test_a_model_with_a_head_learns_from_text_without_labels(tmp_path: Path) -> None:
    model = BertForSequenceClassification(encoder().config)
    run = distil(tmp_path, model, logits=1.0)
    run.train()
    assert "loss_logits" in run.state.log_history[0] and "loss_task" not in run.state.log_history[0]


def test_labels_are_left_out_where_there_is_no_head(tmp_path: Path) -> None:
    plain, labeled = (distil(tmp_path, encoder(), hidden=1.0, relations=1.0) for _ in "ab")
    labeled.train_dataset = sentences(8)
    for run in (plain, labeled):
        run.train()
    lines = [
        {name: line[name] for name in line if "loss" in name}
        for line in (plain.state.log_history[0], labeled.state.log_history[0])
    ]
    assert lines[0] == lines[1] and "loss_task" not in lines[1]


def test_frozen_weights_that_are_to_be_pruned_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = encoder()
    model.encoder.layer[0].requires_grad_(False)
    distil(tmp_path, model, hidden=1.0)
    assert "6 of 12 weights to prune are frozen, such as encoder.layer.0.attention.self.query" in caplog.text


def test_labels_give_a_task_loss_that_is_shown(tmp_path: Path) -> None:
    run = distil(tmp_path, BertForSequenceClassification(encoder().config), hidden=1.0)
    run.train_dataset = sentences(8)
    run.train()
    line = run.state.log_history[0]
    assert line["loss_task"] > 0 and line["loss"] == pytest.approx(line["loss_hidden"], rel=1e-4)


@pytest.mark.parametrize(("term", "weight"), [("task", 0.5), ("logits", 1.0)])
def test_a_term_that_needs_a_head_is_refused(term: str, weight: float, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"{term} has weight {weight}, and BertModel lacks a head .*{term}=0"
    ):
        distil(tmp_path, encoder(), hidden=1.0, **{term: weight})


def test_a_recipe_without_a_term_for_an_encoder_is_refused(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"sparsity": PRUNED})
    run = SparseTrainer(encoder(), arguments(tmp_path), recipe=recipe, train_dataset=rows())
    with pytest.raises(ValueError, match=r"BertModel cannot compute a loss.* add distillation with task: 0"):
        run.train()


def test_a_loss_of_the_users_own_is_enough(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"sparsity": PRUNED})

    def loss(outputs: Any, labels: Any, **others: Any) -> torch.Tensor:
        return outputs.last_hidden_state.square().mean()

    given = {"recipe": recipe, "train_dataset": rows(), "compute_loss_func": loss}
    SparseTrainer(encoder(), arguments(tmp_path, max_steps=4), **given).train()

    class Own(SparseTrainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
            outputs = model(**inputs)
            total = outputs.last_hidden_state.square().mean()
            return (total, outputs) if return_outputs else total

    Own(encoder(), arguments(tmp_path, max_steps=4), recipe=recipe, train_dataset=rows()).train()


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    model = encoder()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="every weight of BertModel is frozen, so no term has a gradient"):
        distil(tmp_path, model, hidden=1.0)
    model = encoder()
    model.embeddings.requires_grad_(False)
    run = distil(tmp_path, model, hidden={"layers": {0: 0}})
    with pytest.raises(ValueError, match=r"no gradient .* hidden states of layer 0"):
        run.train()
    assert run.state.global_step == 0
