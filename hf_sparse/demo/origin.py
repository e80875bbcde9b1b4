"""The model that the whole demo starts from, new or the user's."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from safetensors.torch import save
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from hf_sparse.data.positions import most_tokens
from hf_sparse.demo.lessons import new_model
from hf_sparse.demo.settings import DemoSettings
from hf_sparse.demo.sources import Sources
from hf_sparse.demo.vocabulary import learn_vocabulary


@dataclass(frozen=True)
class Origin:
    """How the model is made or loaded, with its tokenizer; `length` is how many tokens of a text it sees."""

    tokenizer: PreTrainedTokenizerBase
    load: Callable[[], PreTrainedModel]
    length: int
    fingerprint: str


def find_origin(settings: DemoSettings, sources: Sources) -> Origin:
    """Find the model that the settings name, or plan a new one with a vocabulary learnt from the text.

    Raises `ValueError` if the named model cannot be loaded as a masked language model.
    """
    return _new(settings, sources) if settings.model is None else _given(settings.model, settings)


def _new(settings: DemoSettings, sources: Sources) -> Origin:
    plan = settings.plan
    tokenizer = learn_vocabulary(sources.texts, plan.vocabulary, plan.length)
    shape = (plan.hidden, plan.layers, plan.length, len(tokenizer))
    return Origin(tokenizer, partial(new_model, tokenizer, plan), plan.length, f"new {shape}")


def _given(name: str, settings: DemoSettings) -> Origin:
    # A checkpoint may lack the head for masked words, which is then drawn at random.
    set_seed(settings.seed)
    try:
        load = partial(AutoModelForMaskedLM.from_pretrained, name)
        tokenizer, model = AutoTokenizer.from_pretrained(name), load()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} could not be loaded as a masked language model with its tokenizer; "
            f"give a directory or a Hub name of one\n{error}"
        ) from error
    most = most_tokens(model) or tokenizer.model_max_length
    length = min(settings.plan.length, tokenizer.model_max_length, most)
    return Origin(tokenizer, load, length, _digest(model))


def _digest(model: PreTrainedModel) -> str:
    """Return a hash of a model's weights."""
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
    return hashlib.sha256(save(tensors)).hexdigest()
