"""Real MNIST as tensors: read from `data/`, checked by md5 (06_mnist_and_captions).

And pictures of yours, from a folder (09_training).
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from helpers import restore

DATA = Path(__file__).resolve().parents[1] / "data"

# md5 of the four files as LeCun and Cortes published them, uncompressed
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def read_original(name, data=DATA):
    """Unpack `data/NAME.gz`; a ValueError says how to restore it unless it is the original."""
    path = Path(data).expanduser() / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes())
        reason = "does not hold the original MNIST file"
    except FileNotFoundError:
        content, reason = b"", "is missing"
    except (OSError, EOFError, zlib.error) as error:
        content, reason = b"", f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if hashlib.md5(content).hexdigest() != CHECKSUMS[name]:
        raise ValueError(f"{path} {reason}: {restore('data')}.")
    return content


def load_mnist(train=True, data=DATA):
    """Load MNIST (LeCun and Cortes, 1998): images uint8 (n, 28, 28), 255 is ink; labels int64 (n,).

    60,000 to train, or 10,000; ValueError where a compressed file is not the original.
    """
    names = list(CHECKSUMS)[:2] if train else list(CHECKSUMS)[2:]
    images, labels = (bytearray(read_original(name, data)) for name in names)  # torch owns them
    images = torch.frombuffer(images, dtype=torch.uint8, offset=16).view(-1, 28, 28)
    return images, torch.frombuffer(labels, dtype=torch.uint8, offset=8).long()


def load_splits():
    """Split MNIST into "train", "validation" (the last 5,000 to train) and "test": a dict."""
    images, labels = load_mnist(train=True)
    return {
        "train": (images[:55_000], labels[:55_000]),
        "validation": (images[55_000:], labels[55_000:]),
        "test": load_mnist(train=False),
    }


def to_float(images):
    """Turn uint8 pictures (n, 28, 28) into float32 (n, 1, 28, 28) with values in [0, 1]."""
    return images[:, None].to(torch.float32) / 255


def read_pictures(folder):
    """Read a folder of images of any size: float32 (n, 1, 28, 28), 1 is ink; and n paths, sorted.

    Each is shrunk into the square as it is. Bright rims mean dark ink on paper, and are turned.
    ValueError where there is no image, or one that cannot be read.
    """
    rows, kinds = [], {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    paths = sorted(p for p in Path(folder).expanduser().rglob("*") if p.suffix.lower() in kinds)
    if not paths:
        raise ValueError(f"There is no image in {folder}: give a folder of PNG or JPEG files.")
    for path in paths:
        try:
            with Image.open(path) as image:
                picture = ImageOps.exif_transpose(image).convert("RGBA")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as an image: remove it ({error}).") from error
        paper = Image.new("RGBA", picture.size, "white")
        grey = np.asarray(Image.alpha_composite(paper, picture).convert("L"))
        rim = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
        ink = Image.fromarray(255 - grey if np.median(rim) > 127 else grey)
        rows.append(torch.from_numpy(np.array(ImageOps.pad(ink, (28, 28)))))
    return to_float(torch.stack(rows)), paths
