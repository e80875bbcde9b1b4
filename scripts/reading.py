"""The tokenizer that student and teacher read by."""

import copy

from transformers import AutoConfig, PreTrainedTokenizerBase, TrainingArguments

import common
from hf_sparse import SparseArguments


def for_both(
    tokenizer: PreTrainedTokenizerBase,
    model: common.ModelArguments,
    training: TrainingArguments,
    sparse: SparseArguments,
) -> PreTrainedTokenizerBase:
    """Return a tokenizer that says where a second text begins, if the teacher reads that and it does not.

    It is a copy: the student's own is saved with it, as it was.
    """
    names, told = tokenizer.model_input_names, "token_type_ids"
    if sparse.teacher_name_or_path is None or not training.do_train or told in names:
        return tokenizer
    teacher = AutoConfig.from_pretrained(sparse.teacher_name_or_path, cache_dir=model.cache_dir)
    if getattr(teacher, "type_vocab_size", 0) < 2:
        return tokenizer
    both = copy.deepcopy(tokenizer)
    both.model_input_names = [*names, told]
    return both
