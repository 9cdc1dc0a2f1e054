"""Folders that tools may use: what leads out of them is refused, whatever it is made of."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from node.config.tools import FileRootsConfig
from node.errors import CaxtonError, Forbidden, ResourceLimitExceeded, ToolFailed, ValidationFailed
from node.tools import roots as module
from node.tools.caller import Caller, FileAccess
from node.tools.file_reading import PIECE_LIMIT, read_piece, search
from node.tools.roots import WRITE_LIMIT, Roots, View
from node.tools.sources import Readable


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Two folders that are offered, and a secret beside them."""
    for name in ("reports/2026", "reports/2025", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("swordfish")
    (tmp_path / "reports" / "tea.txt").write_text("green\nblack\n")
    (tmp_path / "reports" / "2026" / "q1.txt").write_text("Q1: Green tea\n")
    (tmp_path / "reports" / "2025" / "q4.txt").write_text("Q4: black tea\n")
    return tmp_path


def view(disk: Path, access: FileAccess = "read_write", paths: tuple[str, ...] | None = None) -> View:
    config = FileRootsConfig(read=(disk / "reports",), write=(disk / "out",))
    return Roots(config).view(Caller("a", paths=paths, file_access=access))


def read(found: View, path: str) -> bytes:
    with found.open(path) as file:
        return file.read()


def test_a_file_below_a_folder_is_read(disk: Path) -> None:
    assert read(view(disk), "reports/2026/q1.txt") == b"Q1: Green tea\n"
    assert read(view(disk), "/reports/tea.txt/") == b"green\nblack\n"


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "reports", "reports/", "reports/2026", "secret.txt", "/etc/passwd", "reports/../secret.txt",
        "reports/./tea.txt", "reports//tea.txt", "../reports/tea.txt", "reports/tea.txt\x00",
        "reports/none.txt",
        "reports/tea.txt/deeper", "out/../../etc/passwd", "reports/" + "a/" * 40 + "x",
        "reports/" + "x" * 2_000,
        "reports/link.txt", "reports/linked/passwd", "reports/pipe", "reports/socket", "elsewhere/tea.txt",
        "reports/.caxton-1-1.part",
    ],
)  # fmt: skip
def test_what_is_no_file_below_a_folder_is_refused(disk: Path, path: str) -> None:
    (disk / "reports" / "link.txt").symlink_to(disk / "secret.txt")
    (disk / "reports" / "linked").symlink_to("/etc")
    (disk / "reports" / ".caxton-1-1.part").write_text("unfinished")
    os.mkfifo(disk / "reports" / "pipe")
    os.mknod(disk / "reports" / "socket", 0o140600)
    with pytest.raises((ValidationFailed, Forbidden)) as caught:
        read(view(disk), path)
    assert str(disk) not in str(caught.value)  # the disk's own paths are nobody's business


def test_a_folder_that_becomes_a_link_in_between_leads_nowhere(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def exchanged(path: Any, *args: Any, **more: Any) -> int:
        if path == "2026" and (disk / "reports" / "2026").is_dir():
            (disk / "reports" / "2026").rename(disk / "moved")
            (disk / "reports" / "2026").symlink_to("/etc")
        return real(path, *args, **more)

    monkeypatch.setattr(module.os, "open", exchanged)
    with pytest.raises(ValidationFailed, match="no file"):
        read(view(disk), "reports/2026/passwd")


def test_an_agent_sees_the_folders_of_its_file_and_no_other(disk: Path) -> None:
    narrow = view(disk, paths=("reports/2026", "unknown"))
    assert narrow.folders() == ["reports/2026"]
    assert read(narrow, "reports/2026/q1.txt")
    for path in ("reports/tea.txt", "reports/2025/q4.txt", "reports/20261/x", "out/x"):
        with pytest.raises(Forbidden):
            read(narrow, path)
    assert [entry.path for entry in narrow.entries(deep=True)] == ["reports/2026", "reports/2026/q1.txt"]
    nothing = view(disk, "none")
    assert (nothing.folders(), list(nothing.entries(deep=True))) == ([], [])
    with pytest.raises(Forbidden):
        read(nothing, "reports/tea.txt")


def test_folders_are_listed_in_order_and_links_are_not_entered(disk: Path) -> None:
    (disk / "reports" / "linked").symlink_to("/etc")
    found = [(entry.path, entry.kind, entry.size) for entry in view(disk).entries("reports")]
    assert found == [
        ("reports/2025", "folder", 0),
        ("reports/2026", "folder", 0),
        ("reports/linked", "other", 0),
        ("reports/tea.txt", "file", 12),
    ]
    shallow = [entry.path for entry in view(disk).entries()]
    assert shallow == ["out", "reports", *(path for path, _, _ in found)]
    deep = [entry.path for entry in view(disk).entries(deep=True)]
    assert deep == [
        "out", "reports", "reports/2025", "reports/2025/q4.txt", "reports/2026", "reports/2026/q1.txt",
        "reports/linked", "reports/tea.txt",
    ]  # fmt: skip


def test_looking_through_folders_ends(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCAN_LIMIT", 3)
    with pytest.raises(ResourceLimitExceeded):
        list(view(disk).entries(deep=True))


def test_a_file_is_written_whole_where_it_may_be(disk: Path) -> None:
    found = view(disk)
    assert found.write("out/a/b.txt", b"one", overwrite=False) is False
    with pytest.raises(ValidationFailed, match="already"):
        found.write("out/a/b.txt", b"two", overwrite=False)
    assert (disk / "out" / "a" / "b.txt").read_bytes() == b"one"
    assert found.write("out/a/b.txt", b"two", overwrite=True) is True
    assert (disk / "out" / "a" / "b.txt").read_bytes() == b"two"
    assert [p.name for p in (disk / "out" / "a").iterdir()] == ["b.txt"]  # nothing unfinished stays


@pytest.mark.parametrize("path", ["reports/new.txt", "out", "out/../x", "secret.txt", "out/.caxton-x"])
def test_nothing_is_written_elsewhere(disk: Path, path: str) -> None:
    with pytest.raises((Forbidden, ValidationFailed)):
        view(disk).write(path, b"x", overwrite=True)
    with pytest.raises(Forbidden):
        view(disk, "read_only").write("out/x", b"x", overwrite=True)


def test_a_link_is_never_written_through(disk: Path) -> None:
    (disk / "out" / "link").symlink_to(disk / "secret.txt")
    (disk / "out" / "folder").symlink_to(disk)
    for overwrite in (False, True):
        with pytest.raises(ValidationFailed):
            view(disk).write("out/link", b"x", overwrite=overwrite)
        with pytest.raises(ValidationFailed):
            view(disk).write("out/folder/secret.txt", b"x", overwrite=overwrite)
    assert (disk / "secret.txt").read_text() == "swordfish"


def test_too_much_is_not_written(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceLimitExceeded, match="too large"):
        view(disk).write("out/x", b"x" * (WRITE_LIMIT + 1), overwrite=False)
    monkeypatch.setattr(module, "FREE_BYTES", 2**80)
    with pytest.raises(ResourceLimitExceeded, match="almost full"):
        view(disk).write("out/x", b"x", overwrite=False)
    assert list((disk / "out").iterdir()) == []


def test_of_a_file_that_the_disk_has_no_room_for_nothing_stays(disk: Path) -> None:
    """Its beginning would be hidden from every tool, and take the room for good."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
    try:
        with pytest.raises(ToolFailed):
            view(disk).write("out/x", b"x" * 100_000, overwrite=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list((disk / "out").iterdir()) == []


def test_what_the_disk_refuses_is_a_failed_tool(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "link", full)
    with pytest.raises(ToolFailed, match="No space left"):
        view(disk).write("out/x", b"x", overwrite=False)
    assert list((disk / "out").iterdir()) == []


def test_a_long_text_is_read_piece_by_piece_without_breaking_a_letter(disk: Path) -> None:
    text = "äöü€" * 10_000
    (disk / "reports" / "long.txt").write_text(text)
    readable = Readable({"note.txt": b"attached"}, view(disk))
    pieces, offset = [], 0
    while True:
        answer = read_piece(readable, "reports/long.txt", offset, 1_001)
        pieces.append(answer["text"])
        if not answer["truncated"]:
            break
        offset = answer["next_offset"]
    assert "".join(pieces) == text
    assert read_piece(readable, "note.txt", 0, PIECE_LIMIT)["text"] == "attached"
    beyond = read_piece(readable, "note.txt", 99, PIECE_LIMIT)
    assert (beyond["text"], beyond["truncated"]) == ("", False)


def test_what_is_no_text_is_described(disk: Path) -> None:
    readable = Readable({"p.png": b"\x89PNG\x00\xff", "odd.txt": b"a\xffb"}, view(disk))
    answer = read_piece(readable, "p.png", 0, 100)
    assert (answer["binary"], answer["media_type"], answer["bytes"]) == (True, "image/png", 6)
    assert read_piece(readable, "odd.txt", 0, 100)["text"] == "a\N{REPLACEMENT CHARACTER}b"


def test_a_search_finds_names_and_lines_and_ends(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readable = Readable({"tea.md": b"Green?\n"}, view(disk))
    found = search(readable, "GREEN", "", 50)
    assert [(m["file"], m.get("line"), m.get("text")) for m in found["matches"]] == [
        ("tea.md", 1, "Green?"),
        ("reports/2026/q1.txt", 1, "Q1: Green tea"),
        ("reports/tea.txt", 1, "green"),
    ]
    assert [m["file"] for m in search(readable, "q4", "reports/2025", 50)["matches"]] == [
        "reports/2025/q4.txt"
    ] * 2
    assert search(readable, "tea", "", 1)["truncated"] is True
    real = View.open

    def closed(self: View, path: str) -> Any:
        if path == "reports/2025/q4.txt":
            raise ToolFailed("permission denied")
        return real(self, path)

    monkeypatch.setattr(View, "open", closed)
    found = search(readable, "tea", "reports", 50)
    assert (len(found["matches"]), found["files_unread"]) == (2, 1)
    assert search(readable, "nowhere", "", 5)["facts"] == ["nothing holds 'nowhere'"]
    with pytest.raises(CaxtonError):
        search(readable, "x", "../etc", 5)


def test_the_attachments_come_first_and_what_is_missing_is_named(disk: Path) -> None:
    readable = Readable({"reports/tea.txt": b"mine"}, view(disk))
    with readable.open("reports/tea.txt") as file:
        assert file.read() == b"mine"
    with pytest.raises(ValidationFailed) as caught, readable.open("tea.txt"):
        pass
    assert "'reports/tea.txt'" in caught.value.why
    assert "files are read in out, reports" in caught.value.why
