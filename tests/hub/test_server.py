"""The Hub server of the tests answers the real clients as huggingface.co does."""

import json
from pathlib import Path

import huggingface_hub
import pytest

from tests.data.tiny_tokenizers import bert as tokenizer
from tests.hub.server import READER, Server
from tests.hub.server_clients import IMPATIENT, WITHOUT_US, Clients
from tests.support.tiny import bert

CREATE = """
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
api = HfApi()
url = api.create_repo('somebody/model', exist_ok=True)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    bert().eval().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def uploading(folder: Path, **more: object) -> str:
    return (
        f"{CREATE}print(api.upload_folder(repo_id=url.repo_id, folder_path={str(folder)!r}, **{more!r}).oid)"
    )


def test_a_repository_is_created_once(server: Server, clients: Clients) -> None:
    assert clients.output(f"{CREATE}{CREATE}print(url)") == f"{server.url}/somebody/model"
    refused = clients.run("from huggingface_hub import create_repo\ncreate_repo('somebody/model')")
    assert refused.returncode == 1 and "409" in refused.stderr
    assert [request.status for request in server.asked("POST", "create")] == [200, 409, 409]


def test_a_folder_is_uploaded_in_one_commit_and_downloaded_again(
    server: Server, clients: Clients, model: Path
) -> None:
    sha = clients.output(uploading(model, commit_message="all of it"))
    repository = server.repositories["somebody/model"]
    assert repository.contents() == {path.name: path.read_bytes() for path in sorted(model.iterdir())}
    assert repository.titles() == ["initial commit", "all of it"] and repository.head().sha == sha
    assert (
        repository.head().files["model.safetensors"].large
        and not repository.head().files["config.json"].large
    )
    folder = clients.output("from huggingface_hub import snapshot_download as s\nprint(s('somebody/model'))")
    assert {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())} == {
        **repository.contents(),
        ".gitattributes": repository.head().files[".gitattributes"].content,
    }


def test_what_is_there_is_neither_sent_nor_committed_again(
    server: Server, clients: Clients, model: Path
) -> None:
    first = clients.output(uploading(model))
    assert clients.output(uploading(model)) == first
    assert len(server.asked("PUT", "/lfs/")) == 1 and len(server.asked("POST", "/commit/")) == 1
    (model / "config.json").write_text("{}")
    assert clients.output(uploading(model)) != first
    assert len(server.asked("PUT", "/lfs/")) == 1 and len(server.asked("POST", "/commit/")) == 2


def test_stock_transformers_loads_a_model_with_its_tokenizer(
    server: Server, clients: Clients, model: Path
) -> None:
    server.create("somebody/stock").write({path.name: path.read_bytes() for path in model.iterdir()})
    program = f"""{WITHOUT_US}
import torch
from transformers import AutoModelForSequenceClassification as Model, AutoTokenizer
one, other = Model.from_pretrained('somebody/stock'), Model.from_pretrained({str(model)!r})
batch = AutoTokenizer.from_pretrained('somebody/stock')('the cat', return_tensors='pt')
print(batch.input_ids.shape[0], torch.equal(one(**batch).logits, other(**batch).logits))
"""
    assert clients.output(program) == "1 True"


@pytest.mark.skipif(
    int(huggingface_hub.__version__.split(".")[0]) < 2, reason="cards are checked at huggingface.co itself"
)
def test_a_card_is_pushed_and_a_bad_one_refused(server: Server, clients: Clients) -> None:
    pushed = "from huggingface_hub import ModelCard\nModelCard({!r}).push_to_hub('somebody/model')"
    clients.output(CREATE + pushed.format("---\nlicense: mit\n---\n"))
    assert server.repositories["somebody/model"].contents() == {"README.md": b"---\nlicense: mit\n---\n"}
    folder = "import os; os.mkdir('f'); open('f/README.md', 'w').write('---\\nlicense: [\\n---\\n')\n"
    assert "Invalid metadata in README.md" in clients.run(folder + uploading(Path("f"))).stderr


def test_the_trainer_of_transformers_pushes_its_checkpoints(server: Server, clients: Clients) -> None:
    clients.output(
        f"""{WITHOUT_US}
import torch
from transformers import BertConfig, BertForSequenceClassification as Model, Trainer, TrainingArguments
rows = [{{'input_ids': torch.tensor([5, 6]), 'labels': torch.tensor(0)}}] * 4
sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=10)
args = TrainingArguments('run', push_to_hub=True, hub_model_id='somebody/run', hub_strategy='checkpoint',
    hub_always_push=True,
    max_steps=2, save_steps=1, save_strategy='steps', per_device_train_batch_size=2, use_cpu=True,
    report_to=[], disable_tqdm=True)
trainer = Trainer(Model(BertConfig(**sizes)), args, train_dataset=rows)
trainer.train()
trainer.push_to_hub(blocking=True)
"""
    )
    files = server.repositories["somebody/run"].contents()
    assert {"README.md", "model.safetensors", "config.json", "training_args.bin"} <= files.keys()
    assert json.loads(files["last-checkpoint/trainer_state.json"])["global_step"] == 2


def test_files_and_folders_are_listed_as_the_hub_does(server: Server, clients: Clients) -> None:
    server.create("team/listed").write({"a.txt": b"a", "deep/er/b.bin": b"b", "deep/c.txt": b"c"})
    listing = "[(i.path, getattr(i, 'size', None)) for i in api.list_repo_tree('team/listed'{})]"
    program = f"""
from huggingface_hub import HfApi; api = HfApi()
print({listing.format("")}); print({listing.format(", path_in_repo='deep', recursive=True")})
print(sorted(api.list_repo_files('team/listed')), api.file_exists('team/listed', 'no'))
print([i.lfs.sha256[:2] for i in api.get_paths_info('team/listed', ['deep/er/b.bin'])])
print([c.title for c in api.list_repo_commits('team/listed')], api.model_info('team/listed').sha)
api.create_branch('team/listed', branch='old/one')
print(sorted(b.name for b in api.list_repo_refs('team/listed').branches))
"""
    assert clients.output(program).splitlines() == [
        "[('deep', None), ('.gitattributes', 92), ('a.txt', 1)]",
        "[('deep/er', None), ('deep/c.txt', 1), ('deep/er/b.bin', 1)]",
        "['.gitattributes', 'a.txt', 'deep/c.txt', 'deep/er/b.bin'] False",
        "['3e']",
        f"['by hand', 'initial commit'] {server.repositories['team/listed'].head().sha}",
        "['main', 'old/one']",
    ]


def test_ignored_files_are_left_out(server: Server, clients: Clients, tmp_path: Path) -> None:
    for name, text in {".gitignore": "*.log\nruns/", "a.log": "", "runs/b": "", "c": "c"}.items():
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_text(text)
    clients.output(uploading(tmp_path / "f"))
    assert server.repositories["somebody/model"].contents().keys() == {".gitignore", "c"}


@pytest.mark.parametrize(
    ("token", "status"),
    [(None, 401), ("hf_unknown", 401), (READER, 403)],
    ids=["none", "unknown", "read only"],
)
def test_only_writers_write(
    token: str | None, status: int, server: Server, clients: Clients, model: Path
) -> None:
    server.create("somebody/model")
    ended = clients.run(uploading(model), token)
    assert ended.returncode == 1 and str(status) in ended.stderr
    assert server.repositories["somebody/model"].contents() == {}


def test_a_private_repository_is_hidden_from_strangers(server: Server, clients: Clients) -> None:
    server.create("somebody/secret", private=True).write({"config.json": b"{}"})
    read = "from huggingface_hub import model_info\nprint(model_info('somebody/secret').private)"
    assert clients.output(read, READER) == "True"
    assert "RepositoryNotFoundError" in clients.run(read, token=None).stderr


def test_a_commit_on_an_old_parent_is_refused(server: Server, clients: Clients, model: Path) -> None:
    old = server.create("somebody/model").head().sha
    server.repositories["somebody/model"].write({"notes.txt": b"mine"})
    ended = clients.run(uploading(model, parent_commit=old))
    assert ended.returncode == 1 and "A commit has happened since" in ended.stderr
    assert server.repositories["somebody/model"].contents() == {"notes.txt": b"mine"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_planned_failures_pass(status: int, server: Server, clients: Clients, model: Path) -> None:
    server.fail("POST", "preupload", status, times=2, retry_after="1")
    server.cut("PUT", "/lfs/", after_bytes=1000)
    clients.output(IMPATIENT + uploading(model))
    assert [request.status for request in server.asked("POST", "preupload")] == [status, status, 200]
    assert [request.status for request in server.asked("PUT", "/lfs/")] == [0, 200]
    assert "model.safetensors" in server.repositories["somebody/model"].contents()


def test_a_download_that_is_cut_goes_on_where_it_ended(server: Server, clients: Clients) -> None:
    # The client keeps what it has in pieces of 10 MB.
    content = bytes(range(256)) * 45_000
    server.create("somebody/large").write({"large.bin": content})
    server.lose("GET", "/cdn/", after_bytes=11_000_000)
    program = "from huggingface_hub import hf_hub_download as d\nprint(d('somebody/large', 'large.bin'))"
    assert Path(clients.output(IMPATIENT + program)).read_bytes() == content
    assert [request.status for request in server.asked("GET", "/cdn/")] == [200, 206]


def test_a_client_killed_in_the_middle_leaves_nothing(server: Server, clients: Clients, model: Path) -> None:
    block = server.block("PUT", "/lfs/", after_bytes=1000)
    running = clients.start(uploading(model))
    block.wait()
    assert running.kill().returncode == -9
    block.abandon()
    assert server.repositories["somebody/model"].objects == {}
    clients.output(uploading(model))
    assert server.repositories["somebody/model"].titles()[1:] == ["Upload folder using huggingface_hub"]
