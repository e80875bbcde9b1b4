"""Registers sparse adapters with peft, so that it loads them from a directory; imported after peft."""

from importlib import import_module

from peft.tuners.lora import Linear

# What the adapters are built on came with peft 0.20.
if hasattr(Linear, "lora_variants"):
    # That module registers its class at its end, also if peft is imported for the first time by it.
    import_module("hf_sparse.adapters.lora")
