"""What the notebooks have taught and a later one needs again."""

import errno
import os
import secrets
import tempfile
from pathlib import Path

__all__ = ["TextToImage", "open_folder", "restore", "write_whole"]

ROOT = Path(__file__).resolve().parents[1]


def restore(folder):
    """Say how to get back the project's files in `folder`, as in "data"."""
    if (ROOT / folder).is_dir():
        return f"restore it with 'git checkout -- {folder}'"
    return "install the project from a clone of it, with 'pip install -e .'"


def _refusal(error, path):
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    todo = "free some disk space" if full else "choose a folder that you may write to"
    return OSError(error.errno, f"cannot be written ({error.strerror}): {todo}", str(path))


def open_folder(path):
    """Make a folder and see that files can be written there: its `Path`, or an OSError."""
    path = Path(path).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise _refusal(error, path) from error
    return path


def write_whole(path, content):
    """Write bytes beside `path`, then rename: a failure leaves what was there, and an OSError."""
    path = Path(path).expanduser()
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise _refusal(error, path) from error


def __getattr__(name):
    # TextToImage is looked up on first use, so that a notebook about shapes does not load it.
    if name == "TextToImage":
        from helpers.generator import TextToImage  # noqa: PLC0415

        return TextToImage
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")
