"""Recognises files that are not text by how they begin, whatever their name is."""

from __future__ import annotations

from ml.logs.text.layout import WrongFile

_BEGINNINGS = {
    b"\x1f\x8b\x08": ("packed with gzip", "name it .gz"),
    b"\x28\xb5\x2f\xfd": ("packed with Zstandard", "name it .zst"),
    b"PK\x03\x04": ("a zip archive", "name it .zip"),
    b"BZh91AY&SY": ("packed with bzip2", "name it .bz2"),
    b"\xfd7zXZ\x00": ("packed with xz", "name it .xz"),
    b"PAR1\x15": ("Parquet", "set source.format: parquet"),
    b"\xff\xfe": ("UTF-16", "convert it to UTF-8"),
    b"\xfe\xff": ("UTF-16", "convert it to UTF-8"),
}


def check_is_text(beginning: bytes, file: str) -> None:
    """Raises `WrongFile` if the first bytes of a file show that it is not text."""
    for mark, (what, way_out) in _BEGINNINGS.items():
        if beginning.startswith(mark):
            raise WrongFile(f"{file}: the content is {what}, not text; {way_out}")
