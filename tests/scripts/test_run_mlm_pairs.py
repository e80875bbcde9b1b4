"""run_mlm on pairs of segments: one head or two, with and without pruning and teacher."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertConfig,
    BertForPreTraining,
    BertTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    TrainingArguments,
)

from hf_sparse import SparseTrainer, find_targets, measure_sparsity
from tests.scripts.tiny_data import WORDS, results, sentences, write_table

Script = Callable[[str], ModuleType]
COLUMNS = {"input_ids", "token_type_ids", "attention_mask", "special_tokens_mask", "next_sentence_label"}


def paragraphs(count: int, seed: int = 0) -> list[str]:
    lines = sentences(6 * count, seed, length=4)
    return ["\n".join(lines[start : start + 6]) for start in range(0, len(lines), 6)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    write_table(tmp_path / "text" / "train.parquet", {"text": paragraphs(24)})
    write_table(tmp_path / "text" / "validation.parquet", {"text": paragraphs(8, seed=1)})
    return tmp_path / "text"


@pytest.fixture(scope="session")
def two_headed(
    tmp_path_factory: pytest.TempPathFactory, config: BertConfig, tokenizer: BertTokenizerFast
) -> Path:
    folder = tmp_path_factory.mktemp("two_headed")
    torch.manual_seed(0)
    BertForPreTraining(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(model: Path, text: Path, output: Path, *others: str) -> list[str]:
    given = f"--model_name_or_path {model} --dataset_name {text} --output_dir {output} --sentence_pairs"
    fixed = "--use_cpu True --disable_tqdm True --per_device_train_batch_size 4 --max_seq_length 16"
    return [*given.split(), *fixed.split(), *others]


def prune(teacher: Path, *overrides: str) -> list[str]:
    final = ["sparsity.schedule.final=0.5", *overrides]
    return ["--recipe", "prune_ofa_90", "--teacher_name_or_path", str(teacher), "--recipe_override", *final]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def pairs(
    script: Script, texts: list[str | None], tokenizer: BertTokenizerFast, seed: int = 0, **options: object
) -> Dataset:
    reading = script("texts")
    data = reading.TextArguments(sentence_pairs=True, **options)
    return reading.pair_rows(Dataset.from_dict({"text": texts}), tokenizer, 16, data, seed)


def test_rows_become_pairs_with_all_that_a_model_reads(script: Script, tokenizer: BertTokenizerFast) -> None:
    rows = pairs(script, paragraphs(40), tokenizer, single_share=0.25)
    assert set(rows.column_names) == COLUMNS
    counts = Counter(rows["next_sentence_label"])
    assert abs(counts[0] - counts[1]) <= 3
    assert counts[-100] / len(rows) == pytest.approx(0.25, abs=0.08)
    for row in rows:
        ends = [place for place, token in enumerate(row["input_ids"]) if token == tokenizer.sep_token_id]
        kinds = [0] * (ends[0] + 1) + [1] * (ends[-1] - ends[0])
        assert (row["token_type_ids"], len(ends) == 1) == (kinds, row["next_sentence_label"] == -100)
    assert max(map(len, rows["input_ids"])) <= 16


def test_pairs_do_not_depend_on_the_number_of_processes(
    script: Script, tokenizer: BertTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script("texts"), "BLOCK", 8)
    texts = [None, *paragraphs(20), " ", *paragraphs(9, seed=3)]
    one = pairs(script, texts, tokenizer)
    assert pairs(script, texts, tokenizer, preprocessing_num_workers=3).to_dict() == one.to_dict()
    assert pairs(script, texts, tokenizer, seed=1).to_dict() != one.to_dict()


def test_pairs_are_padded_if_asked(script: Script, tokenizer: BertTokenizerFast) -> None:
    rows = pairs(script, paragraphs(4), tokenizer, pad_to_max_length=True)
    assert set(map(len, rows["input_ids"])) == set(map(len, rows["special_tokens_mask"])) == {16}
    for row in rows:
        assert [token == 0 for token in row["input_ids"]] == [seen == 0 for seen in row["attention_mask"]]


@pytest.mark.parametrize("labeled", [True, False])
def test_labels_are_there_for_a_model_that_learns_them(
    labeled: bool, script: Script, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    run_mlm = script("run_mlm")
    splits = DatasetDict(train=Dataset.from_dict({"text": paragraphs(4)}))
    training = TrainingArguments(str(tmp_path), do_train=True, use_cpu=True)
    data = run_mlm.MlmDataArguments(sentence_pairs=True)
    made = run_mlm.masked_sets(splits, tokenizer, 16, data, training, labeled)["train_dataset"]
    assert all(("next_sentence_label" in made[row]) is labeled for row in range(len(made)))


def test_a_model_of_two_heads_is_pruned_with_its_pooler(
    script: Script, two_headed: Path, text: Path, tmp_path: Path
) -> None:
    output, wanted = tmp_path / "pruned", "sparsity.include=[encoder.layer, pooler]"
    argv = arguments(two_headed, text, output, "--do_train", "--do_eval", "--single_share", "0.2")
    script("run_mlm").main([*argv, *prune(two_headed, wanted), "--max_steps", "8", "--logging_steps", "1"])
    scores = results(output)
    assert {"eval_loss", "eval_accuracy", "eval_next_sentence_accuracy"} <= scores.keys()
    assert scores["perplexity"] == pytest.approx(math.exp(scores["eval_masked_loss"]))
    assert scores["eval_loss"] > scores["eval_masked_loss"]
    assert scores["sparsity"] == pytest.approx(0.5, abs=1e-3)

    model, loading = BertForPreTraining.from_pretrained(output, output_loading_info=True)
    assert not loading["missing_keys"]
    assert (model.bert.pooler.dense.weight == 0).float().mean() == pytest.approx(0.5, abs=1e-3)
    targets = find_targets(model, include=["encoder.layer", "pooler"])
    assert measure_sparsity(model, targets).overall == scores["sparsity"]
    assert (model.cls.seq_relationship.weight != 0).all()
    assert AutoConfig.from_pretrained(output).architectures == ["BertForPreTraining"]


def test_by_default_the_pooler_stays_dense(
    script: Script, two_headed: Path, text: Path, tmp_path: Path
) -> None:
    argv = arguments(two_headed, text, tmp_path / "out", "--do_train", "--max_steps", "4")
    script("run_mlm").main([*argv, *prune(two_headed)])
    model = BertForPreTraining.from_pretrained(tmp_path / "out")
    assert (model.bert.pooler.dense.weight != 0).all()
    assert measure_sparsity(model).overall == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("taught", [True, False])
def test_an_interrupted_run_on_pairs_goes_on_bit_for_bit(
    taught: bool,
    script: Script,
    two_headed: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = prune(two_headed, "sparsity.include=[encoder.layer, pooler]") if taught else []
    others = [*recipe, "--do_train", "--single_share", "0.3", "--num_train_epochs", "2", "--save_steps", "5"]
    main = script("run_mlm").main
    main(arguments(two_headed, text, tmp_path / "straight", *others))

    whole_step = SparseTrainer.training_step

    def interrupted(trainer: SparseTrainer, *given: object, **named: object) -> object:
        if trainer.state.global_step == 17:
            raise KeyboardInterrupt
        return whole_step(trainer, *given, **named)

    monkeypatch.setattr(SparseTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(arguments(two_headed, text, tmp_path / "resumed", *others))
    monkeypatch.setattr(SparseTrainer, "training_step", whole_step)
    main(arguments(two_headed, text, tmp_path / "resumed", *others))
    assert weights(tmp_path / "straight") == weights(tmp_path / "resumed")


def test_batches_of_single_segments_give_a_number(
    script: Script, two_headed: Path, text: Path, tmp_path: Path
) -> None:
    argv = arguments(two_headed, text, tmp_path / "out", "--do_train", "--do_eval", "--single_share", "0.9")
    # Trainer itself would leave out of its means what is none.
    script("run_mlm").main([*argv, "--per_device_eval_batch_size", "2", "--logging_nan_inf_filter", "False"])
    assert results(tmp_path / "out")["eval_loss"] < 20
    assert results(tmp_path / "out")["train_loss"] < 20


def test_pairs_train_a_masked_language_model_by_default(
    script: Script, model_dir: Path, text: Path, tmp_path: Path
) -> None:
    argv = arguments(model_dir, text, tmp_path / "out", "--do_train", "--do_eval", "--max_steps", "2")
    script("run_mlm").main(argv)
    scores = results(tmp_path / "out")
    assert scores["perplexity"] == pytest.approx(math.exp(scores["eval_loss"]))
    assert "eval_next_sentence_accuracy" not in scores
    assert AutoConfig.from_pretrained(tmp_path / "out").architectures == ["BertForMaskedLM"]


def test_the_head_is_added_or_left_out_as_asked(
    script: Script, model_dir: Path, two_headed: Path, text: Path, tmp_path: Path
) -> None:
    main = script("run_mlm").main
    short = ["--do_train", "--max_steps", "1", "--next_sentence"]
    main(arguments(model_dir, text, tmp_path / "added", *short))
    assert AutoConfig.from_pretrained(tmp_path / "added").architectures == ["BertForPreTraining"]
    main(arguments(two_headed, text, tmp_path / "left", *short, "False"))
    assert AutoConfig.from_pretrained(tmp_path / "left").architectures == ["BertForMaskedLM"]


def test_a_new_model_can_have_both_heads(script: Script, model_dir: Path, text: Path, tmp_path: Path) -> None:
    size = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
    given = f"--model_type bert --config_overrides {size} --tokenizer_name {model_dir} --dataset_name {text}"
    fixed = f"--do_train --max_steps 1 --use_cpu True --disable_tqdm True --output_dir {tmp_path / 'out'}"
    script("run_mlm").main([*given.split(), *fixed.split(), "--sentence_pairs", "--next_sentence"])
    assert AutoConfig.from_pretrained(tmp_path / "out").architectures == ["BertForPreTraining"]


def test_a_family_without_the_head_learns_masked_tokens_of_pairs(
    script: Script, tokenizer: BertTokenizerFast, text: Path, tmp_path: Path
) -> None:
    config = RobertaConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        type_vocab_size=2,
        pad_token_id=0,
    )
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "roberta")
    tokenizer.save_pretrained(tmp_path / "roberta")
    argv = arguments(tmp_path / "roberta", text, tmp_path / "out", "--do_train", "--max_steps", "1")
    with pytest.raises(ValueError, match="type 'roberta' lack a next-sentence head to train; leave --next"):
        script("run_mlm").main([*argv, "--next_sentence"])
    script("run_mlm").main(argv)
    AutoModelForMaskedLM.from_pretrained(tmp_path / "out")


def test_bad_input_is_refused(script: Script, model_dir: Path, tmp_path: Path) -> None:
    main = script("run_mlm").main
    write_table(tmp_path / "lines" / "train.csv", {"text": sentences(4)})
    argv = arguments(model_dir, tmp_path / "lines", tmp_path / "out", "--do_train")
    with pytest.raises(
        ValueError, match="at least two sentences, and none of 4 texts has .* give a paragraph"
    ):
        main(argv)
    with pytest.raises(ValueError, match="two ways to read a row; leave one of them out"):
        main([*argv, "--line_by_line"])
    with pytest.raises(ValueError, match=r"--single_share is a share in \[0, 1\), got 1.0"):
        main([*argv, "--single_share", "1"])
    without = [argument for argument in argv if argument != "--sentence_pairs"]
    with pytest.raises(ValueError, match="--single_share 0.5 needs pairs of segments; add --sentence_pairs"):
        main([*without, "--single_share", "0.5"])
    with pytest.raises(ValueError, match="--next_sentence needs pairs of segments; add --sentence_pairs"):
        main([*without, "--next_sentence"])
