"""Masks of masked language modeling: which tokens, in which epoch, after which interruption."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from hf_sparse.training.mlm import EpochCallback, MaskedTokens, group_texts

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, CLS, SEP, MASK = 0, 2, 3, 4
VOCABULARY = 105


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizerFast:
    words = SPECIAL + [f"w{i}" for i in range(VOCABULARY - len(SPECIAL))]
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})


def sentence(length: int, padding: int = 0, start: int = 5) -> dict[str, list[int]]:
    words = [5 + (start + i) % 100 for i in range(length - 2)]
    return {
        "input_ids": [CLS, *words, SEP] + [PAD] * padding,
        "attention_mask": [1] * length + [0] * padding,
        "token_type_ids": [0] * (length + padding),
    }


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_masks_depend_on_seed_epoch_index_only(tokenizer: BertTokenizerFast) -> None:
    rows = [sentence(64) for _ in range(4)]
    one, other = MaskedTokens(rows, tokenizer, seed=3), MaskedTokens(rows, tokenizer, seed=3)
    items = [one[i] for i in (0, 1, 2, 3)]
    assert all(same(other[i], items[i]) for i in (3, 1, 0, 2))
    assert not same(items[0], items[1])
    assert not same(MaskedTokens(rows, tokenizer, seed=4)[0], items[0])
    one.set_epoch(1)
    assert not same(one[0], items[0])
    one.set_epoch(0)
    assert same(one[0], items[0])


def test_masks_of_a_known_seed_never_change(tokenizer: BertTokenizerFast) -> None:
    item = MaskedTokens([sentence(16)], tokenizer, seed=11)[0]
    assert item["input_ids"].tolist() == [2, 10, 11, 4, 4, 14, 32, 4, 17, 18, 19, 20, 21, 22, 23, 3]
    chosen = np.flatnonzero(item["labels"] != -100)
    assert chosen.tolist() == [3, 4, 6, 7, 14]
    assert item["labels"][chosen].tolist() == [12, 13, 15, 16, 23]


def test_a_fixed_set_ignores_the_epoch(tokenizer: BertTokenizerFast) -> None:
    rows = MaskedTokens([sentence(64)], tokenizer, fixed=True)
    before = rows[0]
    rows.set_epoch(5)
    assert rows.epoch == 0 and same(rows[0], before)


def test_chosen_tokens_are_labeled_with_the_original(tokenizer: BertTokenizerFast) -> None:
    original = np.array(sentence(500)["input_ids"])
    item = MaskedTokens([sentence(500)], tokenizer)[0]
    chosen = item["labels"] != -100
    assert np.array_equal(item["labels"][chosen], original[chosen])
    assert np.array_equal(item["input_ids"][~chosen], original[~chosen])


def test_fifteen_in_a_hundred_are_chosen_of_which_eighty_masked_ten_random(
    tokenizer: BertTokenizerFast,
) -> None:
    original = np.array(sentence(40_000)["input_ids"])
    item = MaskedTokens([sentence(40_000)], tokenizer)[0]
    chosen = item["labels"] != -100
    became = item["input_ids"][chosen]
    kept = became == original[chosen]
    assert chosen.mean() == pytest.approx(0.15, abs=0.006)
    assert (became == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert kept.mean() == pytest.approx(0.1, abs=0.015)
    assert len(set(became[(became != MASK) & ~kept])) == VOCABULARY - 1


@pytest.mark.parametrize("with_column", [False, True])
def test_special_tokens_or_padding_are_never_chosen(tokenizer: BertTokenizerFast, with_column: bool) -> None:
    rows = [sentence(4, padding=3) for _ in range(200)]
    if with_column:
        rows = [row | {"special_tokens_mask": [1, 0, 1, 1, 1, 1, 1]} for row in rows]
    chosen = np.array(
        [MaskedTokens(rows, tokenizer, probability=0.9)[i]["labels"] != -100 for i in range(200)]
    )
    assert chosen[:, 1].mean() > 0.8
    assert not chosen[:, [0, 3, 4, 5, 6]].any()
    assert chosen[:, 2].any() != with_column


def test_a_word_in_the_padding_is_not_chosen(tokenizer: BertTokenizerFast) -> None:
    rows = [{"input_ids": [7] * 50, "attention_mask": [1] * 25 + [0] * 25, "special_tokens_mask": [0] * 50}]
    assert (MaskedTokens(rows, tokenizer, probability=0.9)[0]["labels"][25:] == -100).all()


def test_items_hold_model_inputs_alone(tokenizer: BertTokenizerFast) -> None:
    row = sentence(8) | {"special_tokens_mask": [0] * 8, "text": "eight words"}
    item = MaskedTokens([row], tokenizer)[0]
    assert sorted(item) == ["attention_mask", "input_ids", "labels", "token_type_ids"]
    assert {array.dtype for array in item.values()} == {np.dtype(np.int64)}


def test_the_label_of_a_pair_is_passed_on_whatever_is_masked(tokenizer: BertTokenizerFast) -> None:
    rows = [sentence(32, start=i) | {"next_sentence_label": label} for i, label in enumerate((0, 1, -100))]
    masked, plain = MaskedTokens(rows, tokenizer), MaskedTokens([sentence(32, start=0)], tokenizer)
    for epoch in (0, 1):
        masked.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert [int(item["next_sentence_label"]) for item in masked.__getitems__([0, 1, 2])] == [0, 1, -100]
        assert np.array_equal(masked[0]["labels"], plain[0]["labels"])


@pytest.mark.parametrize("collate", [default_data_collator, "padding"])
def test_labels_of_pairs_are_collated(tokenizer: BertTokenizerFast, collate: object) -> None:
    rows = [sentence(8) | {"next_sentence_label": 1}, sentence(8) | {"next_sentence_label": -100}]
    if collate == "padding":
        collate, rows[1] = (
            DataCollatorForTokenClassification(tokenizer),
            sentence(6) | {"next_sentence_label": -100},
        )
    batch = collate(MaskedTokens(rows, tokenizer).__getitems__([0, 1]))
    assert batch["next_sentence_label"].tolist() == [1, -100]
    assert batch["next_sentence_label"].dtype == torch.int64
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 8)


def test_a_batch_equals_its_items(tokenizer: BertTokenizerFast) -> None:
    rows = [sentence(32, start=i) for i in range(6)]
    for examples in (rows, Dataset.from_list(rows)):
        masked = MaskedTokens(examples, tokenizer, seed=1)
        assert all(
            same(item, masked[i]) for item, i in zip(masked.__getitems__([4, 0, 5]), [4, 0, 5], strict=True)
        )


def test_an_index_counts_from_the_end_like_a_list(tokenizer: BertTokenizerFast) -> None:
    masked = MaskedTokens([sentence(32, start=i) for i in range(3)], tokenizer)
    assert same(masked[-1], masked[2])
    with pytest.raises(IndexError):
        masked[3]


def test_bad_arguments_are_refused(tokenizer: BertTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"share in \(0, 1\), got 15"):
        MaskedTokens([], tokenizer, probability=15)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        MaskedTokens([], tokenizer, seed=-1)
    unmasked = BertTokenizerFast(vocab={word: i for i, word in enumerate(SPECIAL)})
    unmasked.mask_token = None
    with pytest.raises(ValueError, match="lacks a mask token"):
        MaskedTokens([], unmasked)


def test_groups_are_cut_from_the_joined_texts() -> None:
    grouped = group_texts(
        {"input_ids": [[1, 2, 3], [], [4, 5], [6, 7]], "mask": [[0] * 3, [], [1] * 2, [2] * 2]}, 3
    )
    assert grouped == {"input_ids": [[1, 2, 3], [4, 5, 6]], "mask": [[0, 0, 0], [1, 1, 2]]}


def test_texts_shorter_than_a_block_leave_nothing() -> None:
    assert group_texts({"input_ids": [[1, 2]]}, 3) == {"input_ids": []}
    with pytest.raises(ValueError, match="block_length 0"):
        group_texts({"input_ids": [[1, 2]]}, 0)


def test_persistent_workers_see_the_epoch(tokenizer: BertTokenizerFast) -> None:
    masked = MaskedTokens([sentence(64) for _ in range(4)], tokenizer)
    loader = DataLoader(
        masked, num_workers=1, persistent_workers=True, collate_fn=default_data_collator, batch_size=4
    )
    epochs = []
    for epoch in (0, 1, 0):
        masked.set_epoch(epoch)
        epochs.append(next(iter(loader))["labels"])
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


def train(
    tokenizer: BertTokenizerFast, folder: Path, stop: int | None, resume: bool
) -> dict[str, torch.Tensor]:
    class Interrupted(Trainer):
        def training_step(self, *args: object, **kwargs: object) -> torch.Tensor:
            if self.state.global_step == stop:
                raise KeyboardInterrupt
            return super().training_step(*args, **kwargs)

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        save_steps=5,
        learning_rate=1e-2,
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
    )
    examples = Dataset.from_list([sentence(24, start=i) for i in range(16)])
    trainer = Interrupted(
        BertForMaskedLM(config),
        arguments,
        train_dataset=MaskedTokens(examples, tokenizer),
        data_collator=default_data_collator,
        callbacks=[EpochCallback()],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model.state_dict()


def test_a_run_resumed_in_mid_epoch_ends_bit_for_bit_as_if_never_interrupted(
    tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    straight = train(tokenizer, tmp_path / "straight", stop=None, resume=False)
    with pytest.raises(KeyboardInterrupt):
        train(tokenizer, tmp_path / "resumed", stop=7, resume=False)
    resumed = train(tokenizer, tmp_path / "resumed", stop=None, resume=True)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
