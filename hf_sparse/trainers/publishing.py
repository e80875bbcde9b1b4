"""What a Trainer publishes: a small model that everybody can load, with a card of what was measured."""

from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi

from hf_sparse.hub.card import write_card
from hf_sparse.hub.pushing import Pushed, push
from hf_sparse.training.mixin import SparseTrainingMixin


class SparseTrainerMixin(SparseTrainingMixin):
    """Prunes, distils, quantizes by a recipe in any Trainer: `class Mine(SparseTrainerMixin, Theirs)`.

    `SparseTrainingMixin` has its arguments.
    """

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> "Pushed | Future[Pushed] | CommitInfo | None":
        """Push the model as `hf_sparse.hub.push` does, in one commit; return what was pushed, or its future.

        `kwargs` are those of `create_model_card`. An adapter is pushed as `Trainer` does. Raises as `push`.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token, card = token or self.args.hub_token, self._card_options(kwargs)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        self.save_state()
        if not self.is_world_process_zero():
            return None
        if self.push_in_progress is not None:
            self.push_in_progress.wait_until_done()
        publish = partial(
            push,
            self.args.output_dir,
            self.hub_model_id,
            token=token,
            private=private,
            revision=revision or self.args.hub_revision,
            message=commit_message,
            **card,
        )
        return publish() if blocking else HfApi().run_as_future(publish)

    def create_model_card(self, **kwargs: Any) -> None:
        """Write a card of what was measured into the output directory; raises as `write_card` does.

        Of what `Trainer` takes there, `tasks`, `dataset`, `dataset_tags` and `dataset_args` go to `facts`,
        `finetuned_from`, `license` and `language` to the card; tags are found, and the name is the
        directory's.
        """
        if self.is_world_process_zero():
            home = Path(self.args.output_dir)
            name = self.hub_model_id or self.args.hub_model_id or home.resolve().name
            write_card(home, home, name, **self._card_options(kwargs))

    def _card_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keep what `facts` hold of it; return the rest as `write_card` calls it."""
        facts = {
            "task": given.get("tasks"),
            "dataset": given.get("dataset_tags") or given.get("dataset"),
            "config": given.get("dataset_args"),
        }
        for name, value in facts.items():
            if value:
                self.facts[name] = value if isinstance(value, str) else value[0]
        return {
            "base_model": given.get("finetuned_from"),
            "licence": given.get("license"),
            "language": given.get("language"),
        }
