"""Real MNIST: what is loaded, and what is said of files that are damaged, replaced or missing."""

import gzip
import hashlib
import re
import shutil

import pytest
import torch

from helpers import mnist

TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def flip(content, place):
    at = int(place * (len(content) - 1))
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE = {
    "missing": None,
    "a folder": None,
    "empty": lambda content: b"",
    "cut in the header": lambda content: content[:9],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "a hole in the middle": lambda content: content[:2000] + bytes(1000) + content[3000:],
    "flipped at the front": lambda content: flip(content, 0),
    "flipped in the middle": lambda content: flip(content, 0.5),
    "flipped at the end": lambda content: flip(content, 1),
    "a web page": lambda content: b"<!DOCTYPE html><body>Log in to the hotel's network</body>",
    "the last bit changed": lambda content: gzip.compress(flip(gzip.decompress(content), 1), 1),
    "the training labels": lambda content: (mnist.DATA / "train-labels-idx1-ubyte.gz").read_bytes(),
    "more behind it": lambda content: content + gzip.compress(b"more"),
    "not packed": gzip.decompress,
}


def test_the_pictures_and_labels_are_the_original_ones_and_split_into_three():
    splits = mnist.load_splits()
    sizes = {name: len(labels) for name, (_, labels) in splits.items()}
    assert sizes == {"train": 55_000, "validation": 5_000, "test": 10_000}
    training = [torch.cat(both) for both in zip(splits["train"], splits["validation"], strict=True)]
    names = iter(mnist.CHECKSUMS.values())
    for n, (images, labels) in ((60_000, training), (10_000, splits["test"])):
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert images.shape == (n, 28, 28)
        header = b"".join(size.to_bytes(4, "big") for size in (0x803, n, 28, 28))
        assert hashlib.md5(header + images.numpy().tobytes()).hexdigest() == next(names)
        header = b"".join(size.to_bytes(4, "big") for size in (0x801, n))
        assert hashlib.md5(header + bytes(labels.tolist())).hexdigest() == next(names)
    seen = {p.numpy().tobytes() for name in splits for p in splits[name][0]}
    assert len(seen) == 70_000, "no two pictures are alike, so the splits share none"
    floats = mnist.to_float(torch.tensor([[[0, 51], [255, 102]]], dtype=torch.uint8))
    assert torch.allclose(floats, torch.tensor([[[[0, 0.2], [1, 0.4]]]]))


def test_every_damage_is_named_with_its_file_and_a_way_out(tmp_path):
    for name in TEST:
        shutil.copy(mnist.DATA / f"{name}.gz", tmp_path)
    failures = []
    for path in sorted(tmp_path.iterdir()):
        good = path.read_bytes()
        for kind, damage in DAMAGE.items():
            path.unlink()
            if damage:
                path.write_bytes(damage(good))
            elif kind == "a folder":
                path.mkdir()
            try:
                said = f"took {mnist.load_mnist(train=False, data=tmp_path)[1]}"
            except ValueError as error:
                said = str(error)
            wanted = rf"{re.escape(str(path))} .*: restore it with 'git checkout -- data'\."
            if not re.fullmatch(wanted, said) or (kind == "missing") != ("is missing" in said):
                failures.append(f"{path.name}, {kind}: {said!r}")
            if path.is_dir():
                path.rmdir()
            path.write_bytes(good)
    assert not failures, "\n".join(failures)
    mnist.load_mnist(train=False, data=str(tmp_path))
    assert len([*tmp_path.iterdir()]) == 2, "nothing is unpacked beside them"
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is missing: "):
        mnist.load_mnist(train=True, data=tmp_path)
