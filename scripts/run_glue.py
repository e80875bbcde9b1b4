"""Fine-tune a model on a GLUE task or any texts with labels, sparse or distilled as a recipe says.

    python scripts/run_glue.py --model_name_or_path pruned --task_name sst2 --do_train --do_eval \\
        --recipe transfer --teacher_name_or_path dense-sst2 --output_dir pruned-sst2
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    default_data_collator,
)

import common
import session
import tokenization
from hf_sparse import SparseArguments, SparseTrainer
from hf_sparse.atomic.files import write_atomically
from hf_sparse.data.glue import GLUE_TASKS, glue_task
from hf_sparse.data.texts import Labels, find_labels, label_encoder, text_columns, text_encoder
from hf_sparse.metrics.classification import text_metric

# MNLI has two evaluation sets: genres of the training set, and other genres.
EVALUATION_ENDINGS = {"validation": "", "validation_matched": "", "validation_mismatched": "_mm"}
TESTS = ("test", "test_matched", "test_mismatched")

TASK = "text-classification"


@dataclass
class GlueModelArguments(common.ModelArguments):
    """Model to fine-tune."""

    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Replace a head of another size by a new one."}
    )


@dataclass
class GlueDataArguments(common.DataArguments):
    """Task to learn and columns of its data."""

    task_name: str | None = field(default=None, metadata={"help": f"GLUE task: {', '.join(GLUE_TASKS)}."})
    test_file: str | None = field(
        default=None, metadata={"help": "Data to predict: a file of the same kinds as train_file."}
    )
    max_predict_samples: int | None = field(
        default=None, metadata={"help": "Number of rows to predict: the first ones. By default all."}
    )
    text_column: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Column of the texts; give two for pairs. By default that of the task, else sentence1 "
            "with sentence2, else text, else the first columns of strings."
        },
    )
    label_column_name: str = field(default="label", metadata={"help": "Column of the labels."})

    def __post_init__(self) -> None:
        if self.task_name is not None:
            glue_task(self.task_name)
        if self.task_name is not None and self.dataset_name is None and not self.files:
            self.dataset_name, self.dataset_config_name = "nyu-mll/glue", self.task_name

    @property
    def files(self) -> dict[str, str]:
        return super().files | ({"test": self.test_file} if self.test_file is not None else {})


def find_task(
    splits: DatasetDict, data: GlueDataArguments, model: GlueModelArguments, sparse: SparseArguments
) -> tuple[PreTrainedConfig, Labels]:
    """Return the model's configuration with the classes of the data, and these classes.

    They keep the order that the model was trained with, or for a model new to them that of its teacher.
    """
    if model.model_name_or_path is None:
        raise ValueError("a model to fine-tune is missing; give --model_name_or_path")
    config = AutoConfig.from_pretrained(model.config_name or model.model_name_or_path, **model.where)
    labeled = [split for split in ("train", *EVALUATION_ENDINGS) if split in splits]
    if labeled:
        labels = find_labels(splits[labeled[0]], data.label_column_name, data.task_name)
    else:
        labels = known_labels(config, data.task_name)
    if sparse.teacher_name_or_path is not None:
        teacher = AutoConfig.from_pretrained(sparse.teacher_name_or_path, cache_dir=model.cache_dir)
        labels = labels.in_order_of(teacher.id2label)
    labels = labels.in_order_of(config.id2label)
    labels.write_to(config)
    return config, labels


def known_labels(config: PreTrainedConfig, task: str | None) -> Labels:
    """Return the classes for data without labels: those of the task, else those of the model."""
    if task is not None:
        return Labels(glue_task(task).labels)
    if config.num_labels == 1:
        # A regression, although transformers names its output LABEL_0.
        return Labels(())
    return Labels(tuple(config.id2label[i] for i in sorted(config.id2label)))


def encode(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    data: GlueDataArguments,
    labels: Labels | None,
) -> Dataset:
    """Tokenize the texts, with their classes if `labels` are given."""
    label, task = data.label_column_name, data.task_name
    columns = text_columns(rows, task, data.text_column, label)
    tokens = text_encoder(tokenizer, columns, length, data.pad_to_max_length)
    if labels is None:
        return tokenization.tokenize(rows, tokens, data)
    class_of = label_encoder(rows, label, labels, task)
    return tokenization.tokenize(
        rows, lambda batch: tokens(batch) | {"labels": [*map(class_of, batch[label])]}, data
    )


def scores(labels: Labels, task: str | None) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the function that scores an evaluation."""
    metric, order = text_metric(labels.regression), None
    if task is not None:
        known = glue_task(task)
        # F1 is that of the class which GLUE counts as 1, whatever the order in the model.
        metric, order = known.metric(), np.array([known.labels.index(name) for name in labels.names])

    def score(answers: EvalPrediction) -> dict[str, float]:
        predictions, references = best_answers(answers.predictions, labels), answers.label_ids
        if order is not None and not labels.regression:
            predictions, references = order[predictions], order[references]
        results = metric.compute(predictions=predictions, references=references)
        if len(results) > 1:
            results["combined_score"] = sum(results.values()) / len(results)
        return results

    return score


def best_answers(predictions: np.ndarray | tuple[np.ndarray, ...], labels: Labels) -> np.ndarray:
    """Return classes or numbers from the outputs of the model, logits first."""
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return logits.squeeze(-1) if labels.regression else logits.argmax(-1)


def predict(trainer: SparseTrainer, split: str, rows: Dataset, labels: Labels) -> None:
    """Write predictions for texts without labels to `predict_results_{split}.txt`."""
    answers = best_answers(trainer.predict(rows, metric_key_prefix="predict").predictions, labels)
    if trainer.is_world_process_zero():
        names = [f"{answer:.4f}" if labels.regression else labels.names[answer] for answer in answers]
        lines = ["index\tprediction", *(f"{i}\t{name}" for i, name in enumerate(names))]
        path = Path(trainer.args.output_dir) / f"predict_results_{split}.txt"
        write_atomically(path, ("\n".join(lines) + "\n").encode())


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and predict as the command line says."""
    model_args, data, training, sparse = common.parse((GlueModelArguments, GlueDataArguments), argv, TASK)
    checkpoint = common.find_checkpoint(training)
    splits = common.load_data(data, model_args)
    tokenizer = tokenization.load_tokenizer(model_args)
    config, labels = find_task(splits, data, model_args, sparse)
    length = tokenization.text_length(data.max_seq_length, tokenizer, config, most=128)
    reader = tokenization.for_both(tokenizer, model_args, training, sparse)

    def rows(split: str, limit: int | None, labeled: bool = True) -> Dataset:
        part = common.first(common.take(splits, split), limit)
        return encode(part, reader, length, data, labels if labeled else None)

    sets, names = {}, [None]
    if training.do_eval:
        names = [split for split in EVALUATION_ENDINGS if split in splits] or ["validation"]
        sets = {EVALUATION_ENDINGS[split]: rows(split, data.max_eval_samples) for split in names}
    # The head is for these classes, a random one if the model has none.
    model = common.load_model(
        AutoModelForSequenceClassification,
        model_args,
        training,
        config=config,
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
    )
    trainer = common.make_trainer(
        model,
        tokenizer,
        training,
        sparse,
        model_args,
        data.max_tokens,
        train_dataset=rows("train", data.max_train_samples) if training.do_train else None,
        eval_dataset=next(iter(sets.values()), None),
        data_collator=default_data_collator if data.pad_to_max_length else DataCollatorWithPadding(reader),
        compute_metrics=scores(labels, data.task_name) if training.do_eval else None,
    )
    trainer.facts |= common.facts(data, TASK, names[0])
    sizes = session.train(trainer, checkpoint) if training.do_train else {}
    if training.do_eval:
        session.keep_results(trainer, "eval", session.evaluate(trainer, sets) | sizes)
    if training.do_predict:
        for split in [split for split in TESTS if split in splits] or ["test"]:
            predict(trainer, split, rows(split, data.max_predict_samples, labeled=False), labels)
    session.hand_over(trainer)


if __name__ == "__main__":
    main()
