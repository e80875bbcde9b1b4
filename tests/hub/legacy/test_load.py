"""A rescued model is locked, proved and saved."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.checkpoint.sparsity_record import lost_zeros, read_sparsity_record
from hf_sparse.hub import load_legacy
from hf_sparse.hub.legacy import proof
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.hub.legacy.written import PRUNED, assert_gives, config_of, keep, logits, tensors_of, wide, write
from tests.support.tiny import arguments, sentences


@pytest.fixture
def legacy(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return a directory of Intel's layout, and what it computes with."""
    model = wide()
    written, plain = tensors_of(model), tensors_of(model)
    for name in PRUNED:
        weight = written.pop(name)
        written |= {f"{name}_original": weight, f"{name}_mask": keep(weight.shape, 0.75, (1, 4))}
        plain[name] *= written[f"{name}_mask"]
    tokenizer().save_pretrained(tmp_path / "legacy")
    return write(tmp_path / "legacy", written, config_of(model)), plain


def test_the_saved_directory_is_plain(tmp_path: Path, legacy: tuple) -> None:
    directory, plain = legacy
    assert load_legacy(str(directory)).save(tmp_path / "out") < 1e-6
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    } <= names and "pytorch_model.bin" not in names
    stock, report = BertForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    assert_gives(stock, logits(plain))


def test_the_record_names_pattern_and_zeros(legacy: tuple) -> None:
    model = load_legacy(str(legacy[0])).model
    contract = read_sparsity_record(model)
    assert (contract.pattern, contract.achieved, contract.target) == ("1x4", 0.75, None)
    assert len(contract.layers) == 12
    assert contract.layers["encoder.layer.0.output.dense.weight"].removed == 32 * 64 * 3 // 4
    assert not lost_zeros(model)
    model.bert.encoder.layer[0].output.dense.weight.data.fill_(1)
    assert lost_zeros(model) == {"encoder.layer.0.output.dense.weight": (1536, 0)}


def test_training_locks_the_zeros(tmp_path: Path, legacy: tuple) -> None:
    load_legacy(str(legacy[0])).save(tmp_path / "out")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    before = tensors_of(model)
    trainer = SparseTrainer(
        model, arguments(tmp_path / "run", max_steps=3), recipe=Recipe(), train_dataset=sentences()
    )
    trainer.train()
    for name in PRUNED:
        weight = model.state_dict()[name]
        assert torch.equal(weight == 0, before[name] == 0) and not torch.equal(weight, before[name])


def test_a_rescued_directory_can_be_rescued_again(tmp_path: Path, legacy: tuple) -> None:
    first = load_legacy(str(legacy[0]))
    first.save(tmp_path / "out")
    second = load_legacy(str(tmp_path / "out"))
    assert second.layouts == () and second.sparsity == 0.75 and second.difference is None
    assert second.save(tmp_path / "again") == 0
    assert read_sparsity_record(second.model).digest == read_sparsity_record(first.model).digest


def test_nothing_is_replaced(tmp_path: Path, legacy: tuple) -> None:
    rescued = load_legacy(str(legacy[0]))
    with pytest.raises(ValueError, match="is not empty, and what it holds is not replaced"):
        rescued.save(legacy[0])
    assert (legacy[0] / "pytorch_model.bin").exists()


def test_a_rescued_model_that_was_trained_since_is_not_replaced(tmp_path: Path, legacy: tuple) -> None:
    rescued = load_legacy(str(legacy[0]))
    rescued.save(tmp_path / "out")
    trained = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    trained.classifier.weight.data.fill_(0.25)
    trained.save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="choose another directory, or delete this one"):
        rescued.save(tmp_path / "out")
    assert (BertForSequenceClassification.from_pretrained(tmp_path / "out").classifier.weight == 0.25).all()


def test_other_logits_are_noticed_and_not_saved(tmp_path: Path, legacy: tuple) -> None:
    rescued = load_legacy(str(legacy[0]))
    rescued.model.bert.encoder.layer[1].output.dense.weight.data[0, 0] += 1
    with pytest.raises(ValueError, match="logits differ by .* so the model is not saved"):
        rescued.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_a_number_is_noticed(legacy: tuple) -> None:
    rescued = load_legacy(str(legacy[0]))
    rescued.model.classifier.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="logits differ by nan"):
        rescued.proof.difference(rescued.model)


def test_a_wrong_conversion_is_noticed(legacy: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.where
    monkeypatch.setattr(torch, "where", lambda mask, one, other: whole(mask, one, other + 0.1))
    with pytest.raises(ValueError, match="logits differ"):
        load_legacy(str(legacy[0]))


def test_texts_of_the_proof_are_padded_and_always_the_same() -> None:
    one, other = (proof.random_texts(wide()) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert one["attention_mask"].sum(1).tolist() == [24, 24, 16, 12]


def test_half_precision_is_kept_and_proved_in_floats(tmp_path: Path, legacy: tuple) -> None:
    directory, _ = legacy
    written = torch.load(directory / "pytorch_model.bin")
    torch.save({name: value.half() for name, value in written.items()}, directory / "pytorch_model.bin")
    rescued = load_legacy(str(directory))
    assert rescued.model.dtype == torch.float16 and rescued.save(tmp_path / "out") < 1e-6
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


def test_a_dense_model_of_today_is_refused(tmp_path: Path) -> None:
    model = wide()
    with pytest.raises(ValueError, match="is neither sparse nor in a layout of the past"):
        load_legacy(str(write(tmp_path, tensors_of(model), config_of(model))))
