"""Which bytes are secrets, and which only look like some."""

import base64
import json
import random
import string
from pathlib import Path

import numpy as np
import pytest

from hf_sparse.hub.secrets import find_secret, pieces_of, secrets_in_use

LETTERS = string.ascii_letters + string.digits


def letters(count: int, of: str = LETTERS) -> str:
    return "".join(random.Random(count).choices(of, k=count))


SECRETS = {
    "a token of the Hub": "hf_" + letters(34),
    "a key of AWS": "AKIA" + letters(16, string.ascii_uppercase + string.digits),
    "a token of GitHub": "ghp_" + letters(36),
    "a token of GitLab": "glpat-" + letters(20),
    "a key of OpenAI or Anthropic": "sk-ant-api03-" + letters(95),
    "a key of W&B": "wandb_v1_" + letters(60),
    "a key of Google": "AIza" + letters(35),
    "a token of Slack": "xoxb-" + letters(24),
    "a key of Stripe": "sk_live_" + letters(24),
    "a token of npm": "npm_" + letters(36),
    "a token of PyPI": "pypi-" + letters(160),
    "a token of Replicate": "r8_" + letters(37),
    "a token of Kaggle": "KGAT_" + letters(32, "0123456789abcdef"),
    "a key of Groq": "gsk_" + letters(52),
    "a key of SendGrid": f"SG.{letters(22)}.{letters(43)}",
    "a signed token (JWT)": f"eyJ{letters(33)}.eyJ{letters(40)}.{letters(43)}",
    "a private key": f"-----BEGIN RSA PRIVATE KEY-----\n{letters(64)}\n-----END RSA PRIVATE KEY-----",
    "a key that is given to a name": "WANDB_API_KEY=" + letters(40, "0123456789abcdef"),
}


def found(content: bytes, *in_use: str) -> str | None:
    return find_secret([content], in_use)


@pytest.mark.parametrize("kind", SECRETS)
def test_every_kind_is_found_in_every_width_and_surrounding(kind: str) -> None:
    secret = SECRETS[kind]
    for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32-be"):
        assert found(f"Mine: {secret}, yours".encode(encoding)) == kind
        # At an odd place, in the midst of what is no text.
        assert found(b"\x89\x00\xff" + secret.encode(encoding) + b"\x00\xfe\x01") == kind
    assert found(json.dumps({"note": f"see\n{secret}"}).encode()) == kind
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in secret)
    assert found(f'{{"note": "{escaped}"}}'.encode()) == kind


@pytest.mark.parametrize(
    "text",
    [
        "AWS_SECRET_ACCESS_KEY: " + letters(40),
        '"aws_secret_access_key": "' + letters(40),
        "machine api.wandb.ai\n  login user\n  password " + letters(40, "0123456789abcdef"),
        "sk-proj-" + letters(60),
        "sk-" + letters(48),
        "github_pat_" + letters(82),
        "ASIA" + letters(16, string.ascii_uppercase),
        "-----BEGIN OPENSSH PRIVATE KEY-----\n" + letters(70),
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES,0123\n\n" + letters(64),
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n" + letters(64),
    ],
)
def test_other_spellings_are_found(text: str) -> None:
    assert found(text.encode()) is not None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_secret_across_two_pieces_is_found(encoding: str, tmp_path: Path) -> None:
    secret = SECRETS["a private key"].encode(encoding)
    for cut in range(1, len(secret), 31):
        path = tmp_path / "file"
        path.write_bytes(b"\1" * ((1 << 20) - cut) + secret)
        assert find_secret(pieces_of(path), ()) == "a private key"


def test_pieces_are_the_whole_file(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes((1 << 21) + 17)
    (tmp_path / "file").write_bytes(content)
    first, *others = pieces_of(tmp_path / "file")
    assert first + b"".join(piece[4096:] for piece in others) == content


def test_what_is_in_use_is_found_whatever_it_looks_like() -> None:
    for encoding in ("utf-8", "utf-16-be"):
        assert found("xsecretx".encode(encoding), "secret") == "a token that is in use here"
    assert found(b"sec ret", "secret") is None


def test_the_environment_says_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "a long word, known here")
    monkeypatch.setenv("OTHER_TOKEN", "none")
    monkeypatch.setenv("FILE_OF_TOKEN", "/home/somebody/token")
    monkeypatch.setenv("A_TOKENIZER", "bert-base-uncased-of-mine")
    held = secrets_in_use("hf")
    assert held[0] == "hf" and "a long word, known here" in held
    assert not {"none", "/home/somebody/token", "bert-base-uncased-of-mine"} & set(held)


def test_words_and_merges_of_a_vocabulary_are_no_secrets() -> None:
    draw = random.Random(0)
    starts = ("hf_", "sk-", "AKIA", "ghp_", "glpat-", "xoxb-", "eyJ", "r8_", "SG.", "AIza", "npm_", "pypi-")
    words = [
        f"{draw.choice(('', 'Ġ', '##', '▁'))}{draw.choice(('', *starts))}"
        f"{''.join(draw.choices(LETTERS + '_-./', k=draw.randint(1, 15)))}"
        for _ in range(60_000)
    ]
    words += ["secret_access_key", "WANDB_API_KEY", "-----BEGIN RSA PRIVATE KEY-----", "0" * 64, "=" * 64]
    vocabulary = {"vocab": {word: number for number, word in enumerate(words)}}
    merges = {"merges": [f"{one} {other}" for one, other in zip(words, words[1:], strict=False)]}
    for ascii_only in (False, True):
        assert found(json.dumps(vocabulary | merges, indent=1, ensure_ascii=ascii_only).encode()) is None


def test_numbers_hashes_and_base64_are_no_secrets() -> None:
    data = np.random.default_rng(0)
    noise = data.bytes(1_500_000)
    weights = (data.normal(size=400_000) * 0.04).astype(np.float32)
    for content in (
        noise,
        base64.b64encode(noise),
        base64.urlsafe_b64encode(noise),
        base64.encodebytes(noise),
        noise.hex().encode(),
        weights.tobytes(),
        (weights * 900).astype(np.int8).tobytes(),
        b"".join(noise[start : start + 20].hex().encode() + b"\n" for start in range(0, 200_000, 20)),
    ):
        assert found(content) is None
