"""The texts that a PNG carries beside its picture, some of them compressed."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
# Of all texts of a picture together. Those of drawings are a line, of photographs some kilobytes.
_LONGEST = 1 << 24


def texts_of_png(path: Path) -> Iterator[bytes]:
    """Yield the text chunks of a PNG, with the keyword and what was compressed in full.

    Raises `ValueError` for what cannot be read and for more text than a picture has.
    """
    left, size = _LONGEST, path.stat().st_size
    with open(path, "rb") as file:
        file.seek(len(PNG))
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if length > size - file.tell():
                raise ValueError("a picture that is cut off")
            if kind == b"IEND":
                return
            if kind not in _TEXTS:
                file.seek(length + 4, 1)
                continue
            if length > left:
                raise ValueError("more text in a picture than can be searched")
            text = _text(kind, file.read(length), left)
            file.seek(4, 1)
            left -= len(text)
            yield text


def _text(kind: bytes, chunk: bytes, most: int) -> bytes:
    keyword, _, rest = chunk.partition(b"\0")
    if kind in (b"zTXt", b"iCCP"):
        return keyword + b"\n" + _inflated(rest[1:], most)
    if kind == b"iTXt" and rest[:1] == b"\1":
        language, translated, text = (rest[2:].split(b"\0", 2) + [b"", b""])[:3]
        return b"\n".join((keyword, language, translated, _inflated(text, most)))
    return chunk.replace(b"\0", b"\n")


def _inflated(data: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, most)
    except zlib.error as error:
        raise ValueError(f"a text in a picture that cannot be read ({error})") from error
    if stream.unconsumed_tail:
        raise ValueError("more text in a picture than can be searched")
    return text
