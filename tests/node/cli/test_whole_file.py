"""Files that verbs write appear whole or not at all, and take no other file's place unasked."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from node.cli.whole_file import whole_file
from node.errors import ValidationFailed
from node.security.files import SECRET_MODE, write_atomically
from tests.node.cli.conftest import FakeNode, Shell

OLD = b"of last Monday\n"


def write(file: Path, *, force: bool = False, private: bool = False) -> None:
    with whole_file(file, force=force, private=private) as target:
        target.write(b"new")


def fail(file: Path, failure: BaseException) -> None:
    with whole_file(file, force=True) as target:
        target.write(b"half")
        raise failure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def test_a_file_appears_when_it_is_whole(folder: Path) -> None:
    file = folder / "out"
    with whole_file(file, force=False, private=True) as target:
        target.write(b"new")
        assert not file.exists()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"out": b"new"}
    assert file.stat().st_mode & 0o777 == 0o600
    mask = os.umask(0o022)
    try:
        write(folder / "public")
    finally:
        os.umask(mask)
    assert (folder / "public").stat().st_mode & 0o777 == 0o644


def test_a_file_is_overwritten_only_by_force(folder: Path) -> None:
    file = folder / "out"
    file.write_bytes(OLD)
    with pytest.raises(ValidationFailed, match="exists already"):
        write(file)
    assert file.read_bytes() == OLD
    write(file, force=True)
    assert file.read_bytes() == b"new"


def test_a_name_that_is_taken_meanwhile_is_not_overwritten_either(folder: Path) -> None:
    file = folder / "out"
    with pytest.raises(ValidationFailed, match="exists already"), whole_file(file, force=False):
        file.write_bytes(OLD)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"out": OLD}


def test_a_file_system_without_links_will_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write(folder / "out")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"out": b"new"}
    with pytest.raises(ValidationFailed), whole_file(folder / "other", force=False):
        (folder / "other").write_bytes(OLD)
    assert (folder / "other").read_bytes() == OLD


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_of_what_failed(folder: Path, failure: BaseException) -> None:
    file = folder / "out"
    file.write_bytes(OLD)
    for name in ("out", "other"):
        with pytest.raises(type(failure)):
            fail(folder / name, failure)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"out": OLD}


def test_a_link_leads_to_what_is_overwritten_and_a_pipe_is_written_as_it_is(folder: Path) -> None:
    (folder / "far").write_bytes(OLD)
    (folder / "link").symlink_to("far")
    with pytest.raises(ValidationFailed, match="exists already"):
        write(folder / "link")
    write(folder / "link", force=True)
    assert (folder / "link").is_symlink()
    assert (folder / "far").read_bytes() == b"new"
    reader, writer = os.pipe()
    try:
        write(Path(f"/dev/fd/{writer}"))
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_secret_leaves_no_half_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(folder / "ca.key", b"secret", mode=SECRET_MODE)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("verb", ["export", "backup"])
def test_what_was_saved_of_the_memory_before_is_not_overwritten_unasked(
    node: FakeNode, shell: Shell, tmp_path: Path, verb: str
) -> None:
    file = tmp_path / "saved"
    file.write_bytes(OLD)
    assert shell("memory", verb, str(file)) == 2
    assert f"{file} exists already" in shell.err
    assert "--force" in shell.err
    assert node.requests == []
    assert file.read_bytes() == OLD


def test_a_backup_that_is_none_does_not_take_the_place_of_one(
    node: FakeNode, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "saved"
    file.write_bytes(OLD)
    node.answers["GET", "/memory/backup"] = 200, b"nonsense"
    assert shell("memory", "backup", str(file), "--force") == 1
    assert file.read_bytes() == OLD
    node.answers["GET", "/memory/export"] = 200, b'{"type":"end"}\n'
    assert shell("memory", "export", str(file), "--force") == 0
    assert file.read_bytes() == b'{"type":"end"}\n'
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["admin.token", "saved"]
