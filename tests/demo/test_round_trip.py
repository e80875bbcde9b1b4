"""The demo's last model is pushed, then used by stock transformers in a process without hf_sparse."""

import json
from io import StringIO
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from rich.console import Console
from transformers import AutoTokenizer

from hf_sparse.checkpoint.load import load_model
from hf_sparse.demo.run import run_demo
from hf_sparse.demo.settings import DemoSettings
from tests.hub.pushing import pushed
from tests.hub.server import Server
from tests.hub.server_clients import OURS, WITHOUT_US, Clients

TEXTS = ["boat water fish bank flow", "tram shop street door house"]
PUSH = """
import json, sys
from hf_sparse.cli.main import main
sys.argv = ['hf-sparse', 'push', {directory!r}, 'somebody/demo', '--packed', '--json']
main()
"""
USE = f"""{WITHOUT_US}
import json
from transformers import pipeline
answers = pipeline('text-classification', 'somebody/demo', top_k=None)({TEXTS!r})
print(json.dumps([{{row['label']: row['score'] for row in rows}} for rows in answers]))
"""


def test_a_model_of_the_demo_makes_the_round_trip(task_dir: Path, tmp_path: Path) -> None:
    settings = DemoSettings(output_dir=tmp_path / "out", dataset=str(task_dir), quick=True)
    run_demo(settings, Console(file=StringIO(), width=80))
    directory = tmp_path / "out" / "task-int8"
    with Server() as server:
        with Clients(server.url, OURS) as ours:
            sent = pushed(ours.output(PUSH.format(directory=str(directory))))
        with Clients(server.url) as stock:
            answers = json.loads(stock.output(USE).splitlines()[-1])
        contents = server.repositories["somebody/demo"].contents()
    assert sent["changed"] and {"README.md", "packed/packed.safetensors", "recipe.yaml"} <= set(contents)
    card = ModelCard(contents["README.md"].decode())
    assert card.data.model_name == "demo" and "90.0 % of its encoder's weights removed" in card.text
    model, tokenizer = load_model(str(directory)), AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        expected = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.softmax(-1)
    for row, answer in zip(expected, answers, strict=True):
        given = torch.tensor([answer[model.config.id2label[label]] for label in range(len(row))])
        assert torch.allclose(given, row, atol=1e-5)
