"""Fine-tune a model to answer questions about a text, sparse or distilled as a recipe says.

    python scripts/run_qa.py --model_name_or_path pruned --dataset_name squad --do_train --do_eval \\
        --recipe transfer --teacher_name_or_path dense-squad --output_dir pruned-squad
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    TrainingArguments,
    default_data_collator,
)

import common
from hf_sparse.data.answers import AnswerFinder
from hf_sparse.data.questions import QuestionColumns, numbered, question_columns, require_answers
from hf_sparse.data.windows import (
    Cutting,
    QuestionSet,
    evaluation_encoder,
    report_left_out,
    training_encoder,
)
from hf_sparse.training.question_answering import QuestionAnsweringTrainer


@dataclass
class QaDataArguments(common.DataArguments):
    """Which questions it answers, how their answers are chosen."""

    max_seq_length: int = field(
        default=384, metadata={"help": "tokens of a question with its part of a context"}
    )
    doc_stride: int = field(
        default=128, metadata={"help": "tokens that neighbouring parts of a context share"}
    )
    n_best_size: int = field(default=20, metadata={"help": "candidates kept for an answer"})
    max_answer_length: int = field(default=30, metadata={"help": "tokens of an answer"})
    version_2_with_negative: bool = field(default=False, metadata={"help": "some questions have no answer"})
    null_score_diff_threshold: float = field(
        default=0.0, metadata={"help": "how much better no answer must score than the best one"}
    )
    test_file: str | None = field(default=None, metadata={"help": "the same for prediction"})
    max_predict_samples: int | None = field(default=None, metadata={"help": "the same for prediction"})
    question_column_name: str | None = field(default=None, metadata={"help": "if not guessed"})
    context_column_name: str | None = field(default=None, metadata={"help": "if not guessed"})
    answer_column_name: str | None = field(default=None, metadata={"help": "if not guessed"})

    @property
    def files(self) -> dict[str, str]:
        return super().files | ({"test": self.test_file} if self.test_file is not None else {})

    @property
    def finder(self) -> AnswerFinder:
        """How answers are chosen."""
        return AnswerFinder(
            self.version_2_with_negative,
            self.n_best_size,
            self.max_answer_length,
            self.null_score_diff_threshold,
        )

    def columns(self, rows: Dataset, answered: bool = True) -> QuestionColumns:
        """Find the columns of questions, contexts, answers."""
        return question_columns(
            rows, self.question_column_name, self.context_column_name, self.answer_column_name, answered
        )


def training_set(rows: Dataset, cutting: Cutting, data: QaDataArguments) -> Dataset:
    """Cut the questions with their answers into labelled windows."""
    columns = data.columns(rows)
    if not data.version_2_with_negative:
        require_answers(rows, columns)
    windows = common.tokenize(numbered(rows), training_encoder(cutting, columns), data)
    report_left_out(rows, windows)
    return windows


def question_set(
    rows: Dataset, cutting: Cutting, data: QaDataArguments, answered: bool = True
) -> QuestionSet:
    """Cut the questions into windows to find answers in; without `answered` these need not be known."""
    columns = data.columns(rows, answered)
    if columns.answers is not None and not data.version_2_with_negative:
        require_answers(rows, columns)
    return QuestionSet(
        rows, common.tokenize(numbered(rows), evaluation_encoder(cutting, columns), data), columns
    )


def check_best_metric(training: TrainingArguments) -> None:
    """Refuse to look for the best model by a loss that evaluation does not have."""
    if (training.metric_for_best_model or "").endswith("loss"):
        raise ValueError(
            f"answers are scored without a loss, so there is no {training.metric_for_best_model!r} to find the best "
            "model by; give --metric_for_best_model f1"
        )


def predict(trainer: QuestionAnsweringTrainer, questions: QuestionSet) -> None:
    """Write the answers to `predict_predictions.json`, all candidates for them, the odds against an answer."""
    output = trainer.predict(questions, metric_key_prefix="predict")
    results = output.metrics | {"predict_samples": len(questions.ids)}
    common.keep_results(trainer, "predict", results)
    if trainer.is_world_process_zero():
        answers = output.predictions
        files = {
            "predictions": {answer.id: answer.text for answer in answers},
            "nbest_predictions": {answer.id: [*map(asdict, answer.candidates)] for answer in answers},
        }
        if trainer.finder.version_2_with_negative:
            files["null_odds"] = {answer.id: answer.null_odds for answer in answers}
        for name, content in files.items():
            path = Path(trainer.args.output_dir) / f"predict_{name}.json"
            path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    model_args, data, training, sparse = common.parse((common.ModelArguments, QaDataArguments), argv)
    if model_args.model_name_or_path is None:
        raise ValueError("there is no model to fine-tune; give --model_name_or_path")
    check_best_metric(training)
    finder = data.finder
    checkpoint = common.find_checkpoint(training)
    splits = common.load_data(data, model_args)
    tokenizer = common.load_tokenizer(model_args)
    config = AutoConfig.from_pretrained(
        model_args.config_name or model_args.model_name_or_path, **model_args.where
    )
    length = common.text_length(data.max_seq_length, tokenizer, config, most=384)
    cutting = Cutting(tokenizer, length, data.doc_stride, data.pad_to_max_length)

    def rows(split: str, limit: int | None) -> Dataset:
        return common.first(common.take(splits, split), limit)

    train_set = eval_set = test_set = None
    if training.do_train:
        train_set = training_set(rows("train", data.max_train_samples), cutting, data)
    if training.do_eval:
        eval_set = question_set(rows("validation", data.max_eval_samples), cutting, data)
    if training.do_predict:
        test_set = question_set(rows("test", data.max_predict_samples), cutting, data, answered=False)
    trainer = common.make_trainer(
        AutoModelForQuestionAnswering.from_pretrained(
            model_args.model_name_or_path, config=config, **model_args.where
        ),
        tokenizer,
        training,
        sparse,
        cache_dir=model_args.cache_dir,
        kind=QuestionAnsweringTrainer,
        finder=finder,
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=default_data_collator if data.pad_to_max_length else DataCollatorWithPadding(tokenizer),
    )
    if training.do_train:
        common.train(trainer, checkpoint)
    if training.do_eval:
        results = common.evaluate(trainer, {"": eval_set}) | {"eval_samples": len(eval_set.ids)}
        common.keep_results(trainer, "eval", results)
    if training.do_predict:
        predict(trainer, test_set)


if __name__ == "__main__":
    main()
