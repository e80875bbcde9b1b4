"""Search for secrets in bytes: tokens and keys that services issue, and those that this process uses."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# Issued secrets have distinctive prefixes, so no word of a vocabulary is taken for one. Each kind has its
# prefixes, whose search is fast, and the expression that is then matched there.
_ISSUED = {
    "a token of the Hub": ("hf_ api_org_", r"(hf_|api_org_)[A-Za-z0-9]{20}"),
    "a key of AWS": ("AKIA ASIA", r"A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    "a token of GitHub": (
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
        r"(gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{36})",
    ),
    "a token of GitLab": (
        "glpat- glptt- gldt- glrt- glcbt- glsoat-",
        r"gl(pat|ptt|dt|rt|cbt|soat)-[A-Za-z0-9_-]{20}",
    ),
    "a key of OpenAI or Anthropic": (
        "sk-",
        r"sk-((ant|proj|svcacct|admin|or)-[A-Za-z0-9_-]{20}|[A-Za-z0-9]{32})",
    ),
    "a key of W&B": ("wandb_v", r"wandb_v\d_[A-Za-z0-9_-]{20}"),
    "a key of Google": (
        "AIza GOCSPX- ya29.",
        r"(AIza[A-Za-z0-9_-]{35}|(GOCSPX-|ya29\.)[A-Za-z0-9_-]{20})",
    ),
    "a token of Slack": ("xox xapp-", r"(xox[a-z]|xapp)-[A-Za-z0-9-]{20}"),
    "a key of Stripe": ("sk_live_ rk_live_", r"[sr]k_live_[A-Za-z0-9]{20}"),
    "a token of npm": ("npm_", r"npm_[A-Za-z0-9]{36}"),
    "a token of PyPI": ("pypi-", r"pypi-[A-Za-z0-9_-]{50}"),
    "a token of Replicate": ("r8_", r"r8_[A-Za-z0-9]{37}"),
    "a token of Kaggle": ("KGAT_", r"KGAT_[0-9a-f]{32}"),
    "a key of Groq": ("gsk_", r"gsk_[A-Za-z0-9]{40}"),
    "a key of SendGrid": ("SG.", r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    "a signed token (JWT)": ("eyJ", r"eyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16}"),
    # A header alone may be part of a text about keys. Encrypted keys have more headers before their letters.
    "a private key": (
        "-----BEGIN",
        r"-----BEGIN ([A-Z0-9]{1,12} ){0,3}PRIVATE KEY( BLOCK)?-----[^\"]{1,300}?"
        r"(?=[A-Za-z0-9+/]{0,39}[A-Z])(?=[A-Za-z0-9+/]{0,39}[a-z])[A-Za-z0-9+/]{40}",
    ),
}
# Some secrets are plain letters, and recognized by the name they are assigned to, in any case.
_NAMED = (
    "secret_access_key secretaccesskey accountkey wandb_api_key openai_api_key kaggle_key api.wandb.ai",
    r"(?i:[a-z_]*key|api\.wandb\.ai[\s\S]{1,40}?password)[^A-Za-z0-9\n]{1,8}[A-Za-z0-9+/]{32}",
)
# No secret begins in the middle of a long run of letters, such as base64 or a hash.
_ENDLESS = re.compile(rb"[A-Za-z0-9_-]{8}")
_KINDS = {
    kind: (starts.encode().split(), re.compile(pattern.encode()))
    for kind, (starts, pattern) in _ISSUED.items()
}
_ASSIGNED = (_NAMED[0].encode().split(), re.compile(_NAMED[1].encode()))
# All of the above contain a run of at least 16 such letters, escaped or not.
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+/.\\"
_IN_A_ROW = 16
_ROW = b"a" * _IN_A_ROW
_AS_ROWS = bytes(ord("a") if code in _LETTERS else 0 for code in range(256))
_PIECE = 1 << 20
# Longer than any match, at four bytes a letter.
_OVERLAP = 4096
# Escaped characters in JSON and YAML.
_ESCAPED = re.compile(rb"\\(?:u00([0-7][0-9a-fA-F])|x([0-7][0-9a-fA-F])|([\\/\"nrtbf]))")
_MEANT = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
# Names of environment variables that hold secrets; shorter values are words, such as `none`.
_SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY)$")
_SHORTEST = 16


def secrets_in_use(token: str | None) -> tuple[str, ...]:
    """Return the token in use, and the values of environment variables that are named like secrets."""
    found = (value for name, value in os.environ.items() if _SECRET_NAMES.search(name.upper()))
    long = (value for value in found if len(value) >= _SHORTEST and "/" not in value)
    return tuple(dict.fromkeys([*([token] if token else []), *long]))


def pieces_of(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces, each of which begins with the last bytes of the previous one."""
    last = b""
    with open(path, "rb") as file:
        while read := file.read(_PIECE):
            yield last + read
            last = (last + read)[-_OVERLAP:]


def find_secret(pieces: Iterable[bytes], in_use: Iterable[str]) -> str | None:
    """Return the kind of the first secret in the pieces of a file, never the secret itself; None without one.

    Finds text in UTF-8, UTF-16 and UTF-32 anywhere in the bytes, also escaped as in JSON. `in_use` are the
    secrets that `secrets_in_use` returns.
    """
    used = [secret.encode() for secret in in_use]
    return next((kind for piece in pieces for kind in _kinds(piece, used)), None)


def _kinds(piece: bytes, used: list[bytes]) -> Iterator[str]:
    for view in _views(piece):
        if any(secret in view for secret in used):
            yield "a token that is in use here"
        # Skip pieces without a run of letters, as most of those with numbers are.
        if _has_rows(view):
            yield from (kind for kind, (starts, pattern) in _KINDS.items() if _holds(view, starts, pattern))
            if _holds(view, *_ASSIGNED, view.lower()):
                yield "a key that is given to a name"


def _holds(view: bytes, starts: list[bytes], pattern: re.Pattern[bytes], low: bytes | None = None) -> bool:
    """Return whether a pattern matches at one of its prefixes, searched for in `low` if given."""
    for start in starts:
        place = -1
        while (place := (low or view).find(start, place + 1)) >= 0:
            endless = low is None and _ENDLESS.fullmatch(view[max(0, place - 8) : place])
            if pattern.match(view, place) and not endless:
                return True
    return False


def _views(piece: bytes) -> Iterator[bytes]:
    yield piece
    # ASCII in UTF-16 or UTF-32, at any offset and in either byte order.
    narrow = piece.replace(b"\0", b"")
    if len(narrow) < len(piece):
        yield narrow
    if b"\\" in narrow and _has_rows(narrow):
        yield _ESCAPED.sub(_meaning, narrow)


def _has_rows(view: bytes) -> bool:
    return _ROW in view.translate(_AS_ROWS)


def _meaning(found: re.Match[bytes]) -> bytes:
    code, short, letter = found.groups()
    return _MEANT.get(letter, letter) if letter else bytes([int(code or short, 16)])
