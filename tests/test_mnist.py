"""Real MNIST: what is loaded. What happens to damaged files is in faults/test_data.py."""

import hashlib
import shutil
import urllib.request
from pathlib import Path

import pytest
import torch

from helpers import mnist


@pytest.fixture
def data(tmp_path):
    """Copy the four compressed files into a data folder of the test's own."""
    for name in mnist.CHECKSUMS:
        shutil.copy(mnist.DATA / f"{name}.gz", tmp_path)
    return tmp_path


@pytest.fixture
def offline(monkeypatch):
    """Refuse every download, and tell how many were tried."""
    tried = []

    def refuse(address, *args, **kwargs):
        tried.append(address)
        raise OSError("the network is blocked")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tried


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_load_mnist_is_the_original():
    images, labels = mnist.load_mnist(train=True)
    assert images.shape == (60_000, 28, 28) and images.dtype == torch.uint8
    assert labels.shape == (60_000,) and labels.dtype == torch.int64
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert labels.bincount().tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]
    assert round(images.double().mean().item(), 4) == 33.3184
    content = images.numpy().tobytes()  # the file is these bytes behind 16 of header
    header = bytes.fromhex("00000803 0000ea60 0000001c 0000001c")
    assert hashlib.md5(header + content).hexdigest() == mnist.CHECKSUMS["train-images-idx3-ubyte"]


def test_test_set():
    images, labels = mnist.load_mnist(train=False)
    assert images.shape == (10_000, 28, 28)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_splits_cover_everything_and_share_nothing():
    splits = mnist.load_splits()
    sizes = {name: len(labels) for name, (_, labels) in splits.items()}
    assert sizes == {"train": 55_000, "validation": 5_000, "test": 10_000}
    images, labels = mnist.load_mnist(train=True)
    assert torch.equal(torch.cat([splits["train"][0], splits["validation"][0]]), images)
    assert torch.equal(torch.cat([splits["train"][1], splits["validation"][1]]), labels)
    seen = {p.numpy().tobytes() for name in splits for p in splits[name][0]}
    assert len(seen) == 70_000


def test_to_float():
    images = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).view(1, 2, 2)
    pictures = mnist.to_float(images)
    assert pictures.dtype == torch.float32
    assert torch.allclose(pictures, torch.tensor([[[[0, 0.2], [1, 0.4]]]]))


def test_unpacks_once_and_leaves_nothing_else_behind(data, offline):
    mnist.load_mnist(train=False, data=data)
    raw = data / "unpacked" / "MNIST" / "raw"
    assert files_in(data / "unpacked") == sorted(mnist.CHECKSUMS)
    before = {path.name: path.stat().st_mtime_ns for path in raw.iterdir()}
    mnist.load_mnist(train=False, data=data)
    assert {path.name: path.stat().st_mtime_ns for path in raw.iterdir()} == before
    assert not offline, "it asked for the network although everything was there"


def test_readme_names_every_checksum():
    text = (Path(mnist.DATA) / "README.md").read_text()
    for name, md5 in mnist.CHECKSUMS.items():
        assert name in text and md5 in text
