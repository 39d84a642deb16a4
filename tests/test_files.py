"""A file that may hold work is replaced as a whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from grader import files
from grader.errors import EnvironmentFault


@pytest.mark.parametrize("content", [b"", b"x\r\ny\n", b"\xff\x00caf\xe9", "多头".encode()])
def test_what_is_read_and_written_again_is_the_same_bytes(tmp_path, content):
    path = tmp_path / "a.py"
    path.write_bytes(content)
    files.replace(path, files.read(path))

    assert path.read_bytes() == content


def test_a_folder_is_made_and_nothing_else_is_left(tmp_path):
    files.replace(tmp_path / "new" / "a.py", "x")

    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.py"]


def test_permissions_stay(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("old")
    path.chmod(0o640)
    files.replace(path, "new")

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path):
    target = tmp_path / "target.py"
    target.write_text("old")
    (tmp_path / "link.py").symlink_to(target)
    files.replace(tmp_path / "link.py", "new")

    assert (tmp_path / "link.py").is_symlink()
    assert target.read_text() == "new"


def test_when_the_disk_refuses_the_old_text_is_still_there(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    path.write_text("old")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match=r"No space left on device.*nothing was changed"):
        files.replace(path, "new")

    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.py"]


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_cannot_be_read_is_named(tmp_path, make):
    path = tmp_path / "a.py"
    make(path)

    with pytest.raises(EnvironmentFault, match=r"a\.py: can't be read"):
        files.read(path)
