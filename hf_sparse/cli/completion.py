"""What a shell completes, found without importing what knows it; a test compares."""

from collections.abc import Callable
from importlib import resources

FORMATS = ("compressed-tensors", "packed")
EXPORTS = ("onnx", "openvino")
METHODS = ("magnitude", "wanda", "sparse_gpt")
PATTERNS = ("unstructured", "2:4", "1x4", "4x1", "4x4", "row", "column")
WEIGHTS = ("int8_per_channel", "int8_per_tensor", "int4_per_channel", "int4_group_32")
ACTIVATIONS = ("uint8_per_tensor", "int8_per_token", "none")
OBSERVERS = ("min_max", "moving_average", "percentile", "mean_squared_error")


def one_of(names: tuple[str, ...]) -> Callable[[], list[str]]:
    """Complete one of these names."""
    return lambda: list(names)


def presets() -> list[str]:
    """Complete the name of a preset; where none fits the shell looks for files."""
    files = resources.files("hf_sparse") / "presets"
    return sorted(file.name.removesuffix(".yaml") for file in files.iterdir() if file.name.endswith(".yaml"))
