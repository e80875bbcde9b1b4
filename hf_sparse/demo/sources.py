"""Text, examples and the model that the demo starts from: built in, or the user's own."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import Dataset, DatasetDict
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

from hf_sparse.data.files import load_splits
from hf_sparse.data.positions import most_tokens
from hf_sparse.data.texts import Labels, find_labels, label_encoder, text_columns
from hf_sparse.demo.corpus import library_docstrings, library_sections, library_texts
from hf_sparse.demo.settings import DemoSettings, Plan

_VALIDATIONS = ("validation", "validation_matched", "test")
_HELD_OUT_SHARE = 20


@dataclass(frozen=True)
class Examples:
    """Labeled texts: one column of texts or two, a class number for each row."""

    texts: tuple[list[str], ...]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Sources:
    """Data of the demo: running text for masked language modeling, labeled examples of the task."""

    texts: list[str]
    held_out_texts: list[str]
    names: tuple[str, ...]
    train: Examples
    validation: Examples

    @property
    def digest(self) -> str:
        """Return a hash of all texts and labels."""
        lines: list[Sequence[object]] = [self.texts, self.held_out_texts, self.names]
        for rows in (self.train, self.validation):
            lines += (*rows.texts, rows.labels)
        return hashlib.sha256(repr(lines).encode()).hexdigest()

    @property
    def balance(self) -> dict[str, int]:
        """Count the training examples of every class."""
        counts = Counter(self.train.labels)
        return {name: counts[number] for number, name in enumerate(self.names)}

    @property
    def majority(self) -> float:
        """Return the validation accuracy of always answering the class that is most frequent in training."""
        answer = Counter(self.train.labels).most_common(1)[0][0]
        return self.validation.labels.count(answer) / len(self.validation)


def load_sources(settings: DemoSettings) -> Sources:
    """Read the data that the settings name; without a text, pre-training uses the dataset's."""
    docstrings = library_docstrings() if settings.dataset is None else []
    task = (
        load_splits_of(settings.dataset, settings.dataset_config)
        if settings.dataset
        else library_sections(docstrings)
    )
    limit = settings.plan.rows
    names, train, validation = _task(task, limit)
    if settings.text is not None:
        texts, held_out = _running_texts(load_splits_of(settings.text), limit)
    elif settings.dataset is not None:
        texts, held_out = ([text for column in rows.texts for text in column] for rows in (train, validation))
    else:
        texts, held_out = _running_texts(library_texts(docstrings), limit)
    return Sources(texts, held_out, names, train, validation)


def load_splits_of(source: str, config: str | None = None) -> DatasetDict:
    """Load a dataset from a Hub name, a directory, or a single file, which becomes the train split."""
    try:
        return load_splits(files={"train": source}) if Path(source).is_file() else load_splits(source, config)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no dataset could be read from {source}; give a file, a directory with a file train.parquet, "
            f"train.csv, train.jsonl or train.txt, or a Hub name\n{error}"
        ) from error


def _task(splits: DatasetDict, limit: int | None) -> tuple[tuple[str, ...], Examples, Examples]:
    train, validation = _train_validation(splits)
    labels = find_labels(train)
    if labels.regression:
        raise ValueError(
            "the demo compares accuracies, and the labels of this dataset are numbers; give one with classes"
        )
    examples = _examples(_first(train, limit), labels), _examples(_first(validation, limit), labels)
    return labels.names, *examples


def _examples(rows: Dataset, labels: Labels) -> Examples:
    if not len(rows):
        raise ValueError("the dataset has a split without rows; give rows for training and for validation")
    class_of = label_encoder(rows, "label", labels)
    texts = tuple([text or "" for text in rows[column]] for column in text_columns(rows))
    return Examples(texts, [int(class_of(value)) for value in rows["label"]])


def _running_texts(splits: DatasetDict, limit: int | None) -> tuple[list[str], list[str]]:
    train, validation = _train_validation(splits)
    return _texts(_first(train, limit)), _texts(_first(validation, limit))


def _texts(rows: Dataset) -> list[str]:
    column = "text" if "text" in rows.column_names else text_columns(rows)[0]
    return [text for text in rows[column] if text and not text.isspace()]


def _train_validation(splits: DatasetDict) -> tuple[Dataset, Dataset]:
    """Return the train and the validation split; if there is only train, every 20th row of it is held out."""
    if "train" not in splits:
        raise ValueError(f"the data lacks a split 'train' and has {list(splits)}; name a file train.*")
    train = splits["train"]
    for name in _VALIDATIONS:
        if name in splits:
            return train, splits[name]
    rows = range(len(train))
    held_out = [row for row in rows if row % _HELD_OUT_SHARE == 0]
    return train.select([row for row in rows if row % _HELD_OUT_SHARE]), train.select(held_out)


def _first(rows: Dataset, limit: int | None) -> Dataset:
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def words(texts: Iterable[str]) -> int:
    return sum(len(text.split()) for text in texts)


_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class BaseModel:
    """How to make or load the model, and its tokenizer; `length` is the number of tokens a text is cut to."""

    tokenizer: PreTrainedTokenizerBase
    load: Callable[[], PreTrainedModel]
    length: int
    fingerprint: str


def find_base_model(settings: DemoSettings, sources: Sources) -> BaseModel:
    """Return the model that the settings name, or a new one with a vocabulary learned from the text.

    Raises `ValueError` if the named model cannot be loaded as a masked language model.
    """
    return _new(settings, sources) if settings.model is None else _given(settings.model, settings)


def _new(settings: DemoSettings, sources: Sources) -> BaseModel:
    plan = settings.plan
    tokenizer = learn_vocabulary(sources.texts, plan.vocabulary, plan.length)
    shape = (plan.hidden, plan.layers, plan.length, len(tokenizer))
    return BaseModel(tokenizer, partial(new_model, tokenizer, plan), plan.length, f"new {shape}")


def _given(name: str, settings: DemoSettings) -> BaseModel:
    # If a checkpoint lacks the masked-language-modeling head, a random one is drawn.
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
