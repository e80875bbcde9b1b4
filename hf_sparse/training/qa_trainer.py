"""A Trainer that evaluates question answering by the text of the answers."""

from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from hf_sparse.data.qa_answers import Answer, AnswerFinder
from hf_sparse.data.qa_features import QuestionSet
from hf_sparse.metrics.squad import Squad, SquadV2
from hf_sparse.training.trainer import SparseTrainer


class QuestionAnsweringTrainer(SparseTrainer):
    """A SparseTrainer whose evaluation sets are `QuestionSet`s: it finds the answers and scores their text.

    `evaluate` reports the scores of `Squad` or, with the finder's `version_2_with_negative`, those of
    `SquadV2`, but no loss. `predict` returns a list of `Answer`s as its `predictions`, with scores where the
    true answers are known. Every process finds all answers.

    Args:
        *args: Arguments of `SparseTrainer`.
        finder: How answers are chosen; by default an `AnswerFinder()`.
        **kwargs: Keyword arguments of `SparseTrainer`.

    Raises:
        ValueError: The training arguments reorder or split the windows of evaluation sets, or choose the best
            model by a loss.
    """

    def __init__(self, *args: Any, finder: AnswerFinder | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.finder = finder or AnswerFinder()
        _check_arguments(self.args)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the model over the windows of a `QuestionSet`; return answers, not logits, and scores."""
        questions = dataloader.dataset
        if not isinstance(questions, QuestionSet):
            raise TypeError(
                f"evaluation needs a QuestionSet, got a {type(questions).__name__}; build one from it"
            )
        # False: without compute_metrics, Trainer would compute the loss alone.
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        answers = self.finder.find(questions, *output.predictions[:2])
        scores = self._score(questions, answers).items()
        metrics = (output.metrics or {}) | {f"{metric_key_prefix}_{name}": score for name, score in scores}
        # Trainer passes predictions on as they are; its annotation names arrays only.
        return output._replace(predictions=answers, metrics=metrics)  # type: ignore[arg-type]

    def _score(self, questions: QuestionSet, answers: list[Answer]) -> dict[str, float]:
        if questions.answers is None:
            return {}
        references: list[dict[str, Any]] = []
        for name, given in zip(questions.ids, questions.answers, strict=True):
            texts, starts = [text for text, _ in given], [start for _, start in given]
            references.append({"id": name, "answers": {"text": texts, "answer_start": starts}})
        if not self.finder.version_2_with_negative:
            texts_of = [{"id": answer.id, "prediction_text": answer.text} for answer in answers]
            return Squad().compute(predictions=texts_of, references=references)
        # The best text of every question, even where no answer is more likely: SquadV2 searches thresholds.
        predictions = [
            {"id": answer.id, "prediction_text": answer.best_text, "no_answer_probability": answer.null_odds}
            for answer in answers
        ]
        return SquadV2().compute(
            predictions=predictions,
            references=references,
            no_answer_threshold=self.finder.null_score_diff_threshold,
        )


def _check_arguments(args: TrainingArguments) -> None:
    if args.train_sampling_strategy == "group_by_length":
        raise ValueError(
            "train_sampling_strategy group_by_length shuffles evaluation sets as well, whose order assigns "
            "windows to questions; choose another one"
        )
    if args.batch_eval_metrics or not args.eval_do_concat_batches:
        raise ValueError(
            "the windows of a question may lie in several batches, so answers are found after the last one; "
            "leave batch_eval_metrics and eval_do_concat_batches out"
        )
    if (args.metric_for_best_model or "").endswith("loss"):
        raise ValueError(
            f"answers are scored without a loss, so {args.metric_for_best_model!r} cannot choose the best "
            "model; set metric_for_best_model to f1"
        )
