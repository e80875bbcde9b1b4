"""A teacher that is frozen, with the checks that its outputs mean what its student's mean."""

import logging
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from hf_sparse.distillation.inputs import TARGET_NAMES, Taken
from hf_sparse.distillation.unwrap import unwrapped

logger = logging.getLogger(__name__)

# Of which a saved tokenizer has one at least.
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# What `from_pretrained` takes to find a model on the Hub.
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
    """The weights of the terms that need a head."""

    @property
    def task(self) -> float: ...
    @property
    def logits(self) -> float: ...


def freeze(teacher: nn.Module) -> nn.Module:
    """Put a model into evaluation mode, stop its gradients, return it."""
    return teacher.eval().requires_grad_(False)


def check_compatible(student: nn.Module, teacher: nn.Module, outputs: bool = True) -> None:
    """Raise `ValueError` unless the teacher's outputs mean what the student's mean.

    Compares weights (none may be shared) and vocabulary size; where `outputs` are to be compared, also kind
    of head, number of labels, problem type, label names. Models without a configuration are only checked for
    shared weights.
    """
    _check_nothing_shared(student, teacher)
    ours, theirs = (getattr(unwrapped(model), "config", None) for model in (student, teacher))
    if not (isinstance(ours, PreTrainedConfig) and isinstance(theirs, PreTrainedConfig)):
        return
    sizes = [getattr(config.get_text_config(), "vocab_size", None) for config in (ours, theirs)]
    _check_same("vocabulary size", *sizes, "take a teacher that was trained with the student's tokenizer")
    if not outputs:
        return
    heads = _head(student), _head(teacher)
    _check_same("kind of head", *heads, "load both with the same AutoModelFor... class")
    if heads[0] is None or "Classification" in heads[0]:
        _check_same_labels(ours, theirs)


def check_learnable(student: nn.Module, recipe: LearnedTerms) -> None:
    """Raise `ValueError` where nothing trains, or a term needs a head that the student has not."""
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError(
            f"every weight of {type(student).__name__} is frozen, so no term has a gradient; let some train"
        )
    if has_head(student):
        return
    for name in ("task", "logits"):
        if getattr(recipe, name):
            raise ValueError(
                f"{name} has weight {getattr(recipe, name)}, and {type(student).__name__} has no head that "
                f"would give it; override distillation.{name}=0 and give a weight to hidden, attention or "
                "relations, or load the model with a head"
            )


def has_head(model: nn.Module) -> bool:
    """Say whether a model can give a loss of its own; an encoder as `AutoModel` loads it cannot.

    One of transformers' models does where its forward pass takes what a loss is made of; of others nothing is
    known, so they are taken to.
    """
    model = unwrapped(model)
    if not isinstance(model, PreTrainedModel):
        return True
    losses_from = TARGET_NAMES | {"return_loss"}
    return any("label" in name or name in losses_from for name in Taken.by(model).names)


def check_same_vocabulary(student_tokenizer: Any, teacher_tokenizer: Any) -> None:
    """Raise `ValueError` unless both tokenizers give every token the same id."""
    ours, theirs = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    different = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if different:
        raise ValueError(
            f"student and teacher give {len(different):,} tokens other ids, such as {different[:_SHOWN]}; "
            "take a teacher that was trained with the student's tokenizer"
        )


def check_own_tokenizer(processing_class: Any, teacher: nn.Module) -> None:
    """Raise `ValueError` where the tokenizer that lies beside a teacher on this machine gives other ids.

    `processing_class`: the student's tokenizer, or a processor with one; anything else passes, and so does a
    teacher without a known tokenizer here.
    """
    ours = getattr(processing_class, "tokenizer", processing_class)
    home = getattr(getattr(unwrapped(teacher), "config", None), "name_or_path", None)
    here = {"local_files_only": True}
    if not (home and hasattr(ours, "get_vocab") and has_tokenizer(home, here)):
        return
    try:
        theirs = AutoTokenizer.from_pretrained(home, trust_remote_code=False, **here)
    except (OSError, ValueError, ImportError) as error:
        logger.warning(
            "The teacher's tokenizer in %s cannot be read (%s), so whether it gives tokens the ids of the "
            "student's is not known.",
            home,
            (str(error).splitlines() or [type(error).__name__])[0],
        )
        return
    check_same_vocabulary(ours, theirs)


def load_teacher(
    name_or_path: str, student: PreTrainedModel, processing_class: Any = None, **from_pretrained_kwargs: Any
) -> PreTrainedModel:
    """Load a frozen teacher with the student's kind of head, or none, after checking that the two fit.

    `processing_class`: the student's tokenizer, compared with the teacher's where there is one. Raises
    `ValueError` if they do not fit, or if the checkpoint lacks weights of such a head.
    """
    hub = {name: value for name, value in from_pretrained_kwargs.items() if name in HUB_OPTIONS}
    if hasattr(processing_class, "get_vocab") and has_tokenizer(name_or_path, hub):
        check_same_vocabulary(processing_class, AutoTokenizer.from_pretrained(name_or_path, **hub))
    headed = has_head(student)
    wanted = f"For{_head(student)}" if headed else "Model"
    architecture = _architecture(name_or_path, AutoConfig.from_pretrained(name_or_path, **hub), wanted)
    teacher, loading = architecture.from_pretrained(
        name_or_path, output_loading_info=True, **from_pretrained_kwargs
    )
    missing = sorted(loading["missing_keys"])
    if not headed:
        # No state that is compared comes from the pooler.
        missing = [name for name in missing if not name.startswith("pooler.")]
    if missing:
        raise ValueError(
            f"{name_or_path} has no weights for {missing[:_SHOWN]} of "
            f"{architecture.__name__}, which would teach noise; train it on the student's task first"
        )
    check_compatible(student, teacher, outputs=headed)
    return freeze(teacher)


def _check_nothing_shared(student: nn.Module, teacher: nn.Module) -> None:
    ours = {id(parameter) for parameter in student.parameters()}
    if teacher is student or any(id(parameter) in ours for parameter in teacher.parameters()):
        raise ValueError(
            f"the teacher {type(teacher).__name__} shares weights with the student, so freezing it would "
            "freeze the student; load the teacher separately, or pass copy.deepcopy(model)"
        )


def _check_same(what: str, ours: object, theirs: object, remedy: str) -> None:
    """Raise `ValueError` where both are known but differ."""
    if ours is not None and theirs is not None and ours != theirs:
        raise ValueError(f"the student's {what} is {ours}, the teacher's {theirs}; {remedy}")


def _check_same_labels(ours: PreTrainedConfig, theirs: PreTrainedConfig) -> None:
    remedy = "take a teacher that was trained for the student's labels"
    _check_same("number of labels", ours.num_labels, theirs.num_labels, remedy)
    _check_same("problem type", _problem_type(ours), _problem_type(theirs), remedy)
    names, other_names = _label_names(ours), _label_names(theirs)
    if names is None or other_names is None:
        return
    wrong = [index for index in sorted(names) if names[index] != other_names.get(index)]
    if wrong:
        pairs = [f"{index}: {names[index]} / {other_names.get(index)}" for index in wrong[:_SHOWN]]
        raise ValueError(
            f"student and teacher name {len(wrong)} of {len(names)} labels differently ({', '.join(pairs)}); "
            "give the student the id2label of its teacher, with the data labelled in that order"
        )


def _problem_type(config: PreTrainedConfig) -> str | None:
    return config.problem_type or ("regression" if config.num_labels == 1 else None)


def _label_names(config: PreTrainedConfig) -> dict[int, str] | None:
    """Return the lower-case names of the labels, None where they are only numbered."""
    names = {int(index): str(name).lower() for index, name in config.id2label.items()}
    return None if all(name == f"label_{index}" for index, name in names.items()) else names


def _head(model: nn.Module) -> str | None:
    """Return what a model is for: MaskedLM of BertForMaskedLM, none of BertModel, None where it is unknown.

    A class derived from one of transformers' has its head, unless that has none to inherit.
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
    """Choose the class of the checkpoint, with the student's ending where its family has such a class.

    So a BertForPreTraining checkpoint, whose heads include the one for masked language modelling, teaches a
    BertForMaskedLM, and its encoder a BertModel.
    """
    saved = (config.architectures or ["no architecture"])[0]
    wanted = re.sub(r"(For[A-Z]\w*|LMHeadModel)$", ending, saved)
    architecture = getattr(transformers, wanted, None) or getattr(transformers, saved, None)
    if architecture is None:
        raise ValueError(
            f"{name_or_path} holds {saved}, which transformers {transformers.__version__} does not have; "
            "load it yourself and pass it as teacher="
        )
    return architecture


def has_tokenizer(name_or_path: str, hub: Mapping[str, Any] = MappingProxyType({})) -> bool:
    """Say whether a tokenizer lies beside a model; `hub` are options of `from_pretrained`."""
    return any(_has_file(name_or_path, file, hub) for file in TOKENIZER_FILES)


def _has_file(name_or_path: str, file: str, hub: Mapping[str, Any]) -> bool:
    options = {name: value for name, value in hub.items() if name != "trust_remote_code"}
    try:
        return cached_file(name_or_path, file, **options) is not None
    except OSError:
        return False
