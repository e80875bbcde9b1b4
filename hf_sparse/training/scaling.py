"""Whether an optimizer's step was taken, under a scaler of the loss that passes over overflows."""

from accelerate import Accelerator


def loss_scale(accelerator: Accelerator) -> float:
    """Return what losses are multiplied by before their gradients are taken."""
    return 1.0 if accelerator.scaler is None else accelerator.scaler.get_scale()


def was_skipped(accelerator: Accelerator, scale: float) -> bool:
    """Say whether the last step of the optimizer was passed over, `scale` being the loss scale before it.

    Fused optimizers are called and pass over an overflow themselves, which accelerate takes for a step. The
    scaler knows better: its scale falls.
    """
    return accelerator.optimizer_step_was_skipped or loss_scale(accelerator) < scale
