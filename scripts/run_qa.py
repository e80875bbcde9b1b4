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
    default_data_collator,
)

import common
import session
import tokenization
from hf_sparse.atomic.files import write_atomically
from hf_sparse.data.qa_answers import AnswerFinder
from hf_sparse.data.qa_examples import QuestionColumns, numbered, question_columns, require_answers
from hf_sparse.data.qa_features import (
    Cutting,
    QuestionSet,
    evaluation_encoder,
    report_left_out,
    training_encoder,
)
from hf_sparse.training.qa_trainer import QuestionAnsweringTrainer

TASK = "question-answering"


@dataclass
class QaDataArguments(common.DataArguments):
    """Questions to train and evaluate on, and how an answer is chosen."""

    test_file: str | None = field(
        default=None, metadata={"help": "Data to predict: a file of the same kinds as train_file."}
    )
    max_predict_samples: int | None = field(
        default=None, metadata={"help": "Number of rows to predict: the first ones. By default all."}
    )
    doc_stride: int = field(
        default=128, metadata={"help": "Number of tokens that neighboring windows of a long context share."}
    )
    n_best_size: int = field(
        default=20, metadata={"help": "Number of candidate answers to keep for each question."}
    )
    max_answer_length: int = field(default=30, metadata={"help": "Largest number of tokens in an answer."})
    version_2_with_negative: bool = field(
        default=False, metadata={"help": "Allow questions that cannot be answered, as in SQuAD 2.0."}
    )
    null_score_diff_threshold: float = field(
        default=0.0,
        metadata={"help": "Give no answer if its score exceeds that of the best answer by more than this."},
    )
    question_column_name: str | None = field(
        default=None, metadata={"help": "Column of the questions; by default found by its name."}
    )
    context_column_name: str | None = field(
        default=None, metadata={"help": "Column of the contexts; by default found by its name."}
    )
    answer_column_name: str | None = field(
        default=None, metadata={"help": "Column of the answers; by default found by its name."}
    )

    @property
    def files(self) -> dict[str, str]:
        return super().files | ({"test": self.test_file} if self.test_file is not None else {})

    @property
    def finder(self) -> AnswerFinder:
        return AnswerFinder(
            self.version_2_with_negative,
            self.n_best_size,
            self.max_answer_length,
            self.null_score_diff_threshold,
        )

    def columns(self, rows: Dataset, answered: bool = True) -> QuestionColumns:
        """Return the columns; refuse questions without an answer unless `version_2_with_negative` is set."""
        names = self.question_column_name, self.context_column_name, self.answer_column_name
        columns = question_columns(rows, *names, answered)
        if answered and not self.version_2_with_negative:
            require_answers(rows, columns)
        return columns


def training_set(rows: Dataset, cutting: Cutting, data: QaDataArguments) -> Dataset:
    """Return questions cut into windows labeled with their answers."""
    columns = data.columns(rows)
    windows = tokenization.tokenize(numbered(rows, columns), training_encoder(cutting, columns), data)
    report_left_out(rows, windows)
    return windows


def question_set(
    rows: Dataset, cutting: Cutting, data: QaDataArguments, answered: bool = True
) -> QuestionSet:
    """Return questions cut into windows to find answers in; with `answered` they can be scored."""
    columns = data.columns(rows, answered)
    windows = tokenization.tokenize(numbered(rows, columns), evaluation_encoder(cutting, columns), data)
    return QuestionSet(rows, windows, columns)


def predict(trainer: QuestionAnsweringTrainer, questions: QuestionSet) -> None:
    """Write answers, their candidates and the scores of having no answer to `predict_*.json`."""
    output = trainer.predict(questions, metric_key_prefix="predict")
    session.keep_results(trainer, "predict", output.metrics | {"predict_samples": len(questions.ids)})
    answers = output.predictions
    files = {
        "predictions": {answer.id: answer.text for answer in answers},
        "nbest_predictions": {answer.id: [*map(asdict, answer.candidates)] for answer in answers},
    }
    if trainer.finder.version_2_with_negative:
        files["null_odds"] = {answer.id: answer.null_odds for answer in answers}
    if trainer.is_world_process_zero():
        for name, content in files.items():
            path = Path(trainer.args.output_dir) / f"predict_{name}.json"
            write_atomically(path, (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode())


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate and predict as the command line says."""
    model_args, data, training, sparse = common.parse((common.ModelArguments, QaDataArguments), argv, TASK)
    if model_args.model_name_or_path is None:
        raise ValueError("a model to fine-tune is missing; give --model_name_or_path")
    finder = data.finder
    checkpoint = common.find_checkpoint(training)
    splits = common.load_data(data, model_args)
    tokenizer = tokenization.load_tokenizer(model_args)
    config = AutoConfig.from_pretrained(
        model_args.config_name or model_args.model_name_or_path, **model_args.where
    )
    length = tokenization.text_length(data.max_seq_length, tokenizer, config, most=384)
    reader = tokenization.for_both(tokenizer, model_args, training, sparse)
    cutting = Cutting(reader, length, data.doc_stride, data.pad_to_max_length)

    def rows(split: str, limit: int | None) -> Dataset:
        return common.first(common.take(splits, split), limit)

    train_set = eval_set = test_set = None
    if training.do_train:
        train_set = training_set(rows("train", data.max_train_samples), cutting, data)
    if training.do_eval:
        eval_set = question_set(rows("validation", data.max_eval_samples), cutting, data)
    if training.do_predict:
        test_set = question_set(rows("test", data.max_predict_samples), cutting, data, answered=False)
    model = common.load_model(AutoModelForQuestionAnswering, model_args, training, config=config)
    trainer = common.make_trainer(
        model,
        tokenizer,
        training,
        sparse,
        model_args,
        data.max_tokens,
        kind=QuestionAnsweringTrainer,
        finder=finder,
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=default_data_collator if data.pad_to_max_length else DataCollatorWithPadding(reader),
    )
    trainer.facts |= common.facts(data, TASK, "validation" if training.do_eval else None)
    sizes = session.train(trainer, checkpoint) if training.do_train else {}
    if training.do_eval:
        scores = session.evaluate(trainer, {"": eval_set}) | sizes
        session.keep_results(trainer, "eval", scores | {"eval_samples": len(eval_set.ids)})
    if training.do_predict:
        predict(trainer, test_set)
    session.hand_over(trainer)


if __name__ == "__main__":
    main()
