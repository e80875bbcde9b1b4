"""Trainers that push to the Hub: what they send, and that others can use it."""

import json
import os
from pathlib import Path

import pytest

from tests.hub.server import TOKEN, Server
from tests.hub.server_clients import WITHOUT_US, Clients
from tests.hub.server_repositories import Repository

TRAIN = """
from tests.support import runs
trainer = runs.{run}({folder!r}, push_to_hub=True, hub_model_id='somebody/model', hub_strategy={strategy!r},
    hub_token={token!r}, save_strategy='steps', save_steps=4, save_total_limit=1,
    hub_always_push=True)
trainer.train(resume_from_checkpoint={resumed!r})
"""
_TRAINED = """from tests.support import runs
trainer = runs.prune({folder!r})
trainer.train()
trainer.save_model()
"""
PUSH = "print(trainer.push_to_hub(dataset_tags='nyu-mll/glue', dataset_args='sst2').commit)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def training(folder: Path, run: str, strategy: str = "end", resumed: str | None = None) -> str:
    return TRAIN.format(run=run, folder=str(folder), strategy=strategy, token=TOKEN, resumed=resumed)


def published(server: Server) -> Repository:
    return server.repositories["somebody/model"]


def telltale(repository: Repository, *words: str) -> list[str]:
    """Return the files of all commits that hold one of these words."""
    return sorted(
        {
            path
            for commit in repository.commits.values()
            for path, blob in commit.files.items()
            if any(word.encode() in blob.content for word in words)
        }
    )


def test_what_is_pushed_at_the_end_is_small_and_loads_without_us(
    server: Server, clients: Clients, folder: Path
) -> None:
    head = clients.output(training(folder, "quantize") + PUSH).splitlines()[-1]
    repository = published(server)
    assert repository.head().sha == head and len(repository.titles()) == 2
    assert {"README.md", "config.json", "model.safetensors", "recipe.yaml", "hf_sparse_run.json"} <= set(
        repository.contents()
    )
    assert (
        json.loads(repository.contents()["config.json"])["quantization_config"]["format"] == "int-quantized"
    )
    facts = json.loads(repository.contents()["hf_sparse_run.json"])["facts"]
    assert facts == {"dataset": "nyu-mll/glue", "config": "sst2"}
    assert telltale(repository, str(folder.parent), TOKEN) == []
    program = f"{WITHOUT_US}from transformers import AutoModelForSequenceClassification as Model\n"
    program += "print(type(Model.from_pretrained('somebody/model')).__name__)"
    assert clients.output(program).splitlines()[-1] == "BertForSequenceClassification"


def test_saving_pushes_where_the_arguments_say_so(server: Server, clients: Clients, folder: Path) -> None:
    clients.output(training(folder, "quantize") + "trainer.save_model()")
    assert "README.md" in published(server).contents()


def test_a_push_need_not_be_waited_for(server: Server, clients: Clients, folder: Path) -> None:
    program = training(folder, "prune") + "print(trainer.push_to_hub(blocking=False).result().changed)"
    assert clients.output(program).splitlines()[-1] == "True"


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_nothing_secret_and_no_path_is_pushed_in_mid_run(
    strategy: str, server: Server, clients: Clients, folder: Path
) -> None:
    clients.output(training(folder, "prune", strategy))
    repository = published(server)
    everything = {path for commit in repository.commits.values() for path in commit.files}
    assert "model.safetensors" in everything and not any("training_args" in path for path in everything)
    assert telltale(repository, str(folder.parent), TOKEN) == []


def test_a_checkpoint_from_the_hub_goes_on_as_if_nothing_had_happened(
    server: Server, clients: Clients, folder: Path
) -> None:
    clients.output(training(folder, "prune", "all_checkpoints"))
    program = f"""
from huggingface_hub import snapshot_download
place = snapshot_download('somebody/model', allow_patterns='checkpoint-8/*') + '/checkpoint-8'
{training(folder.parent / "again", "prune").replace("None", "place")}
"""
    clients.output(program)
    straight, resumed = (
        home / "checkpoint-12" / "model.safetensors" for home in (folder, folder.parent / "again")
    )
    assert straight.read_bytes() == resumed.read_bytes()


def test_the_last_push_takes_away_the_sidecar_of_other_weights(
    server: Server, clients: Clients, folder: Path
) -> None:
    clients.output(training(folder, "quantize", "checkpoint") + PUSH)
    contents = published(server).contents()
    assert "hf_sparse_state.safetensors" not in contents
    assert "last-checkpoint/hf_sparse_state.safetensors" in contents


def test_a_card_is_written_without_pushing(clients: Clients, folder: Path) -> None:
    program = _TRAINED.format(folder=str(folder))
    clients.output(program + "trainer.create_model_card(license='mit', tasks='text-classification')")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card and "pipeline_tag: text-classification" in card and "90" in card


def test_what_was_measured_of_an_earlier_model_is_not_on_the_card(
    server: Server, clients: Clients, folder: Path
) -> None:
    folder.mkdir()
    (folder / "eval_results.json").write_text('{"eval_accuracy": 0.4321, "eval_samples": 8}')
    os.utime(folder / "eval_results.json", (0, 0))
    clients.output(training(folder, "quantize") + PUSH)
    card = published(server).contents()["README.md"].decode()
    assert "43.21" not in card and "Its quality was not measured" in card


OWN = """
import torch
from tests.support.tiny import arguments, bert, sentences
from transformers import BertForSequenceClassification
from hf_sparse import SparseTrainer

class Mine(BertForSequenceClassification):
    pass

class Other(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, **inputs):
        return self.inner(**inputs)

args = arguments({folder!r}, hub_model_id='somebody/model', max_steps=2,
    remove_unused_columns=False)
trainer = SparseTrainer({model}, args, train_dataset=sentences(8))
trainer.train()
trainer.push_to_hub()
"""


@pytest.mark.parametrize("model", ["Mine(bert().config)", "Other(bert())"])
def test_a_model_that_transformers_does_not_know_is_pushed_too(
    model: str, server: Server, clients: Clients, folder: Path
) -> None:
    clients.output(OWN.format(folder=str(folder), model=model))
    contents = published(server).contents()
    assert {"README.md", "model.safetensors"} <= set(contents) and "training_args.bin" not in contents


def test_a_card_that_somebody_wrote_stays(clients: Clients, folder: Path) -> None:
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    program = _TRAINED.format(folder=str(folder))
    clients.output(program + "trainer.create_model_card()")
    assert (folder / "README.md").read_text() == "mine"
