"""Files that are there whole or not at all."""

import os


def write_whole(path, content):
    """Write a file beside its place, then rename it; a failure leaves what was there before.

    Args:
        path: a `Path` in a folder that exists.
        content: bytes, or a function that is given the `Path` to fill.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if callable(content):
            content(beside)
        else:
            beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
