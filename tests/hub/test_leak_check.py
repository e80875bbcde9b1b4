"""A push refuses files with secrets or paths of this machine."""

import gzip
import json
import pickle
import tempfile
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_sparse.hub.leak_check import require_public
from tests.hub.test_png import chunk, picture

TOKEN = "hf_" + "a" * 34


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with a run in it, none of it below the directory for temporary files."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", "/not/here/temporary")
    (tmp_path / "home" / "run").mkdir(parents=True)
    return tmp_path / "home"


def check(home: Path, files: dict[str, bytes | str], token: str | None = None) -> None:
    staged = home.parent / "staged"
    for name, content in files.items():
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    require_public(staged, home / "run", token)


def test_what_a_model_consists_of_may_be_published(home: Path) -> None:
    save_file({"weight": torch.zeros(2)}, home / "model.safetensors", {"format": "pt"})
    files = {
        "model.safetensors": (home / "model.safetensors").read_bytes(),
        "config.json": '{"hf_sparse": {"pattern": "2:4"}, "_name_or_path": "prajjwal1/bert-tiny"}',
        "README.md": "[the Hub](https://huggingface.co/a/b) 3/4 and/or </s> at ~/x and ./a/b and a /7 or 1/2",
        "chat_template.jinja": "{{ '</s>/think' }}",
        "pictures/sparsity.png": b"\x89PNG\r\n\0/usr/bin",
    }
    check(home, files)


def test_words_of_a_vocabulary_are_no_paths(home: Path) -> None:
    words = "/usr/bin/env\n/etc/passwd\n/tmp/\n/root\n"
    check(home, {"vocab.txt": words, "tokenizer.json": words})
    with pytest.raises(ValueError, match=r"^vocab.txt would be pushed and holds '/"):
        check(home, {"vocab.txt": f"{words}{home}/thesis\n"})


@pytest.mark.parametrize("name", ["README.md", "packed/config.json", "tokenizer.json", "model.safetensors"])
def test_a_token_is_refused_wherever_it_is(name: str, home: Path) -> None:
    content: bytes | str = f'{{"token": "{TOKEN}"}}'
    if name.endswith(".safetensors"):
        save_file({"weight": torch.zeros(2)}, home / name, {"token": TOKEN})
        content = (home / name).read_bytes()
    with pytest.raises(ValueError, match=f"^{name} would be pushed and holds a token of the Hub; "):
        check(home, {name: content})


def test_the_token_in_use_is_refused_whatever_it_looks_like(home: Path) -> None:
    check(home, {"README.md": "secret sauce"})
    with pytest.raises(ValueError, match="a token that is in use here"):
        check(home, {"README.md": "secret sauce"}, token="secret")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("training_args.bin", "the arguments of a training run, with its token"),
        ("deep/optimizer.pt", "the state of a training run"),
        ("scheduler.pt", "the state of a training run"),
        ("rng_state_0.pth", "the state of a training run"),
        ("pytorch_model.bin", "a pickle, which runs code where it is loaded"),
    ],
)
def test_what_a_trainer_needs_to_resume_is_refused_by_its_name(name: str, reason: str, home: Path) -> None:
    with pytest.raises(ValueError, match=f"^{name} would be pushed and holds {reason}; take that out of "):
        check(home, {name: b""})


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_is_refused_by_what_it_holds(kind: str, home: Path) -> None:
    if kind == "torch":
        torch.save({"a": 1}, home / "saved")
    else:
        (home / "saved").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="^innocent would be pushed and holds a pickle"):
        check(home, {"innocent": (home / "saved").read_bytes()})


def test_paths_of_the_user_are_refused_whether_or_not_they_are_there(home: Path) -> None:
    for text in (f"{home}/gone/model", f"from {home}.", f'"{home}/run/x"', "see /not/here/temporary/run"):
        with pytest.raises(ValueError, match="^notes.md would be pushed and holds '/.*', a path of this"):
            check(home, {"notes.md": text})


def test_other_paths_are_refused_where_they_are_there(home: Path) -> None:
    other = home.parent / "elsewhere"
    other.mkdir()
    check(home, {"notes.md": "see /no/such/path and /7"})
    for text in (f"see {other}", f"see {other}/gone.", f"({other})"):
        with pytest.raises(ValueError, match="a path of this machine"):
            check(home, {"notes.md": text})


def test_a_home_at_the_root_is_no_part_of_everything(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    check(home, {"notes.md": "either/or, 1/2"})


def test_paths_are_found_however_json_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (r"C:\Users\alice", "josé"):
        home = tmp_path / name
        monkeypatch.setenv("HOME", str(home))
        home.mkdir()
        for text in (json.dumps({"from": f"{home}/gone"}), f"from {home}", str(home).replace("/", r"\/")):
            with pytest.raises(ValueError, match="^notes.json would be pushed and holds '/.*', a path of"):
                check(home, {"notes.json": text})


def test_other_paths_of_windows_are_refused_where_they_are_there(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    # Outside Windows that is the name of one directory.
    (home / r"D:\runs\mine").mkdir()
    check(home, {"notes.json": json.dumps(r"D:\runs, D:\runs\others, C:/no/such and std::vector")})
    for text in (json.dumps({"from": r"D:\runs\mine\gone"}), r"see D:\runs\mine"):
        with pytest.raises(ValueError, match=r"holds 'D:.*mine.*', a path of this machine"):
            check(home, {"notes.json": text})


def test_secrets_are_found_in_every_width_and_behind_what_is_no_text(home: Path) -> None:
    for content in (
        f"mine: {TOKEN}".encode("utf-16"),
        b"\0\xff" + TOKEN.encode(),
        b"\xff\xd8\xff\xe0 JPEG " + TOKEN.encode() + b"\0",
        picture(chunk(b"tEXt", b"Comment\0" + TOKEN.encode())),
        picture(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(TOKEN.encode()))),
        picture() + TOKEN.encode(),
    ):
        with pytest.raises(ValueError, match=r"^pictures/x.png would be pushed and holds a token of the"):
            check(home, {"pictures/x.png": content})


def test_a_secret_among_the_numbers_of_a_tensor_is_found(home: Path) -> None:
    hidden = torch.frombuffer(bytearray(b"\1\2\3" + TOKEN.encode() + b"\0"), dtype=torch.uint8)
    save_file({"state": hidden}, home / "model.safetensors")
    with pytest.raises(ValueError, match=r"^model.safetensors would be pushed and holds a token of the H"):
        check(home, {"model.safetensors": (home / "model.safetensors").read_bytes()})


def test_paths_are_found_in_utf_16_and_in_the_texts_of_a_picture(home: Path) -> None:
    secret = f"{home}/thesis"
    for content in (
        secret.encode("utf-16"),
        secret.encode("utf-16-be"),
        picture(chunk(b"iTXt", b"Source\0\1\0\0\0" + zlib.compress(secret.encode()))),
    ):
        with pytest.raises(ValueError, match=r"^x.png would be pushed and holds '/.*thesis', a path of"):
            check(home, {"x.png": content})


@pytest.mark.parametrize(
    "content", [b"", b"no tensors at all", b"\xff" * 16, (640).to_bytes(8, "little") + b"{}", b"\x80\4"]
)
def test_tensors_that_are_none_are_refused(content: bytes, home: Path) -> None:
    with pytest.raises(ValueError, match=r"^model.safetensors would be pushed and holds no tensors, as"):
        check(home, {"model.safetensors": content})


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_the_length_of_a_header_is_not_taken_for_a_pickle(version: int, home: Path) -> None:
    length = 0x80 + 0x100 * version
    check(home, {"model.safetensors": length.to_bytes(8, "little") + b"{}".ljust(length)})


@pytest.mark.parametrize("name", ["chat_template.jinja", "LICENSE"])
def test_an_archive_is_refused_by_what_it_holds(name: str, home: Path) -> None:
    with pytest.raises(ValueError, match=f"^{name} would be pushed and holds an archive, in which"):
        check(home, {name: gzip.compress(TOKEN.encode())})


def test_keys_are_refused_by_their_name(home: Path) -> None:
    for name in (".env", "id_rsa", "server.pem"):
        with pytest.raises(ValueError, match="holds keys, by its name"):
            check(home, {name: b""})
        (home.parent / "staged" / name).unlink()
