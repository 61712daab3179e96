from __future__ import annotations

from pathlib import Path

import pytest

from ml.disk import replace_text


def test_a_file_is_created_with_its_folder_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    for text in ("first", "the second, é"):
        replace_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_permissions_are_those_that_were_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for mode in (0o600, 0o400, 0o600):
        replace_text(path, "text", mode)
        assert path.stat().st_mode & 0o777 == mode


def test_text_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    replace_text(path, "first")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "\ud800")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
