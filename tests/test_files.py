"""Files are written whole, folders are tried first."""

import errno
from pathlib import Path

import pytest

import helpers


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    helpers.write_whole(path, b"old")
    helpers.write_whole(str(path), b"new")
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large.*: free some disk space"):
            helpers.write_whole(path, bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
    for error, todo in (
        (OSError(errno.ENOSPC, "full"), "free some disk space"), (KeyboardInterrupt(), None),
        (OSError(errno.EROFS, "read-only"), "choose a folder that you may write to"),
    ):
        def fail(*args, error=error):
            raise error

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(type(error), match=todo) as caught:
            helpers.write_whole(path, b"newer")
        assert todo is None or caught.value.filename == str(path)
        assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_tried_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "a" / "b"
    assert helpers.open_folder("~/a/b") == folder and not list(folder.iterdir())
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "below", "/proc/none/such", "\0"):
        with pytest.raises((OSError, ValueError)):
            helpers.open_folder(place)
    helpers.write_whole("~/c/d.txt", b"there")
    assert Path(tmp_path / "c" / "d.txt").read_bytes() == b"there"


def test_what_is_missing_says_how_to_get_it(monkeypatch):
    """An installation without a clone cannot be mended by git."""
    assert helpers.restore("data") == "restore it with 'git checkout -- data'"
    assert "from a clone of it, with 'pip install -e .'" in helpers.restore("nowhere")
