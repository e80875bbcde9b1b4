"""A report of latencies that tests read, print and draw."""

from hf_sparse.environment import versions
from hf_sparse.runs.latency import LatencyReport, LatencyRow

OURS = LatencyRow.measured("hf_sparse fuse", True, (0.02, 0.01, 0.03), 12_000_000, 0.01)
EAGER = LatencyRow.measured("PyTorch float32", False, (0.08, 0.08, 0.08), 400_000_000, 0.0)
OTHER = LatencyRow.measured(
    "OpenVINO int8", False, (0.04, 0.04, 0.06), 110_000_000, float("inf"), "In its own way."
)
REPORT = LatencyReport(
    "models/small",
    "BertModel",
    4,
    128,
    2,
    {"processor": "Some CPU", "cores": 8, "system": "Linux", "kernels": "avx2", "versions": versions()},
    "PyTorch float32",
    2.5,
    (EAGER, OURS, OTHER),
    {"ONNX Runtime int8": "onnxruntime is not installed"},
)
