"""Helpers that run commands as a user types them, and a small model for them."""

from pathlib import Path

import torch
from transformers import PreTrainedModel
from typer.testing import CliRunner, Result

from hf_sparse.cli.main import app
from hf_sparse.oneshot.quantize_trained import calibration_recipe, quantize_trained, save_quantized
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.support.tiny import bert, sentences


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def lines(*arguments: object) -> list[str]:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def refused(*arguments: object) -> str:
    """Return the only line of an error."""
    result = run(*arguments)
    assert result.exit_code == 1 and result.stdout == "", result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("hf-sparse: ")


def quantized(directory: Path, **settings: object) -> PreTrainedModel:
    """Write a quantized classifier of one layer as `hf-sparse quantize` does."""
    model, recipe = bert(num_hidden_layers=1, initializer_range=0.2).eval(), calibration_recipe(**settings)
    names = ("input_ids", "attention_mask")
    batch = {name: torch.stack([row[name] for row in sentences(16)]) for name in names}
    quantize_trained(model, [batch], recipe)
    save_quantized(model, directory, recipe, tokenizer())
    return model
