"""Hooks under torch.compile."""

import torch
import torch._dynamo


def notice_hooks() -> None:
    """Have compiled models look for hooks on their modules from now on.

    torch reuses compiled code without a look at hooks: what was compiled without any would run in place of a
    forward pass that is to be watched, and nothing would be seen. So whatever was compiled so far in this
    process is thrown away, to be compiled again when it is next called.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch.compiler.reset()
