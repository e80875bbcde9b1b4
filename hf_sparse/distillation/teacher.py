"""Load and freeze a teacher, and check that its outputs are comparable with those of its student."""

import logging
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from hf_sparse.distillation.features import term_names
from hf_sparse.distillation.inputs import TARGET_NAMES, Taken
from hf_sparse.distillation.unwrap import unwrapped

logger = logging.getLogger(__name__)

# Every saved tokenizer has at least one of these.
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# Options of `from_pretrained` that locate a model on the Hub.
HUB_OPTIONS = {
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
}
_SHOWN = 5


class LearnedTerms(Protocol):
    """Weights of the terms that need a head."""

    @property
    def task(self) -> float: ...
    @property
    def logits(self) -> float: ...


def freeze(teacher: nn.Module) -> nn.Module:
    """Return the model, set to evaluation mode and without gradients."""
    return teacher.eval().requires_grad_(False)


def check_compatible(student: nn.Module, teacher: nn.Module, outputs: bool = True) -> None:
    """Check that a teacher can teach a student.

    The two may not share weights and need the same vocabulary size. If `outputs` are compared, they also need
    the same kind of head, number of labels, problem type and label names. Models without a transformers
    configuration are checked for shared weights alone.

    Args:
        student: The model to train.
        teacher: The model that it learns from.
        outputs: Whether the outputs of both are compared.

    Raises:
        ValueError: The teacher does not fit.
    """
    _check_nothing_shared(student, teacher)
    student_config, teacher_config = (
        getattr(unwrapped(model), "config", None) for model in (student, teacher)
    )
    if not (isinstance(student_config, PreTrainedConfig) and isinstance(teacher_config, PreTrainedConfig)):
        return
    _check_same(
        "vocabulary size",
        _vocabulary_size(student_config),
        _vocabulary_size(teacher_config),
        "take a teacher that was trained with the student's tokenizer",
    )
    if not outputs:
        return
    heads = _head(student), _head(teacher)
    _check_same("kind of head", *heads, "load both with the same AutoModelFor... class")
    if heads[0] is None or "Classification" in heads[0]:
        _check_same_labels(student_config, teacher_config)


def _vocabulary_size(config: PreTrainedConfig) -> int | None:
    return getattr(config.get_text_config(), "vocab_size", None)


def check_learnable(student: nn.Module, recipe: LearnedTerms) -> None:
    """Raise `ValueError` if every weight is frozen, or if a term needs a head that the student lacks."""
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError(
            f"every weight of {type(student).__name__} is frozen, so no term has a gradient; let some train"
        )
    if has_head(student):
        return
    for name in ("task", "logits"):
        if getattr(recipe, name):
            raise ValueError(
                f"{name} has weight {getattr(recipe, name)}, and {type(student).__name__} lacks a head to "
                f"compute it; override distillation.{name}=0 and give a weight to {term_names()}, or load "
                "the model with a head"
            )


def has_head(model: nn.Module) -> bool:
    """Return whether a model can compute a loss; an encoder as `AutoModel` loads it cannot.

    A transformers model can if its forward pass takes labels or answer positions. Other models are assumed to
    have a head.
    """
    model = unwrapped(model)
    if not isinstance(model, PreTrainedModel):
        return True
    losses_from = TARGET_NAMES | {"return_loss"}
    return any("label" in name or name in losses_from for name in Taken.by(model).names)


def check_same_vocabulary(student_tokenizer: Any, teacher_tokenizer: Any) -> None:
    """Raise `ValueError` unless both tokenizers give every token the same id."""
    student_ids, teacher_ids = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    different = sorted(
        token
        for token in student_ids.keys() | teacher_ids.keys()
        if student_ids.get(token) != teacher_ids.get(token)
    )
    if different:
        raise ValueError(
            f"student and teacher give {len(different):,} tokens other ids, such as {different[:_SHOWN]}; "
            "take a teacher that was trained with the student's tokenizer"
        )


def check_own_tokenizer(processing_class: Any, teacher: nn.Module) -> None:
    """Raise `ValueError` if the tokenizer saved with the teacher gives different ids than the student's.

    `processing_class` is the student's tokenizer or a processor that holds one; anything else passes. Only
    local files are read; a teacher whose tokenizer is not on this machine passes, too.
    """
    student_tokenizer = getattr(processing_class, "tokenizer", processing_class)
    home = getattr(getattr(unwrapped(teacher), "config", None), "name_or_path", None)
    here = {"local_files_only": True}
    if not (home and hasattr(student_tokenizer, "get_vocab") and has_tokenizer(home, here)):
        return
    try:
        teacher_tokenizer = AutoTokenizer.from_pretrained(home, trust_remote_code=False, **here)
    except (OSError, ValueError, ImportError) as error:
        logger.warning(
            "The teacher's tokenizer in %s cannot be read (%s), so its token ids are not compared with the "
            "student's.",
            home,
            (str(error).splitlines() or [type(error).__name__])[0],
        )
        return
    check_same_vocabulary(student_tokenizer, teacher_tokenizer)


def load_teacher(
    name_or_path: str, student: PreTrainedModel, processing_class: Any = None, **from_pretrained_kwargs: Any
) -> PreTrainedModel:
    """Load a frozen teacher with the student's kind of head and check that the two fit.

    Args:
        name_or_path: Hub name or directory of the teacher.
        student: The model to train; without a head, the teacher is loaded without one.
        processing_class: The student's tokenizer; it is compared with the tokenizer saved with the teacher,
            if both exist.
        **from_pretrained_kwargs: Passed to the teacher's `from_pretrained`, such as `revision` or `dtype`.

    Returns:
        The teacher in evaluation mode, without gradients.

    Raises:
        ValueError: The teacher does not fit the student, or its checkpoint lacks weights of the head.
    """
    hub = {name: value for name, value in from_pretrained_kwargs.items() if name in HUB_OPTIONS}
    if hasattr(processing_class, "get_vocab") and has_tokenizer(name_or_path, hub):
        check_same_vocabulary(processing_class, AutoTokenizer.from_pretrained(name_or_path, **hub))
    headed = has_head(student)
    wanted = f"For{_head(student)}" if headed else "Model"
    architecture = _architecture(name_or_path, AutoConfig.from_pretrained(name_or_path, **hub), wanted)
    # With `output_loading_info` it returns a pair, which the annotation of transformers leaves out.
    loaded: Any = architecture.from_pretrained(
        name_or_path, output_loading_info=True, **from_pretrained_kwargs
    )
    teacher: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if not headed:
        # Poolers do not contribute to the compared states.
        missing = [name for name in missing if not name.startswith("pooler.")]
    if missing:
        raise ValueError(
            f"{name_or_path} has no weights for {missing[:_SHOWN]} of "
            f"{architecture.__name__}, which would be random; train it on the student's task first"
        )
    check_compatible(student, teacher, outputs=headed)
    freeze(teacher)
    return teacher


def _check_nothing_shared(student: nn.Module, teacher: nn.Module) -> None:
    students = {id(parameter) for parameter in student.parameters()}
    if teacher is student or any(id(parameter) in students for parameter in teacher.parameters()):
        raise ValueError(
            f"the teacher {type(teacher).__name__} shares weights with the student, so freezing it would "
            "freeze the student; load the teacher separately, or pass copy.deepcopy(model)"
        )


def _check_same(what: str, student: object, teacher: object, remedy: str) -> None:
    """Raise `ValueError` if both values are known and differ."""
    if student is not None and teacher is not None and student != teacher:
        raise ValueError(f"the student's {what} is {student}, the teacher's {teacher}; {remedy}")


def _check_same_labels(student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
    remedy = "take a teacher that was trained for the student's labels"
    _check_same("number of labels", student.num_labels, teacher.num_labels, remedy)
    _check_same("problem type", _problem_type(student), _problem_type(teacher), remedy)
    names, teacher_names = _label_names(student), _label_names(teacher)
    if names is None or teacher_names is None:
        return
    wrong = [index for index in sorted(names) if names[index] != teacher_names.get(index)]
    if wrong:
        pairs = [f"{index}: {names[index]} / {teacher_names.get(index)}" for index in wrong[:_SHOWN]]
        raise ValueError(
            f"student and teacher name {len(wrong)} of {len(names)} labels differently ({', '.join(pairs)}); "
            "give the student the id2label of its teacher, with the data labeled in that order"
        )


def _problem_type(config: PreTrainedConfig) -> str | None:
    return config.problem_type or ("regression" if config.num_labels == 1 else None)


def _label_names(config: PreTrainedConfig) -> dict[int, str] | None:
    """Return the lower-case names of the labels, None if they are just LABEL_0, LABEL_1, ..."""
    names = {int(index): str(name).lower() for index, name in (config.id2label or {}).items()}
    return None if all(name == f"label_{index}" for index, name in names.items()) else names


def _head(model: nn.Module) -> str | None:
    """Return the kind of head: "MaskedLM" for BertForMaskedLM, "none" for BertModel, None if unknown.

    A class derived from a transformers class has the head of that class, if it has one.
    """
    kind = type(unwrapped(model))
    for ancestor in kind.__mro__:
        if ancestor.__module__.startswith("transformers.models."):
            return _purpose(ancestor.__name__) or ("none" if ancestor is kind else None)
    return None


def _purpose(class_name: str) -> str | None:
    if class_name.endswith("LMHeadModel"):
        return "CausalLM"
    found = re.search(r"For([A-Z]\w*)$", class_name)
    return found and found[1]


def _architecture(name_or_path: str, config: PreTrainedConfig, ending: str) -> type[PreTrainedModel]:
    """Return the class to load a checkpoint with: its own, with the student's ending if such a class exists.

    A BertForPreTraining checkpoint, whose heads include masked language modeling, is thus loaded as a
    BertForMaskedLM for such a student, and as a BertModel for an encoder.
    """
    saved = (config.architectures or ["no architecture"])[0]
    wanted = re.sub(r"(For[A-Z]\w*|LMHeadModel)$", ending, saved)
    architecture = getattr(transformers, wanted, None) or getattr(transformers, saved, None)
    if architecture is None:
        raise ValueError(
            f"{name_or_path} holds {saved}, which transformers {transformers.__version__} lacks; "
            "load it yourself and pass it as teacher="
        )
    return architecture


def has_tokenizer(name_or_path: str, hub: Mapping[str, Any] = MappingProxyType({})) -> bool:
    """Return whether a tokenizer is saved with a model; `hub` holds options of `from_pretrained`."""
    return any(_has_file(name_or_path, file, hub) for file in TOKENIZER_FILES)


def _has_file(name_or_path: str, file: str, hub: Mapping[str, Any]) -> bool:
    options = {name: value for name, value in hub.items() if name != "trust_remote_code"}
    try:
        return cached_file(name_or_path, file, **options) is not None
    except OSError:
        return False
