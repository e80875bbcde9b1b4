"""Whether what a forward pass returned can be learned from."""

from collections.abc import Mapping
from typing import Any

import torch


def has_gradient(outputs: Any) -> bool:
    """Say whether any of a model's outputs leads back to its weights."""
    held = outputs.values() if isinstance(outputs, Mapping) else outputs
    return any(torch.is_tensor(value) and value.requires_grad for value in held or ())
