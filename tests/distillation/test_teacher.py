"""A teacher is frozen, gets no labels, and is refused with a reason if it does not fit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from hf_sparse.distillation.teacher import (
    check_compatible,
    check_same_vocabulary,
    freeze,
    load_teacher,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three"]


def bert(
    architecture: type[PreTrainedModel] = BertForSequenceClassification, **config: Any
) -> PreTrainedModel:
    return architecture(BertConfig(**{**SIZES, "vocab_size": len(WORDS), **config}))


def tokenizer(words: list[str] = WORDS) -> BertTokenizer:
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


def saved(path: Path, model: PreTrainedModel, words: list[str] | None = None) -> str:
    model.save_pretrained(path)
    if words is not None:
        tokenizer(words).save_pretrained(path)
    return str(path)


def test_a_frozen_teacher_is_in_evaluation_mode_without_gradients() -> None:
    teacher = bert().train()
    assert freeze(teacher) is teacher
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_where_outputs_are_not_compared_heads_and_labels_may_differ() -> None:
    check_compatible(bert(num_labels=3), bert(BertForTokenClassification), outputs=False)
    with pytest.raises(ValueError, match="vocabulary size is 8, the teacher's 9"):
        check_compatible(bert(), bert(vocab_size=9), outputs=False)
    with pytest.raises(ValueError, match="shares weights"):
        check_compatible(student := bert(), student, outputs=False)


def test_models_of_another_size_or_family_fit() -> None:
    check_compatible(bert(num_labels=3), bert(num_labels=3, hidden_size=16))
    small = DistilBertForSequenceClassification(
        DistilBertConfig(dim=32, hidden_dim=64, n_layers=1, n_heads=2, vocab_size=len(WORDS), num_labels=3)
    )
    check_compatible(small, bert(num_labels=3))


def test_causal_models_fit_whatever_their_class_is_called() -> None:
    gpt = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=len(WORDS)))
    check_compatible(gpt, LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=len(WORDS))))
    with pytest.raises(ValueError, match="kind of head is CausalLM, the teacher's MaskedLM"):
        check_compatible(gpt, bert(BertForMaskedLM))


def test_a_class_of_the_users_own_has_the_head_it_inherits() -> None:
    class MyClassifier(BertForSequenceClassification):
        pass

    check_compatible(bert(MyClassifier), bert())
    with pytest.raises(ValueError, match="kind of head"):
        check_compatible(bert(MyClassifier), bert(BertForTokenClassification))


def test_a_head_of_the_users_own_is_left_to_the_user() -> None:
    class MyTagger(BertModel):
        pass

    check_compatible(bert(MyTagger), bert(BertForTokenClassification))


def test_models_without_a_configuration_are_accepted_unless_they_share_weights() -> None:
    student = nn.Linear(2, 2)
    check_compatible(student, nn.Linear(2, 3))
    with pytest.raises(ValueError, match="shares weights"):
        check_compatible(student, nn.Sequential(student))


def test_the_student_does_not_teach_itself() -> None:
    student = bert()
    check_compatible(student, copy.deepcopy(student))
    with pytest.raises(ValueError, match=r"shares weights with the student.*copy\.deepcopy"):
        check_compatible(student, student)
    with pytest.raises(ValueError, match="shares weights"):
        check_compatible(student, copy.copy(student))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (bert(), bert(vocab_size=9), "vocabulary size is 8, the teacher's 9; take a teacher"),
        (bert(), bert(BertForTokenClassification), "head is SequenceClassification, the teacher's Token"),
        (bert(num_labels=3), bert(num_labels=2), "number of labels is 3, the teacher's 2"),
        (bert(num_labels=1), bert(num_labels=2), "number of labels is 1, the teacher's 2"),
        (
            bert(num_labels=2, problem_type="regression"),
            bert(num_labels=2, problem_type="single_label_classification"),
            "problem type is regression, the teacher's single_label_classification",
        ),
        (
            bert(id2label={0: "yes", 1: "no", 2: "maybe"}),
            bert(id2label={0: "yes", 1: "maybe", 2: "no"}),
            r"2 of 3 labels differently \(1: no / maybe, 2: maybe / no\); give the student the id2label",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_both_values(
    student: PreTrainedModel, teacher: PreTrainedModel, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_compatible(student, teacher)


@pytest.mark.parametrize("names", [{0: "YES", 1: "No"}, {0: "LABEL_0", 1: "LABEL_1"}])
def test_label_names_are_compared_without_case_where_both_have_them(names: dict[int, str]) -> None:
    check_compatible(bert(id2label={0: "yes", 1: "no"}), bert(id2label=names))
    check_compatible(bert(id2label=names), bert(id2label={0: "yes", 1: "no"}))


def test_label_names_of_a_language_model_mean_nothing() -> None:
    check_compatible(bert(BertForMaskedLM, num_labels=3), bert(BertForMaskedLM, num_labels=2))


def test_equal_vocabularies_fit() -> None:
    check_same_vocabulary(tokenizer(), tokenizer())


def test_tokens_with_other_ids_are_counted_with_examples() -> None:
    swapped = [*WORDS[:5], "two", "one", "four"]
    with pytest.raises(ValueError, match=r"4 tokens other ids, such as \['four', 'one', 'three', 'two'\]"):
        check_same_vocabulary(tokenizer(), tokenizer(swapped))


@pytest.mark.parametrize(
    "architecture",
    [BertForSequenceClassification, BertForMaskedLM, BertForQuestionAnswering, BertForPreTraining],
)
def test_a_loaded_teacher_is_what_was_saved(tmp_path: Path, architecture: type[PreTrainedModel]) -> None:
    origin = bert(architecture)
    teacher = load_teacher(saved(tmp_path, origin, WORDS), bert(architecture), tokenizer())
    assert type(teacher) is architecture
    assert not teacher.training
    state = teacher.state_dict()
    assert all(torch.equal(state[name], value) for name, value in origin.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_pre_training_checkpoint_teaches_a_masked_language_model(tmp_path: Path) -> None:
    teacher = load_teacher(saved(tmp_path, bert(BertForPreTraining)), bert(BertForMaskedLM))
    assert type(teacher) is BertForMaskedLM


@pytest.mark.parametrize("origin", [BertForMaskedLM, BertForTokenClassification])
def test_a_checkpoint_without_the_students_head_is_refused(
    tmp_path: Path, origin: type[PreTrainedModel]
) -> None:
    student = BertForQuestionAnswering(BertConfig(**SIZES, vocab_size=len(WORDS)))
    with pytest.raises(
        ValueError, match=r"no weights for \['qa_outputs.*train it on the student's task first"
    ):
        load_teacher(saved(tmp_path, bert(origin)), student)


def test_a_checkpoint_without_any_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind of head is MaskedLM, the teacher's none"):
        load_teacher(saved(tmp_path, bert(BertModel)), bert(BertForMaskedLM))


def test_a_teacher_with_other_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="number of labels is 2, the teacher's 3"):
        load_teacher(saved(tmp_path, bert(num_labels=3)), bert(num_labels=2))


def test_a_teacher_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, bert(), [*WORDS[:5], "three", "two", "one"])
    with pytest.raises(ValueError, match="2 tokens other ids"):
        load_teacher(path, bert(), tokenizer())
    load_teacher(path, bert())


def test_a_teacher_without_tokenizer_files_is_taken_at_its_word(tmp_path: Path) -> None:
    load_teacher(saved(tmp_path, bert()), bert(), tokenizer())


def test_an_architecture_transformers_lacks_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, bert())
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("BertForSequenceClassification", "MyOwnModel"))
    with pytest.raises(ValueError, match="holds MyOwnModel, which transformers"):
        load_teacher(path, bert())


def test_options_reach_from_pretrained(tmp_path: Path) -> None:
    teacher = load_teacher(saved(tmp_path, bert()), bert(), dtype=torch.bfloat16)
    assert teacher.dtype == torch.bfloat16
