"""The model that all stages of the demo start from: a new one, or one that the user names."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from safetensors.torch import save
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from hf_sparse.data.positions import most_tokens
from hf_sparse.demo.settings import DemoSettings, Plan
from hf_sparse.demo.sources import Sources

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class BaseModel:
    """How to make or load the model, and its tokenizer; `length` is the number of tokens a text is cut to."""

    tokenizer: PreTrainedTokenizerBase
    load: Callable[[], PreTrainedModel]
    length: int
    fingerprint: str


def find_base_model(settings: DemoSettings, sources: Sources) -> BaseModel:
    """Return the model that the settings name, or a new one with a vocabulary learnt from the text.

    Raises `ValueError` if the named model cannot be loaded as a masked language model.
    """
    return _new(settings, sources) if settings.model is None else _given(settings.model, settings)


def _new(settings: DemoSettings, sources: Sources) -> BaseModel:
    plan = settings.plan
    tokenizer = learn_vocabulary(sources.texts, plan.vocabulary, plan.length)
    shape = (plan.hidden, plan.layers, plan.length, len(tokenizer))
    return BaseModel(tokenizer, partial(new_model, tokenizer, plan), plan.length, f"new {shape}")


def _given(name: str, settings: DemoSettings) -> BaseModel:
    # If a checkpoint lacks the masked-language-modelling head, a random one is drawn.
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
    return BaseModel(tokenizer, load, length, _digest(model))


def _digest(model: PreTrainedModel) -> str:
    """Return a hash of a model's weights."""
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
    return hashlib.sha256(save(tensors)).hexdigest()


def new_model(tokenizer: PreTrainedTokenizerBase, plan: Plan) -> BertForMaskedLM:
    """Make a small BERT with random weights."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden,
        num_hidden_layers=plan.layers,
        num_attention_heads=max(1, plan.hidden // 32),
        intermediate_size=4 * plan.hidden,
        max_position_embeddings=max(plan.length, 2),
    )
    return BertForMaskedLM(config)


def learn_vocabulary(texts: Sequence[str], size: int, length: int) -> BertTokenizer:
    """Learn a WordPiece vocabulary of lower-case words: at most `size` pieces, or one for each character.

    The same text gives the same vocabulary every time. `length` becomes `model_max_length`.
    """
    learner = Tokenizer(WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    characters = sorted(set().union(*map(learner.normalizer.normalize_str, texts)) - {" "})
    # The trainer numbers characters inside words in the order of a hash map, which then decides between
    # equally frequent pieces, except for those it is given.
    given = [*_SPECIAL, *characters, *(f"##{character}" for character in characters)]
    learner.train_from_iterator(
        texts, WordPieceTrainer(vocab_size=size, special_tokens=given, show_progress=False)
    )
    return BertTokenizer(vocab=learner.get_vocab(), do_lower_case=True, model_max_length=length)
