"""Real MNIST as tensors: kept compressed in `data/`, unpacked once, verified by checksum."""

import gzip
import hashlib
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path

import torch
from torchvision.datasets import MNIST

from helpers.files import write_whole

DATA = Path(__file__).resolve().parents[1] / "data"

# md5 of the four files as LeCun and Cortes published them, uncompressed
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def _read_intact(path):
    """Read a file if it is there and is the original, else None."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.md5(content).hexdigest() == CHECKSUMS[path.name] else None


def _unpack(packed, name):
    """Unpack the bytes of one `.gz` file and verify them; a ValueError says what they are not."""
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"is damaged ({error})") from error
    if hashlib.md5(content).hexdigest() != CHECKSUMS[name]:
        raise ValueError("does not hold the original MNIST file")
    return content


def _read(name, data):
    """Read one verified file: unpacked before, or now, or downloaded."""
    target, packed = data / "unpacked" / "MNIST" / "raw" / name, data / f"{name}.gz"
    content = _read_intact(target)
    if content is not None:
        return content
    try:
        content = _unpack(packed.read_bytes(), name)
    except FileNotFoundError:
        content = _download(packed, name)
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else error
        raise ValueError(f"{packed} {reason}: restore it with 'git checkout -- data'.") from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, content)
    except OSError:
        pass  # read-only or full: it is unpacked at every call
    return content


def load_mnist(train=True, data=DATA):
    """Load MNIST (LeCun and Cortes, 1998) without touching the network.

    The compressed files in `data/` are unpacked on first use into `data/unpacked/`, or at every
    call where that folder cannot be written. The very bytes that are returned are checked against
    the md5 of the originals, on every call. If a compressed file is missing, torchvision's mirrors
    are tried.

    Args:
        train: True for the 60,000 training pictures, False for the 10,000 test pictures.
        data: the folder that holds the four `.gz` files.

    Returns:
        images: uint8 tensor (60000 or 10000, 28, 28), 0 is paper and 255 is ink.
        labels: int64 tensor (60000 or 10000,), the digits 0 to 9.

    Raises:
        ValueError: a compressed file is damaged, cannot be read, or is not the original.
        FileNotFoundError: a file is missing and no mirror can be reached.
    """
    files = [_read(name, Path(data)) for name in CHECKSUMS]
    images, labels = map(bytearray, files[:2] if train else files[2:])  # torch wants to own them
    images = torch.frombuffer(images, dtype=torch.uint8, offset=16).view(-1, 28, 28)
    return images, torch.frombuffer(labels, dtype=torch.uint8, offset=8).long()


def _download(packed, name):
    """Fetch one file from torchvision's mirrors; the compressed copy is not kept."""
    reason = "no mirror is known"
    for mirror in MNIST.mirrors:
        address = f"{mirror}{packed.name}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return _unpack(answer.read(), name)
        except (OSError, ValueError, HTTPException) as error:  # URLError is an OSError
            reason = f"{address}: {' '.join(str(error).split())}"
    raise FileNotFoundError(
        f"{packed.name} is missing and cannot be downloaded ({reason}): put it into "
        f"{packed.parent} (it is part of this repository, 'git checkout -- data' restores it)."
    )


def load_splits():
    """Split MNIST the way every notebook does: 55,000 to train, 5,000 to validate, 10,000 to test.

    The validation pictures are the last 5,000 of the training file.

    Returns:
        A dict of (images, labels) pairs under "train", "validation" and "test": uint8 tensors
        (n, 28, 28) with values 0 to 255 and int64 tensors (n,).
    """
    images, labels = load_mnist(train=True)
    return {
        "train": (images[:55_000], labels[:55_000]),
        "validation": (images[55_000:], labels[55_000:]),
        "test": load_mnist(train=False),
    }


def to_float(images):
    """Turn uint8 pictures (n, 28, 28) into float32 (n, 1, 28, 28) with values in [0, 1]."""
    return images[:, None].to(torch.float32) / 255
