"""Evaluation of a model that answers questions by the text of its answers."""

from typing import Any

from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from hf_sparse.data.answers import Answer, AnswerFinder
from hf_sparse.data.windows import QuestionSet
from hf_sparse.metrics.squad import Squad, SquadV2
from hf_sparse.training.trainer import SparseTrainer


class QuestionAnsweringTrainer(SparseTrainer):
    """A SparseTrainer whose evaluation sets are `QuestionSet`s: it finds the answers, then scores their text.

    `finder`: how answers are chosen. `evaluate` reports the scores of `Squad` or, with its
    `version_2_with_negative`, of `SquadV2`, but no loss; `predict` returns a list of `Answer`s as its `predictions`,
    with scores where the answers are known. Every process finds all answers. Raises `ValueError` for
    training arguments under which the windows of an evaluation would not stay together or in order.
    """

    def __init__(self, *args: Any, finder: AnswerFinder | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.finder = finder or AnswerFinder()
        if self.args.train_sampling_strategy == "group_by_length":
            raise ValueError(
                "train_sampling_strategy group_by_length would shuffle the windows of an evaluation too, whose "
                "order tells which question they belong to; choose another one"
            )
        if self.args.batch_eval_metrics or not self.args.eval_do_concat_batches:
            raise ValueError(
                "the answer to a question is found in the windows of all batches; leave batch_eval_metrics out "
                "and eval_do_concat_batches as it is"
            )

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the model over a set of windows; return its answers in place of logits, their scores as metrics."""
        questions = dataloader.dataset
        if not isinstance(questions, QuestionSet):
            raise TypeError(f"answers are found in a QuestionSet, got {type(questions).__name__}; make one")
        # There is no loss, as a set for evaluation has no labels; Trainer would ask for that alone.
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        answers = self.finder.find(questions, *output.predictions[:2])
        scores = {
            f"{metric_key_prefix}_{name}": value for name, value in self._score(questions, answers).items()
        }
        return output._replace(predictions=answers, metrics=output.metrics | scores)

    def _score(self, questions: QuestionSet, answers: list[Answer]) -> dict[str, float]:
        if questions.answers is None:
            return {}
        references = [
            {
                "id": name,
                "answers": {
                    "text": [text for text, _ in given],
                    "answer_start": [start for _, start in given],
                },
            }
            for name, given in zip(questions.ids, questions.answers, strict=True)
        ]
        if not self.finder.version_2_with_negative:
            predictions = [{"id": answer.id, "prediction_text": answer.text} for answer in answers]
            return Squad().compute(predictions=predictions, references=references)
        # The text before the threshold is applied, so that the best threshold can be found.
        predictions = [
            {"id": answer.id, "prediction_text": answer.best_text, "no_answer_probability": answer.null_odds}
            for answer in answers
        ]
        threshold = self.finder.null_score_diff_threshold
        return SquadV2().compute(
            predictions=predictions, references=references, no_answer_threshold=threshold
        )
