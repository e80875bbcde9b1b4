"""Drop-in replacements for the Trainers of transformers, and the mixin for all others."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import CommitInfo
from transformers import PreTrainedModel, Seq2SeqTrainer, Trainer
from transformers.utils import PushInProgress

from hf_sparse.hub.card.options import CardOptions
from hf_sparse.hub.card.render import CARD, is_generated
from hf_sparse.hub.card.write import write_card
from hf_sparse.hub.upload import Pushed, push
from hf_sparse.modules import class_name
from hf_sparse.training.checkpoints.push import ignore_private
from hf_sparse.training.host import Host
from hf_sparse.training.mixin import PartsMixin

logger = logging.getLogger(__name__)


class PushMixin(Host):
    """Lets a Trainer push its model, and write its card, as `hf_sparse.hub.upload` does."""

    facts: dict[str, str]
    _why_no_card: str | None = None

    def push_to_hub(  # type: ignore[override]  # Trainer returns futures too, unlike its annotation
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> "Pushed | Future[Pushed] | CommitInfo | Future[CommitInfo] | None":
        """Push the model as `hf_sparse.hub.upload` does, in one commit.

        Scores of an earlier model are left out of the card with a warning. Anything but a model of
        transformers, such as an adapter, is pushed as `Trainer` does.

        Args:
            commit_message: Title of the commit.
            blocking: Wait until everything is sent; otherwise return a future.
            token: Access token; by default `hub_token` of the training arguments.
            revision: Branch to push to; by default `hub_revision` of the training arguments.
            private: Make a new repository private; by default `hub_private_repo` of the training arguments.
            kwargs: As `create_model_card` takes them.

        Returns:
            What was pushed or a future of it, None on other processes than the first.

        Raises:
            ValueError, PermissionError, ConnectionError, RuntimeError: As `hf_sparse.hub.upload`.
        """
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, PreTrainedModel):
            ignore_private(self._home())
            # transformers before 5.23 lacks this parameter.
            more = kwargs if private is None else kwargs | {"private": private}
            return super().push_to_hub(commit_message, blocking, token, revision, **more)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        card = self._card_options(kwargs)
        self.save_model(_internal_call=True)
        self.save_state()
        if not self.is_world_process_zero():
            return None
        if (pending := getattr(self, "push_in_progress", None)) is not None:
            pending.wait_until_done()
        result = push(
            self._home(),
            self._repository(),
            model=self._unknown(model),
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            card=card,
            run_as_future=not blocking,
        )
        if isinstance(result, Future):
            self.push_in_progress = PushInProgress([result])  # type: ignore[arg-type]  # takes a list
        return result

    # Trainers of other libraries have other parameters, so this takes keywords only.
    def create_model_card(self, **kwargs: Any) -> None:  # type: ignore[override]  # see above
        """Write a card of what was measured into the output directory.

        A README.md that somebody wrote or changed stays. Some Trainers call this at every checkpoint, and an
        error must not end a run: during training it is logged once as a warning.

        Args:
            kwargs: As `Trainer.create_model_card` takes them. `tasks`, `dataset`, `dataset_tags` and
                `dataset_args` are added to `facts`; `finetuned_from`, `license` and `language` go on the
                card; tags and model name are found, not taken from here.

        Raises:
            ValueError: As `hf_sparse.hub.write_card`, outside of training.
        """
        try:
            self._write_model_card(**kwargs)
        except Exception as error:
            if not self.is_in_train:
                raise
            if (reason := f"{error}") != self._why_no_card:
                self._why_no_card = reason
                logger.warning(
                    "No card is written for now: %s. Training goes on; once the model is saved, "
                    "trainer.create_model_card() writes one.",
                    reason or type(error).__name__,
                )

    def _write_model_card(self, **kwargs: Any) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, PreTrainedModel):
            super().create_model_card(**kwargs)
        elif self.is_world_process_zero():
            home = self._home()
            card = home / CARD
            if card.is_file() and not is_generated(card.read_text(encoding="utf-8")):
                logger.warning("%s was written or changed by somebody, so no card takes its place.", card)
                return
            options = self._card_options(kwargs)
            write_card(home, home, self._repository(), model=self._unknown(model), card=options)

    def _repository(self) -> str:
        return self.hub_model_id or self.args.hub_model_id or self._home().resolve().name

    def _home(self) -> Path:
        return Path(self.args.output_dir or ".")

    def _unknown(self, model: PreTrainedModel) -> PreTrainedModel | None:
        """Return the model if transformers lacks its class, so that it cannot be loaded, else None."""
        return None if hasattr(transformers, class_name(model)) else model

    def _card_options(self, given: Mapping[str, Any]) -> CardOptions:
        """Take the facts of the run out of the keywords of `create_model_card`; return the card's options."""
        facts = {
            "task": given.get("tasks"),
            "dataset": given.get("dataset_tags") or given.get("dataset") or given.get("dataset_name"),
            "config": given.get("dataset_args"),
        }
        for name, value in facts.items():
            if value:
                self.facts[name] = value if isinstance(value, str) else value[0]
        return CardOptions(
            base_model=given.get("finetuned_from"),
            license=given.get("license"),
            language=given.get("language"),
            # Results of an earlier run in the same directory must not end the training in an error.
            outdated="leave out",
        )


class SparseTrainerMixin(PushMixin, PartsMixin):
    """Train any Trainer by a recipe: `class Mine(SparseTrainerMixin, TheirTrainer)`.

    The run is pruned, distilled and quantized as the recipe asks; its checkpoints are whole or absent and
    hold what an exact resume needs; `push_to_hub` uploads a model that stock transformers loads, with a card
    of what was measured. With an empty recipe it trains exactly like the base Trainer.

    Args:
        *args: Arguments of the base Trainer, such as the model.
        recipe: What to do to the model. None, or an empty recipe, does nothing, except that the zeros of a
            model that is sparse already are kept.
        teacher: The model to distill from, which reads the same inputs. It is frozen and put into evaluation
            mode, and neither saved nor optimized. Needed if the recipe has distillation with
            `teacher: given`, refused otherwise.
        allow_schedule_change: Let a resumed run have another schedule, another length or other training
            arguments than the run that wrote the checkpoint. Sparsity never falls.
        **kwargs: Keyword arguments of the base Trainer.

    Attributes:
        recipe: The recipe that the run follows, which may lock zeros that the given one does not mention.
        facts: What only the caller knows about the run, such as its `dataset`, by name; the run record and
            the card show it.
        sparsifier: Masks and schedule; None before training begins, or without sparsity.
        distiller: Teacher and loss terms; None without distillation.
        quantizer: Quantized layers; None without quantization.
        parts: What the recipe asks for, as `hf_sparse.training.parts.part.RunPart`s.

    Raises:
        TypeError: `recipe` is not a `Recipe`, or `teacher` is not a model.
        ValueError: Recipe, model, teacher and training arguments do not fit each other.
    """


class SparseTrainer(SparseTrainerMixin, Trainer):
    """A `Trainer` that prunes, distills and quantizes by a recipe.

    Args:
        *args: Arguments of `Trainer`, such as the model.
        recipe, teacher, allow_schedule_change: As in `SparseTrainerMixin`.
        **kwargs: Keyword arguments of `Trainer`.

    Raises:
        TypeError, ValueError: As in `SparseTrainerMixin`.
    """


class SparseSeq2SeqTrainer(SparseTrainerMixin, Seq2SeqTrainer):
    """A `Seq2SeqTrainer` that prunes, distills and quantizes by a recipe; it can score generated texts.

    Args:
        *args: Arguments of `Seq2SeqTrainer`, such as the model.
        recipe, teacher, allow_schedule_change: As in `SparseTrainerMixin`.
        **kwargs: Keyword arguments of `Seq2SeqTrainer`.

    Raises:
        TypeError, ValueError: As in `SparseTrainerMixin`.
    """
