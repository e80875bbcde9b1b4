"""Encoder-decoders are pruned and distilled, and their generated texts evaluated."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div
from torch.utils.data import default_collate
from transformers import EvalPrediction, GenerationConfig, Seq2SeqTrainer, Seq2SeqTrainingArguments

from hf_sparse import Recipe, SparseSeq2SeqTrainer, measure_sparsity
from tests.support.lessons import Gradients
from tests.support.pairs import encoder_decoder
from tests.support.tiny import arguments

KINDS = ["t5", "bart"]
WEIGHTS = {"task": 0.3, "logits": 0.7, "hidden": 0.5}


def rows(count: int = 8, with_decoder_inputs: bool = False) -> list[dict[str, Tensor]]:
    """Texts to be repeated, of varying length, so that labels of padding are -100."""
    generator, found = torch.Generator().manual_seed(1), []
    for index in range(count):
        ids = torch.randint(3, 100, (7,), generator=generator)
        real = torch.arange(7) < 7 - index % 4
        row = {"input_ids": ids * real, "attention_mask": real.long()}
        row["labels"] = torch.where(torch.arange(5) < 2 + index % 4, ids[:5], -100)
        if with_decoder_inputs:
            row["decoder_input_ids"] = torch.cat([torch.tensor([2]), row["labels"][:-1].clamp(min=0)])
        found.append(row)
    return found


def trainer(
    folder: Path, kind: str, recipe: Recipe, cut: tuple[int, int] = (8, 1), **changes: Any
) -> SparseSeq2SeqTrainer:
    parts = {name: changes.pop(name) for name in ("compute_metrics", "train_dataset") if name in changes}
    settings = arguments(folder, max_grad_norm=0.0, max_steps=1).to_dict() | {
        "per_device_train_batch_size": cut[0],
        "gradient_accumulation_steps": cut[1],
        "use_cpu": True,
        **changes,
    }
    names = Seq2SeqTrainingArguments.__dataclass_fields__
    args = Seq2SeqTrainingArguments(**{name: value for name, value in settings.items() if name in names})
    return SparseSeq2SeqTrainer(
        encoder_decoder(kind, 0, (1, 1)),
        args,
        eval_dataset=rows(4),
        recipe=recipe,
        teacher=encoder_decoder(kind, 1, (2, 2)) if recipe.distillation is not None else None,
        callbacks=[Gradients()],
        **({"train_dataset": rows()} | parts),
    )


def gradients(run: SparseSeq2SeqTrainer) -> dict[str, Tensor]:
    (found,) = (callback for callback in run.callback_handler.callbacks if isinstance(callback, Gradients))
    return found.steps[0]


def teaching(**weights: float) -> Recipe:
    return Recipe.from_dict({"distillation": {"temperature": 2.0, **weights}})


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_compared_where_there_is_a_label_however_batches_are_cut(
    kind: str, tmp_path: Path
) -> None:
    whole = trainer(tmp_path, kind, teaching(**WEIGHTS))
    whole.train()
    line, batch = whole.state.log_history[0], default_collate(rows())
    keep = batch["labels"] != -100
    with torch.no_grad():
        outputs = [encoder_decoder(kind, seed, (1 + seed, 1 + seed))(**batch) for seed in (0, 1)]
    logs = [(output.logits[keep] / 2.0).log_softmax(-1) for output in outputs]
    distance = 4 * kl_div(*logs, log_target=True, reduction="sum") / keep.sum()
    assert line["loss_task"] == pytest.approx(outputs[0].loss.item(), rel=1e-5)
    assert line["loss_logits"] == pytest.approx(distance.item(), rel=1e-4)
    weighted = sum(weight * line[f"loss_{name}"] for name, weight in WEIGHTS.items())
    assert line["loss"] == pytest.approx(weighted, rel=1e-4)
    pieces = trainer(tmp_path, kind, teaching(**WEIGHTS), (3, 3))
    pieces.train()
    for name in ("loss", "loss_task", "loss_logits", "loss_hidden"):
        assert pieces.state.log_history[0][name] == pytest.approx(line[name], rel=1e-4)
    ours, theirs = gradients(whole), gradients(pieces)
    scale = max(value.abs().max().item() for value in ours.values())
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_the_decoder_are_those_of_the_collator_where_it_made_some(
    kind: str, tmp_path: Path
) -> None:
    seen: list[list[Tensor]] = [[], []]

    def spy(place: int) -> Any:
        return lambda module, args, kwargs: seen[place].append(kwargs["input_ids"])

    run = trainer(tmp_path, kind, teaching(), train_dataset=rows(with_decoder_inputs=True))
    for place, model in enumerate((run.model, run.distiller.teacher)):
        model.get_decoder().register_forward_pre_hook(spy(place), with_kwargs=True)
    run.train()
    made = trainer(tmp_path, kind, teaching())
    for place, model in enumerate((made.model, made.distiller.teacher)):
        model.get_decoder().register_forward_pre_hook(spy(place), with_kwargs=True)
    made.train()
    for ours, theirs in zip(*seen, strict=True):
        assert torch.equal(ours, theirs)
    start = made.model.config.decoder_start_token_id
    assert (seen[1][0][:, 0] == 2).all()
    assert (seen[1][1][:, 0] == start).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_prunes_and_distils_and_generates(kind: str, tmp_path: Path) -> None:
    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        assert prediction.predictions.shape == (4, 6)
        return {"ids": float(prediction.predictions.max())}

    run = trainer(
        tmp_path,
        kind,
        Recipe.preset("prune_ofa_90").override(["sparsity.schedule.every=1"]),
        max_steps=6,
        predict_with_generate=True,
        generation_config=GenerationConfig(
            max_length=6, min_length=6, decoder_start_token_id=2, pad_token_id=0, eos_token_id=2
        ),
        compute_metrics=metrics,
    )
    run.train()
    assert measure_sparsity(run.model).overall == pytest.approx(0.9, abs=0.01)
    found = run.evaluate()
    assert 0 <= found["eval_ids"] < 100
    stock = Seq2SeqTrainer(run.model, run.args, eval_dataset=rows(4), compute_metrics=metrics).evaluate()
    assert (found["eval_loss"], found["eval_ids"]) == (stock["eval_loss"], stock["eval_ids"])


def test_an_empty_recipe_trains_bit_for_bit_like_seq2seqtrainer(tmp_path: Path) -> None:
    ours = trainer(tmp_path, "t5", Recipe(), max_steps=3)
    stock = Seq2SeqTrainer(encoder_decoder("t5", 0, (1, 1)), ours.args, train_dataset=rows())
    for run in (ours, stock):
        run.train()
    state = stock.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in ours.model.state_dict().items())
