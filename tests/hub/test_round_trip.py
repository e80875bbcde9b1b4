"""A model that was trained, pushed and loaded again, by stock transformers, the plugin and the runtime."""

import json
from pathlib import Path

import pytest
import torch

from hf_sparse import SparseTrainer, measure_sparsity
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.packed.hf_quantizer import SUPPORTED
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.hub.pushing import REPO, pushing
from tests.hub.server import Server
from tests.hub.server_clients import WITHOUT_US, Clients
from tests.hub.server_repositories import Repository
from tests.support.tiny import arguments, bert, pruning, sentences

needs_hooks = pytest.mark.skipif(not SUPPORTED, reason="transformers before 5.23 lacks the hooks")
TEXTS = ["the big cat sat on a mat", "who sat in paris ?"]
READ = f"""
import json, torch
from transformers import AutoModelForSequenceClassification as Model, AutoTokenizer, pipeline
batch = AutoTokenizer.from_pretrained({REPO!r})({TEXTS!r}, padding=True, return_tensors="pt")
def show(model):
    with torch.no_grad():
        print(json.dumps(model.eval()(**batch).logits.tolist()))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that prunes and quantizes, with all that a Trainer leaves."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = bert(initializer_range=0.2)
    model.config._name_or_path = str(folder.parent / "before")
    trainer = SparseTrainer(
        model,
        arguments(folder, save_strategy="steps", save_steps=6),
        train_dataset=sentences(),
        recipe=pruning("quantization={begin: 50%}"),
        processing_class=tokenizer(),
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    return folder


@pytest.fixture(scope="module")
def repository(standing_server: Server, standing_pushers: Clients, trained: Path) -> Repository:
    standing_pushers.output(pushing(trained, packed=True))
    return standing_server.repositories[REPO]


@pytest.fixture
def clients(repository: Repository, standing_clients: Clients) -> Clients:
    return standing_clients


@pytest.fixture
def logits(trained: Path) -> torch.Tensor:
    """What the trained model gives, from its directory."""
    with torch.no_grad():
        return load_model(str(trained))(**tokenizer()(TEXTS, padding=True, return_tensors="pt")).logits


def read(clients: Clients, program: str) -> list[torch.Tensor]:
    output = clients.output(program)
    return [torch.tensor(json.loads(line)) for line in output.splitlines() if line.startswith("[[")]


def test_stock_transformers_gives_what_was_trained(clients: Clients, logits: torch.Tensor) -> None:
    program = f"""{WITHOUT_US}{READ}
show(Model.from_pretrained({REPO!r}))
scored = pipeline("text-classification", {REPO!r}, top_k=None)({TEXTS!r})
print(json.dumps([[row["score"] for row in sorted(rows, key=lambda row: row["label"])] for rows in scored]))
"""
    given, scores = read(clients, program)
    assert torch.equal(given, logits)
    assert torch.allclose(scores, logits.softmax(-1), atol=1e-6)


@needs_hooks
def test_the_plugin_gives_the_same_from_the_packed_file(clients: Clients, logits: torch.Tensor) -> None:
    program = f"""import hf_sparse
{READ}
show(Model.from_pretrained({REPO!r}, subfolder="packed"))
show(hf_sparse.load_packed({REPO!r}, subfolder="packed"))
show(hf_sparse.load_packed({REPO!r}, subfolder="packed", revision="main"))
"""
    assert [torch.equal(given, logits) for given in read(clients, program)] == [True] * 3


def test_the_runtime_gives_the_same_from_either_form(clients: Clients, logits: torch.Tensor) -> None:
    program = f"""{READ}
from hf_sparse.runtime import load
from huggingface_hub import snapshot_download
from pathlib import Path
show(load({REPO!r}, subfolder="packed"))
show(load({REPO!r}))
show(load(Path(snapshot_download({REPO!r}), "packed")))
"""
    packed, compressed, local = read(clients, program)
    assert torch.equal(packed, local)
    assert torch.allclose(packed, logits, atol=5e-3 * logits.abs().max())
    assert torch.allclose(compressed, logits, atol=5e-3 * logits.abs().max())


@needs_hooks
def test_zeros_arrive(clients: Clients, trained: Path) -> None:
    program = f"""
import hf_sparse
from transformers import AutoModelForSequenceClassification as Model
print(hf_sparse.measure_sparsity(Model.from_pretrained({REPO!r}, subfolder="packed")))
"""
    assert clients.output(program).splitlines()[-1] == str(measure_sparsity(load_model(str(trained))))


def test_nothing_of_this_machine_is_published(repository: Repository, trained: Path) -> None:
    files = repository.contents()
    assert not any(str(trained.parent).encode() in content for content in files.values())
    assert not files.keys() & {"training_args.bin", "trainer_state.json", "hf_sparse_state.safetensors"}
    assert files.keys() >= {"README.md", "pictures/sparsity.png", "recipe.yaml"}
    assert not any(path.startswith("checkpoint-") for path in files)
    assert json.loads(files["hf_sparse_run.json"])["base_model"] == "./before"


def test_a_checkpoint_is_pushed_like_a_model(
    clients: Clients, standing_pushers: Clients, standing_server: Server, trained: Path
) -> None:
    standing_pushers.output(pushing(trained / "checkpoint-12", "team/checkpoint"))
    read_it = READ.replace(REPO, "team/checkpoint")
    (given,) = read(clients, f"{WITHOUT_US}{read_it}\nshow(Model.from_pretrained('team/checkpoint'))")
    assert given.shape == (2, 2)
    files = standing_server.repositories["team/checkpoint"].contents()
    assert not files.keys() & {"optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin"}


@needs_hooks
def test_a_branch_is_loaded_by_its_name(
    clients: Clients, standing_pushers: Clients, standing_server: Server, trained: Path
) -> None:
    standing_pushers.output(pushing(trained, "team/branched", packed=True, revision="next"))
    program = """
from transformers import AutoModelForSequenceClassification as Model
import hf_sparse
from hf_sparse.runtime import load
Model.from_pretrained("team/branched", revision="next")
Model.from_pretrained("team/branched", revision="next", subfolder="packed")
load("team/branched", subfolder="packed", revision="next")
"""
    clients.output(program)
    assert standing_server.repositories["team/branched"].contents() == {}
