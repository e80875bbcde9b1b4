"""Cards of models of other kinds: other tasks, other formats, rounded by other software or not at all."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.checkpoint.formats import write_format
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.hub import CardOptions, write_card
from hf_sparse.oneshot.quantize_trained import calibration_recipe, quantize_trained, save_quantized
from tests.support.tiny import SIZES, arguments, bert, pruning, sentences, texts


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_sparse.hub.card.write.draw_pictures", lambda *_: ())


def train(folder: Path, model: PreTrainedModel, recipe: Recipe, rows: list, **settings: object) -> Path:
    """Train without any results file: the Trainer's own log has the evaluation."""
    trainer = SparseTrainer(
        model,
        arguments(folder, max_steps=4, **settings),
        train_dataset=rows,
        eval_dataset=rows[:8],
        recipe=recipe,
    )
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    return folder


def card(run: Path, staged: Path | None = None, **options: object) -> str:
    return write_card(run, staged or run, "somebody/model", **options).read_text()


def test_a_decoder_whose_layers_no_other_format_can_hold(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, n_positions=32, eos_token_id=0)
    run = train(tmp_path / "run", GPT2LMHeadModel(config), pruning("quantization={}"), texts())
    save_packed(load_model(str(run)), run / "packed")
    text = card(run)
    data = ModelCard(text).data
    assert data.pipeline_tag == "text-generation" and data.eval_results is None
    assert "90.0 % of its decoder's weights removed" in text and "zeros in the decoder" in text
    assert "model = GPT2LMHeadModel.from_pretrained(repo)" in text
    assert "| floats, whole model |" in text and "| packed, decoder alone |" in text


def test_a_loss_is_shown_where_there_is_no_other_score(tmp_path: Path) -> None:
    text = card(train(tmp_path, bert(), pruning(), sentences()))
    assert "Its loss is **0." in text and "Lower is better for loss." in text
    assert (
        "from `trainer_state.json` of the run" in text and "the number of examples was not recorded" in text
    )


def test_the_last_score_of_a_log_is_not_that_of_an_earlier_best_model(tmp_path: Path) -> None:
    run = train(tmp_path, bert(), pruning(), sentences())
    state = json.loads((run / "trainer_state.json").read_text())
    for best, known in ((4, True), (2, False)):
        (run / "trainer_state.json").write_text(json.dumps(state | {"best_global_step": best}))
        assert ("Its loss is **0." in card(run)) is known


def test_weights_of_4_bits_in_groups_are_not_for_the_runtime(tmp_path: Path) -> None:
    recipe = pruning("quantization={weights: int4_group_32, activations: none}")
    run = train(tmp_path / "run", bert(), recipe, sentences())
    write_format(load_model(str(run)), tmp_path / "staged", "compressed-tensors")
    save_packed(load_model(str(run)), tmp_path / "staged" / "packed")
    text = card(run, tmp_path / "staged")
    assert "in **4 bits**" in text and "`int4_group_32`" in text and "int4" in ModelCard(text).data.tags
    assert "hf_sparse.runtime import load" not in text and "ranges that were fixed" not in text


@pytest.mark.parametrize("scheme", ["{}", "{weights: int4_group_32, activations: none}"])
def test_a_model_that_is_compressed_already(tmp_path: Path, scheme: str) -> None:
    run = train(tmp_path / "run", bert(), pruning(f"quantization={scheme}"), sentences())
    write_format(load_model(str(run)), tmp_path / "there", "compressed-tensors")
    text, whole = card(tmp_path / "there"), card(run)
    zeros = next(line for line in whole.splitlines() if "weights in the 12 matrices" in line)
    assert zeros in text and "0.04 million parameters" in text
    # Nobody knows how it is rounded but its configuration; of sizes only the file is measured.
    assert "times smaller" not in text and "hf-sparse export" not in text
    assert "`pip install compressed-tensors`" in text


def test_a_model_that_was_only_rounded_is_a_quantized_one_to_the_hub(tmp_path: Path) -> None:
    model, recipe = bert().eval(), calibration_recipe()
    batches = [{name: row[name][None] for name in ("input_ids", "attention_mask")} for row in sentences(4)]
    quantize_trained(model, batches, recipe)
    save_quantized(model, tmp_path / "int8", recipe)
    text = card(tmp_path / "int8", card=CardOptions(base_model="somebody/base"))
    data = ModelCard(text).data
    assert (data.base_model, data.base_model_relation) == ("somebody/base", "quantized")
    assert data.tags == ["hf_sparse", "int8"] and "Nothing was removed from the 16,384 weights" in text


def test_answers_to_questions_are_scored_in_per_cent(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, exact in (("ours", 81.25), ("dense", 82.5)):
        BertForQuestionAnswering(BertConfig(**SIZES)).save_pretrained(tmp_path / name)
        results = {"eval_exact_match": exact, "eval_f1": 88.0, "eval_best_exact": 99.0, "eval_samples": 100}
        (tmp_path / name / "eval_results.json").write_text(json.dumps(results))
    text = card(tmp_path / "ours", card=CardOptions(dense=tmp_path / "dense"))
    assert "| exact match | 82.50 % | **81.25 %** | -1.25 points (-1.5 %) |" in text
    assert "| F1 | 88.00 % | **88.00 %** | +0.00 points (+0.0 %) |" in text and "99.00" not in text
    assert "AutoModelForQuestionAnswering.from_pretrained(repo)" in text and "pipeline(" not in text


class WithAnotherHead(BertForSequenceClassification):
    """A class that transformers does not have."""


def test_a_model_of_a_class_that_transformers_does_not_have(tmp_path: Path) -> None:
    model = WithAnotherHead(BertConfig(**SIZES))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a WithAnotherHead, which is not a class of transformers"):
        card(tmp_path)
    # As where it was trained from a model with another head.
    model.config.architectures = ["BertForMaskedLM"]
    text = card(tmp_path, model=model)
    assert "A model (`WithAnotherHead`, 0.04 million parameters)" in text and "times smaller" not in text
    assert "With the code that defines its class:\n\n```python\nmodel = WithAnotherHead.from_" in text
    assert text.count("```") == 2


def test_what_no_scheme_here_is_like_is_said_in_the_configuration(tmp_path: Path) -> None:
    run = train(tmp_path / "run", bert(), pruning("quantization={}"), sentences())
    write_format(load_model(str(run)), tmp_path / "there", "compressed-tensors")
    config = json.loads((tmp_path / "there" / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["symmetric"] = False
    (tmp_path / "there" / "config.json").write_text(json.dumps(config))
    text = card(tmp_path / "there")
    assert "bits**" not in text and ModelCard(text).data.tags == ["hf_sparse", "sparse", "unstructured"]
    assert "`quantization_config` in `config.json` describes how weights are rounded." in text
