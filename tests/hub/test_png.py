"""The texts in a PNG are found."""

import struct
import zlib
from pathlib import Path

import pytest

from hf_sparse.hub.leak_check import PNG, texts_of_png


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def picture(*chunks: bytes) -> bytes:
    """A PNG of one pixel, with chunks between its head and its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\xff"))
    return PNG + head + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def texts(tmp_path: Path, content: bytes) -> list[bytes]:
    (tmp_path / "picture.png").write_bytes(content)
    return list(texts_of_png(tmp_path / "picture.png"))


def test_every_kind_of_text_is_read(tmp_path: Path) -> None:
    found = texts(
        tmp_path,
        picture(
            chunk(b"tEXt", b"Software\0mine"),
            chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"hidden")),
            chunk(b"iTXt", b"Title\0\1\0en\0Titre\0" + zlib.compress(b"deep")),
            chunk(b"iTXt", b"Title\0\0\0en\0Titre\0plain"),
            chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"colors")),
        )
        + b"trailing",
    )
    assert found == [
        b"Software\nmine",
        b"Comment\nhidden",
        b"Title\nen\nTitre\ndeep",
        b"Title\n\n\nen\nTitre\nplain",
        b"profile\ncolors",
    ]


def test_a_picture_without_texts_has_none(tmp_path: Path) -> None:
    assert texts(tmp_path, picture()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (picture(chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * (1 << 25)))), "more text in a picture than"),
        (picture(*[chunk(b"tEXt", b"k\0" + b"a" * (1 << 20))] * 17), "more text in a picture than"),
        (picture(chunk(b"zTXt", b"k\0\0no stream")), "a text in a picture that cannot be read"),
        (PNG + struct.pack(">I", 1 << 31) + b"tEXt", "a picture that is cut off"),
    ],
    ids=["bomb", "many", "damaged", "cut off"],
)
def test_what_cannot_be_searched_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        texts(tmp_path, content)
