"""Whether optimum reads what this package exports: `write` runs in our environment, `read` in one of theirs.

optimum-onnx and optimum-intel need an older transformers, so the two sides meet in a directory:

    python tests/integration/optimum_reads.py write DIRECTORY
    .venv-optimum/bin/python tests/integration/optimum_reads.py read DIRECTORY
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

# The head of a model in tests/support/runtime_models.py, and the end of the class that optimum reads it by.
HEADS = {
    "sequence": "SequenceClassification",
    "token": "TokenClassification",
    "answer": "QuestionAnswering",
    "base": "FeatureExtraction",
}
KINDS = {"onnx": ("optimum.onnxruntime", "ORTModelFor"), "openvino": ("optimum.intel", "OVModelFor")}
TEXTS = ["the big cat sat on a mat .", "who sat ?", "a mat , in paris , where the cat sat on the mat"]
ERROR = 1e-3
GIVEN, EXPECTED = "inputs.npz", "outputs.npz"


def write(directory: Path) -> None:
    """Write a quantized model of each head in each format, with inputs and the outputs of the model."""
    from hf_sparse.export.directory import export_directory
    from tests.data.tiny_tokenizers import bert
    from tests.support.runtime_models import outputs, quantized

    tokenizer = bert()
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    for head in HEADS:
        model = quantized("bert", head)
        for kind in KINDS:
            export_directory(model, directory / kind / head, kind, tokenizer)
        found = {name: value.numpy() for name, value in outputs(model, inputs).items()}
        np.savez(directory / f"{head}_{EXPECTED}", **found)
    np.savez(directory / GIVEN, **{name: value.numpy() for name, value in inputs.items()})


def read(directory: Path) -> None:
    """Load every directory and its tokenizer by optimum, and compare; raise `SystemExit` if it differs."""
    from importlib import import_module

    import torch
    from transformers import AutoTokenizer

    with np.load(directory / GIVEN) as given:
        inputs = {name: torch.from_numpy(value) for name, value in given.items()}
    for kind, (package, prefix) in KINDS.items():
        for head, end in HEADS.items():
            folder = directory / kind / head
            model = getattr(import_module(package), prefix + end).from_pretrained(folder, **exactly(kind))
            texts = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
            if any(not torch.equal(texts[name], value) for name, value in inputs.items()):
                raise SystemExit(f"{folder}: the tokenizer gives other tokens")
            found = model(**inputs)
            with np.load(directory / f"{head}_{EXPECTED}") as expected:
                # Its models of features leave out the output of the pooler.
                for name in found:
                    value = expected[name]
                    error = np.abs(np.asarray(found[name]) - value).max() / np.abs(value).max()
                    print(f"{type(model).__name__}, {name}: off by {error:.1e}", flush=True)
                    if not error < ERROR:
                        raise SystemExit(f"{folder}: {name} is off by {error:.1%}")


def exactly(kind: str) -> dict[str, Any]:
    """Return the options with which a runtime computes as the model does, on any processor."""
    if kind == "openvino":
        return {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return {"session_options": options}


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
