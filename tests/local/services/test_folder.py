"""The folder for sockets is private, short, and never one that somebody else laid there."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.local.services import ServiceError, up
from pipeline.local.services.folder import LONGEST_SOCKET, MAX_SOCKET_BYTES, make_private, remove_private, run_folder
from tests.conftest import fresh_settings


@pytest.fixture(autouse=True)
def short_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place of our own for temporary files, short enough for sockets, as `tmp_path` is not."""
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as found:
        monkeypatch.setattr(tempfile, "tempdir", found)
        yield


def test_it_is_the_owners_alone_and_empty_each_time(tmp_path: Path) -> None:
    path = run_folder(tmp_path)
    before = os.umask(0)
    try:
        for _ in range(2):
            make_private(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
            assert list(path.iterdir()) == []
            (path / "left over").touch()
            path.chmod(0o777)
    finally:
        os.umask(before)
    remove_private(path)
    assert not path.exists()


@pytest.mark.parametrize("what", ["a symbolic link", "no folder", "belongs to somebody else"])
def test_what_others_laid_there_is_refused_in_one_line_and_left_as_it_is(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fresh_settings(tmp_path / "home")
    path = run_folder(settings.home)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").touch()
    if what == "a symbolic link":
        path.symlink_to(theirs)
    elif what == "no folder":
        path.touch()
    else:
        path.mkdir()
        (path / "file").touch()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(
        ServiceError, match=rf"{path}.* {what}.*remove it, or choose another place with TMPDIR"
    ) as refusal:
        up(settings, say=lambda line: None)
    assert "\n" not in str(refusal.value)
    assert (theirs / "file").exists()
    assert path.is_symlink() or path.is_file() or (path / "file").exists()


def test_a_place_too_long_for_a_socket_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="too long a path for sockets, by 3 bytes: choose a shorter one with TMPDIR"):
        make_private(Path("/" + "t" * (MAX_SOCKET_BYTES + 1 - len(LONGEST_SOCKET)) + "/"))


def test_every_socket_fits_for_the_longest_user_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    monkeypatch.setattr(os, "getuid", lambda: 2**32 - 2)
    assert len(str(run_folder(Path("/home")) / LONGEST_SOCKET)) <= MAX_SOCKET_BYTES
