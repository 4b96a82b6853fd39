"""Files that are there whole or not at all."""

import errno
import os
import secrets
from contextlib import contextmanager

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path):
    """Let an `OSError` in this block name the file that is written, and say what to do."""
    try:
        yield
    except OSError as error:
        if not error.strerror or isinstance(error.__cause__, OSError):  # it is said already
            raise
        todo = "free some disk space" if error.errno in FULL else "choose a folder you may write to"
        reason = f"cannot be written ({error.strerror}): {todo}"
        raise OSError(error.errno, reason, str(path)) from error


def write_whole(path, content):
    """Write a file beside its place, then rename it; a failure leaves what was there before.

    Args:
        path: a `Path` in a folder that exists.
        content: bytes, or a function that is given the `Path` to fill.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with writing(path):
        try:
            if callable(content):
                content(beside)
            else:
                beside.write_bytes(content)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
