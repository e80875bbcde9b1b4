"""Registers sparse adapters with peft, so that it loads them from a directory; imported after peft."""

from peft import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora import Linear

# What the adapters are built on came with peft 0.20.
if hasattr(Linear, "lora_variants"):
    from hf_sparse.adapters.lora import PEFT_TYPE, SparseLoraConfig

    # peft looks up the type as adapter_config.json spells it.
    PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = SparseLoraConfig  # type: ignore[index]  # typed for its own enum
