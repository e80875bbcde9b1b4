"""The sparsity record of a model inside another one: in its own configuration, with names as in its file."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from torch import nn
from transformers import AutoModel, BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from hf_sparse import SparseTrainer, SparseTrainerMixin, SparsityCallback, find_targets, prune
from hf_sparse.checkpoint.sparsity_record import (
    describe_lost,
    lost_zeros,
    read_sparsity_record,
    recorded_modules,
)
from hf_sparse.cli.errors import WANTING
from tests.cli.commands import run
from tests.support.tiny import SIZES, arguments, bert, pruning, sentences

QUERY = "encoder.layer.0.attention.self.query"


class SparseSentenceTransformerTrainer(SparseTrainerMixin, SentenceTransformerTrainer):
    pass


def embedder(folder: Path) -> SentenceTransformer:
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZES)).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32), Dense(32, 16)], device="cpu")


@pytest.mark.parametrize("own_trainer", [True, False])
def test_a_sentence_transformer_records_the_names_of_its_file(tmp_path: Path, own_trainer: bool) -> None:
    model = embedder(tmp_path)
    args = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"), max_steps=4, use_cpu=True, report_to=[], save_steps=4, disable_tqdm=True
    )
    rows = Dataset.from_dict({"anchor": ["a b", "b"] * 4, "positive": ["a", "b a"] * 4})
    settings = {
        "model": model,
        "args": args,
        "train_dataset": rows,
        "loss": MultipleNegativesRankingLoss(model),
    }
    if own_trainer:
        trainer = SparseSentenceTransformerTrainer(**settings, recipe=pruning())
    else:
        callback = SparsityCallback(pruning("sparsity.lr_rewind=false"))
        trainer = SentenceTransformerTrainer(**settings, callbacks=[callback])
    trainer.train()
    saved = tmp_path / "run" / "checkpoint-4"
    record = json.loads((saved / "config.json").read_text())["hf_sparse"]
    assert f"{QUERY}.weight" in record["layers"] and record["achieved"] == pytest.approx(0.9, abs=1e-3)
    found = AutoModel.from_pretrained(saved)
    assert len(recorded_modules(found)) == 12 and not lost_zeros(found)
    with torch.no_grad():
        found.get_submodule(QUERY).weight.fill_(1.0)
    assert list(lost_zeros(found)) == [f"{QUERY}.weight"]
    found.save_pretrained(saved)
    assert run("inspect", str(saved)).exit_code == WANTING


def test_the_targets_of_a_sentence_transformer_are_called_as_in_its_file(tmp_path: Path) -> None:
    model = embedder(tmp_path)
    assert find_targets(model).names == find_targets(BertModel(BertConfig(**SIZES))).names
    assert {entry.name for entry in find_targets(model).left_out} == {"pooler.dense", "2.linear"}


class Two(nn.Module):
    """Two models of transformers in one, each with a configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = BertModel(BertConfig(**SIZES)), bert()
        self.head = nn.Linear(2, 2)


def test_of_two_models_in_one_each_has_a_record_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Two()
    prune(model, 0.6)
    for part in (model.first, model.second):
        part.save_pretrained(tmp_path)
        saved = type(part).from_pretrained(tmp_path)
        contract = read_sparsity_record(saved)
        assert len(contract.layers) == 12 and contract.achieved == pytest.approx(0.6, abs=1e-2)
        assert not lost_zeros(saved) and len(recorded_modules(saved)) == 12
    assert not lost_zeros(model) and len(recorded_modules(model)) == 24
    with torch.no_grad():
        model.second.bert.get_submodule(QUERY).weight.fill_(1.0)
    assert list(lost_zeros(model)) == [f"{QUERY}.weight"]


class Around(nn.Module):
    """A model of one's own around one of transformers, as many scripts have it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = BertModel(BertConfig(**SIZES), add_pooling_layer=False)
        self.head = nn.Linear(32, 2)


def test_a_model_of_ones_own_records_in_the_model_inside(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Around()
    prune(model, 0.6)
    assert find_targets(model).names[0] == f"encoder.{QUERY}.weight"
    model.encoder.save_pretrained(tmp_path)
    saved = BertModel.from_pretrained(tmp_path)
    assert len(recorded_modules(saved)) == 12 and not lost_zeros(saved)


def misnamed(folder: Path) -> BertForSequenceClassification:
    """Save a model whose record names weights as another library's wrapper calls them."""
    model = bert()
    prune(model, 0.8)
    record = model.config.hf_sparse
    record["layers"] = {f"0.model.{name}": promise for name, promise in record["layers"].items()}
    model.save_pretrained(folder)
    return BertForSequenceClassification.from_pretrained(folder)


def test_a_record_of_other_names_is_no_proof_of_zeros(tmp_path: Path) -> None:
    model = misnamed(tmp_path / "model")
    lost = lost_zeros(model)
    assert len(lost) == 12 and {zeros for _, zeros in lost.values()} == {None}
    assert describe_lost(lost).startswith("the configuration records zeros of 12 weights, such as 0.model.")
    with pytest.raises(ValueError, match=r"lacks all of them; prune .* del model.config.hf_sparse"):
        SparseTrainer(model=model, args=arguments(tmp_path / "run"), train_dataset=sentences())
    said = run("inspect", str(tmp_path / "model"))
    assert said.exit_code == WANTING
    assert "and the model lacks all of them" in " ".join(said.output.split())
    assert "at least the zeros" not in said.output
    numbers = json.loads(run("inspect", str(tmp_path / "model"), "--json").output)
    assert numbers["lost_zeros"][f"0.model.{QUERY}.weight"] == {"removed": 819, "zeros": None}


def test_a_record_of_nothing_needs_no_names() -> None:
    model = bert()
    prune(model, 0.0)
    record = model.config.hf_sparse
    record["layers"] = {f"0.model.{name}": promise for name, promise in record["layers"].items()}
    assert lost_zeros(model) == {}
