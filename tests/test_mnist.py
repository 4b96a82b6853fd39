"""Real MNIST: what is loaded, and what happens to files that are damaged or missing."""

import gzip
import hashlib
import shutil
import urllib.request
from pathlib import Path

import pytest
import torch

from helpers import mnist

LABELS = "t10k-labels-idx1-ubyte"


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


@pytest.mark.parametrize("damage", ["truncated", "bit-flipped", "not gzip", "other content"])
def test_damaged_file(data, offline, damage):
    packed = data / f"{LABELS}.gz"
    content = bytearray(packed.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "bit-flipped":
        content[len(content) // 2] ^= 1
    elif damage == "not gzip":
        content = b"<html>not found</html>"
    else:
        content = gzip.compress(bytes(10_008))
    packed.write_bytes(content)
    with pytest.raises(ValueError, match=f"{LABELS}.gz .*git checkout"):
        mnist.load_mnist(train=False, data=data)
    assert LABELS not in files_in(data / "unpacked")
    assert set(files_in(data / "unpacked")) <= set(mnist.CHECKSUMS), "something was left behind"


def test_missing_file_says_which_and_where(data, offline):
    (data / f"{LABELS}.gz").unlink()
    with pytest.raises(FileNotFoundError) as error:
        mnist.load_mnist(train=False, data=data)
    assert f"{LABELS}.gz is missing" in str(error.value)
    assert str(data) in str(error.value)
    assert len(offline) == len(mnist.MNIST.mirrors), "each mirror should be tried once"
    assert LABELS not in files_in(data / "unpacked")


def test_missing_file_comes_from_a_mirror(data, monkeypatch):
    content = (data / f"{LABELS}.gz").read_bytes()
    (data / f"{LABELS}.gz").unlink()
    served = data / "served.gz"
    served.write_bytes(content)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: served.open("rb"))
    _, labels = mnist.load_mnist(train=False, data=data)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_mirror_that_serves_rubbish(data, monkeypatch):
    (data / f"{LABELS}.gz").unlink()
    served = data / "served.gz"
    served.write_bytes(b"<html>log in to the hotel's network</html>")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: served.open("rb"))
    with pytest.raises(FileNotFoundError, match=LABELS):
        mnist.load_mnist(train=False, data=data)
    assert LABELS not in files_in(data / "unpacked")


def test_damaged_unpacked_copy_is_repaired(data, offline):
    mnist.load_mnist(train=False, data=data)
    unpacked = data / "unpacked" / "MNIST" / "raw" / LABELS
    content = bytearray(unpacked.read_bytes())
    content[100] ^= 1
    unpacked.write_bytes(content)
    _, labels = mnist.load_mnist(train=False, data=data)
    assert hashlib.md5(unpacked.read_bytes()).hexdigest() == mnist.CHECKSUMS[LABELS]
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_damaged_unpacked_copy_is_never_used(data, offline):
    mnist.load_mnist(train=False, data=data)
    (data / "unpacked" / "MNIST" / "raw" / LABELS).write_bytes(b"rubbish")
    (data / f"{LABELS}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=LABELS):
        mnist.load_mnist(train=False, data=data)


def test_interrupted_unpacking_leaves_nothing(data, offline, monkeypatch):
    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr("helpers.files.os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        mnist.load_mnist(train=False, data=data)
    assert files_in(data / "unpacked") == []


def test_readme_names_every_checksum():
    text = (Path(mnist.DATA) / "README.md").read_text()
    for name, md5 in mnist.CHECKSUMS.items():
        assert name in text and md5 in text
