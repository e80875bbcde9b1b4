"""Distances between the hidden states of a student and its teacher on held-out texts, layer by layer."""

from collections.abc import Iterable, Mapping
from inspect import signature

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from hf_sparse.distillation.batch_counts import fitting_mask
from hf_sparse.distillation.features.term import configuration, require_same_shape
from hf_sparse.distillation.inputs import Taken
from hf_sparse.distillation.layer_map import layer_map
from hf_sparse.distillation.teacher import check_same_vocabulary, has_tokenizer


def layer_distances(
    student: PreTrainedModel, teacher: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]
) -> dict[int, float]:
    """Return the relative squared error of the hidden states of each layer.

    It is the sum of squared errors divided by the sum of the teacher's squared states. Both run over the
    non-padding tokens of all batches, so the result does not depend on how texts are batched. 0 is a perfect
    copy, and 1 the error of states that are all zero.

    Args:
        student: An encoder or a decoder, with or without a head. It is left in evaluation mode.
        teacher: A model of the same width. Layers are paired as by `layers: uniform` in distillation.
        batches: Inputs of both models, without labels.

    Returns:
        The error of each student layer, numbered from 1.

    Raises:
        ValueError: The widths differ, the batches hold no tokens, or either is an encoder-decoder.
    """
    configs = [configuration(student, "student"), configuration(teacher, "teacher")]
    if any(config.is_encoder_decoder for config in configs):
        raise ValueError(
            "an encoder-decoder has two stacks, and only models with one are compared; give others"
        )
    widths = [config.hidden_size for config in configs]
    if widths[0] != widths[1]:
        raise ValueError(
            f"states of width {widths[0]} and {widths[1]} cannot be compared; give models of one width"
        )
    layers = layer_map("uniform", *(config.num_hidden_layers for config in configs))
    errors, squares = torch.zeros(2, len(layers), dtype=torch.float64)
    for model in (student, teacher):
        model.eval()
    with torch.inference_mode():
        for batch in batches:
            student_states, teacher_states = (_states(model, batch) for model in (student, teacher))
            for number, (layer, teacher_layer) in enumerate(layers.items()):
                error, square = _sums(student_states[layer], teacher_states[teacher_layer], batch)
                errors[number] += error
                squares[number] += square
    if not squares.any():
        raise ValueError("the batches hold no tokens to measure distances on; give some texts")
    return dict(zip(layers, (errors / squares).tolist(), strict=True))


def load_encoders(student: str, teacher: str) -> tuple[PreTrainedModel, PreTrainedModel, set[str]]:
    """Load two models without their heads.

    Args:
        student: Hub name or directory.
        teacher: Hub name or directory. If the student has a tokenizer, the teacher's must give the same ids.

    Returns:
        The student, the teacher, and the names of the inputs that both take.

    Raises:
        ValueError: Token ids differ, or a checkpoint lacks weights.
    """
    if has_tokenizer(student):
        check_same_vocabulary(*(AutoTokenizer.from_pretrained(name) for name in (student, teacher)))
    models = _load_encoder(student), _load_encoder(teacher)
    taken = [set(signature(model.forward).parameters) for model in models]
    return *models, taken[0] & taken[1]


def _load_encoder(name: str) -> PreTrainedModel:
    model, loading = AutoModel.from_pretrained(name, output_loading_info=True)
    # Poolers do not contribute to the compared states.
    if missing := sorted(key for key in loading["missing_keys"] if not key.startswith("pooler.")):
        raise ValueError(
            f"{name} lacks {missing[0]} and {len(missing) - 1} more of a {type(model).__name__}, which would "
            "be random; save the model again"
        )
    return model


def _states(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    given = Taken.by(model).of(send_to_device(batch, model.device))
    return model(**given, output_hidden_states=True).hidden_states


def _sums(student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> tuple[float, float]:
    require_same_shape(student, teacher, "hidden states")
    keep = fitting_mask(student.shape[:2], batch)
    pair = [states if keep is None else states[keep.to(states.device)] for states in (student, teacher)]
    first, second = (states.double().cpu() for states in pair)
    return float((first - second).square().sum()), float(second.square().sum())
