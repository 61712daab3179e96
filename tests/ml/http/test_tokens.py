"""Files of tokens, and the headers that present one."""

from __future__ import annotations

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml.http.tokens import load_token, presented_token, same_token


def test_a_token_is_created_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "token"
    token = load_token(path)
    assert len(token) >= 32 and load_token(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["token"]


def test_processes_that_start_together_use_the_same_token(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: load_token(tmp_path / "token"), range(64)))) == 1


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    load_token(path)
    path.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        load_token(path)


@pytest.mark.parametrize("content", ["", "\n", "two words", "a:b", "a@worker", "tökén"])
def test_a_file_without_one_word_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(ValueError, match="does not hold a token"):
        load_token(path)


def basic(credentials: bytes) -> str:
    return f"Basic {base64.b64encode(credentials).decode()}"


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        (basic(b"abc:"), "abc"),
        (basic(b"abc:password"), "abc"),
        (basic(b"abc"), "abc"),
        (basic(b":password"), ""),
        (basic(b"\xff\xfe"), ""),
        ("Basic !!!", ""),
        ("Digest abc", ""),
        ("Bearer", ""),
        ("", ""),
    ],
)
def test_the_token_of_a_header(header: str, token: str) -> None:
    assert presented_token(header) == token


def test_comparison_of_tokens() -> None:
    assert same_token("abc", "abc")
    assert not any(same_token(other, "abc") for other in ("", "ab", "abcd", "ABC", "äbc", "\ud800"))
