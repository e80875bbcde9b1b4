"""Numbers that look like weights and their inputs."""

import torch


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs_alike(tokens: int = 500, width: int = 32) -> torch.Tensor:
    """Inputs that depend on each other, of very different sizes."""
    mixed = noise(tokens, width, seed=1) @ noise(width, width, seed=2)
    return mixed * torch.logspace(-1, 1, width)
