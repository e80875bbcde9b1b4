"""Values that a shell completes, listed here so that no heavy import delays it; a test compares them."""

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
    """Return a function that gives these names to the shell."""
    return lambda: list(names)


def presets() -> list[str]:
    """Return the names of presets; if none fits, the shell completes files."""
    files = resources.files("hf_sparse.recipe") / "presets"
    return sorted(file.name.removesuffix(".yaml") for file in files.iterdir() if file.name.endswith(".yaml"))
