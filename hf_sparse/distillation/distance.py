"""How far a student's hidden states are from its teacher's, layer by layer, on held-out texts."""

from collections.abc import Iterable, Mapping
from inspect import signature

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from hf_sparse.distillation.batch_counts import fitting_mask
from hf_sparse.distillation.features.layer_map import layer_map
from hf_sparse.distillation.features.term import configuration, require_same_shape
from hf_sparse.distillation.inputs import Taken
from hf_sparse.distillation.teacher import check_same_vocabulary, has_tokenizer


def layer_distances(
    student: PreTrainedModel, teacher: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]
) -> dict[int, float]:
    """Measure the relative error of every layer's hidden states: squared error over squared states.

    Both sums run over all tokens that are not padding, of all batches, so the result does not depend on how
    texts are batched. 0 is a perfect copy, 1 as bad as zeros.

    Args:
        student: An encoder or a decoder, with or without a head. Left in evaluation mode.
        teacher: One of the same width; each student layer is compared with the one it would learn from.
        batches: Inputs of both, without labels.

    Returns:
        The error of each student layer, by its number from 1.

    Raises:
        ValueError: The widths differ, there is no batch, or either is an encoder-decoder.
    """
    configs = [configuration(student, "student"), configuration(teacher, "teacher")]
    if any(config.is_encoder_decoder for config in configs):
        raise ValueError("the states of one stack are compared, and an encoder-decoder has two")
    widths = [config.hidden_size for config in configs]
    if widths[0] != widths[1]:
        raise ValueError(
            f"states of width {widths[0]} and {widths[1]} have no distance; compare models of one width"
        )
    layers = layer_map("uniform", *(config.num_hidden_layers for config in configs))
    errors, squares = torch.zeros(2, len(layers), dtype=torch.float64)
    for model in (student, teacher):
        model.eval()
    with torch.inference_mode():
        for batch in batches:
            ours, theirs = (_states(model, batch) for model in (student, teacher))
            for number, (layer, their_layer) in enumerate(layers.items()):
                error, square = _sums(ours[layer], theirs[their_layer], batch)
                errors[number] += error
                squares[number] += square
    if not squares.any():
        raise ValueError("there is no text to measure distances on; give some")
    return dict(zip(layers, (errors / squares).tolist(), strict=True))


def load_encoders(student: str, teacher: str) -> tuple[PreTrainedModel, PreTrainedModel, set[str]]:
    """Load two models without their heads, and say which inputs both take.

    Args:
        student: Hub name or directory.
        teacher: The same; its tokenizer must give every token the id that the student's gives, where the
            student has one.

    Returns:
        The student, the teacher, the names of the inputs.

    Raises:
        ValueError: The two read tokens by other ids, or one lacks weights, which would be random.
    """
    if has_tokenizer(student):
        check_same_vocabulary(*(AutoTokenizer.from_pretrained(name) for name in (student, teacher)))
    models = [_load_encoder(name) for name in (student, teacher)]
    return *models, set.intersection(*(set(signature(model.forward).parameters) for model in models))


def _load_encoder(name: str) -> PreTrainedModel:
    model, loading = AutoModel.from_pretrained(name, output_loading_info=True)
    # No state that is compared comes from the pooler.
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
    ours, theirs = (states.double().cpu() for states in pair)
    return float((ours - theirs).square().sum()), float(theirs.square().sum())
