"""Models, data and arguments small enough that a whole training run takes a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from hf_sparse import Recipe, find_targets

VOCABULARY = 100
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
}


def bert(seed: int = 0, **config: Any) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(**(SIZES | config)))


def masked_lm(seed: int = 0) -> BertForMaskedLM:
    torch.manual_seed(seed)
    return BertForMaskedLM(BertConfig(**SIZES))


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, pad_token_id=0))


def sentences(count: int = 48, length: int = 12, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Sentences of two kinds, told apart by their first token; padding at the end, of varying length."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        ids = torch.randint(10, VOCABULARY, (length,), generator=generator)
        ids[0] = 5 + index % 2
        mask = torch.ones(length, dtype=torch.long)
        mask[length - index % 4 :] = 0
        rows.append({"input_ids": ids * mask, "attention_mask": mask, "labels": torch.tensor(index % 2)})
    return rows


def batches(rows: int = 16) -> list[dict[str, torch.Tensor]]:
    """Batches of four sentences to calibrate with."""
    found = sentences(rows)
    return [
        {key: value for key, value in default_data_collator(found[at : at + 4]).items() if key != "labels"}
        for at in range(0, rows, 4)
    ]


def texts(count: int = 48, length: int = 12, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """The same for language models: some labels are -100, in numbers that differ from row to row."""
    rows = sentences(count, length, seed)
    for index, row in enumerate(rows):
        labels = row["input_ids"].clone()
        labels[row["attention_mask"] == 0] = -100
        labels[2 : 2 + index % 5] = -100
        row["labels"] = labels
    return rows


def arguments(directory: Path | str, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(directory),
        "per_device_train_batch_size": 4,
        "max_steps": 12,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
    }
    return TrainingArguments(**(settings | changes))


def pruning(*assignments: str) -> Recipe:
    """Magnitude pruning to 90 % by the middle of the run, updated at every step; no teacher, no revival."""
    return Recipe.preset("prune_ofa_90").override(
        ["distillation=null", "sparsity.schedule.every=1", "sparsity.revive=false", *assignments]
    )


def same_weights(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def expected_zeros(model: torch.nn.Module, sparsity: float) -> int:
    """Return the number of weights that uniform allocation removes."""
    return sum(int(sparsity * rows * columns) for rows, columns in find_targets(model).shapes.values())


class RememberingCallback(TrainerCallback):
    """Keeps what `look` sees at each step."""

    def __init__(self, look: Callable[[Any, dict[str, Any]], Any]) -> None:
        self.look, self.seen = look, []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(self.look(state, kwargs))
