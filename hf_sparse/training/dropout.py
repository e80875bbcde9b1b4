"""Set the dropout of a model in its configuration."""

from transformers import PreTrainedConfig

# Rates at which whole layers, or the paths of residual blocks, are dropped.
_OTHERS = ("layerdrop", "drop_path", "layer_dropout")


def set_dropout(config: PreTrainedConfig, rate: float) -> list[str]:
    """Set every dropout probability of a configuration, before a model is made of it.

    Models read their rates when they are made, some also in every forward pass, so the configuration that is
    saved with the model keeps the new ones.

    Args:
        config: Changed in place.
        rate: The share of values that are dropped in training, in [0, 1).

    Returns:
        The names of the settings that now hold it.

    Raises:
        ValueError: The rate is out of range, or the configuration lacks a dropout setting.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout rate is in [0, 1), got {rate}; 0 switches dropout off")
    own = config.get_text_config()
    names = [
        name
        for name, value in own.to_dict().items()
        if "drop" in name
        and isinstance(value, float | int)
        and not isinstance(value, bool)
        and not name.endswith(_OTHERS)
    ]
    if not names:
        raise ValueError(f"{type(own).__name__} lacks a dropout setting; leave --dropout out")
    for name in names:
        setattr(own, name, float(rate))
    return names
