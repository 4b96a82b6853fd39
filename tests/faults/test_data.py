"""Faults of data: MNIST's files, the folder they lie in, the mirrors, and the prompts."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from helpers import everyday, mnist

ROOT = mnist.DATA.parent
HTML = b"<!DOCTYPE html><html><body>Log in to the hotel's network</body></html>"
DIGITS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of the test file
every_file = pytest.mark.parametrize("name", mnist.CHECKSUMS)


def flip(content, place=0.5):
    """Flip one bit at a place between 0 and 1."""
    content = bytearray(content)
    content[int(place * (len(content) - 1))] ^= 1
    return bytes(content)


DAMAGE = {
    "empty": lambda content: b"",
    "only the magic number": lambda content: content[:2],
    "cut in the header": lambda content: content[:9],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut in the checksum": lambda content: content[:-6],
    "without its last byte": lambda content: content[:-1],
    "a hole in the middle": lambda content: (
        content[: (half := len(content) // 2)] + bytes(1000) + content[half + 1000 :]
    ),
    "flipped at the front": lambda content: flip(content, 0),
    "flipped in the middle": flip,
    "flipped in the checksum": lambda content: flip(content[:-4]) + content[-4:],
    "flipped at the end": lambda content: flip(content, 1),
    "a web page": lambda content: HTML,
    "a packed web page": lambda content: gzip.compress(HTML),
    "another file": lambda content: gzip.compress(bytes(10_008)),
    "not packed": gzip.decompress,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data folder with everything in it, to be linked and never written to."""
    folder = tmp_path_factory.mktemp("whole")
    for name in mnist.CHECKSUMS:
        shutil.copy(mnist.DATA / f"{name}.gz", folder)
    mnist.load_mnist(train=False, data=folder)
    return folder


@pytest.fixture
def data(whole, tmp_path):
    """A data folder of the test's own, unpacked."""
    return shutil.copytree(whole, tmp_path / "data", copy_function=os.link)


@pytest.fixture
def mirror(monkeypatch):
    """A function that sets up the only mirror, which answers with these bytes, or with nobody."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def set_up(answer=None, length=None, status=200):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if status is None:
                    self.wfile.write(answer)
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer) if length is None else length))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        monkeypatch.setattr(mnist.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        if answer is None:
            server.server_close()
        else:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            servers.append(server)

    set_up()
    yield set_up
    for server in servers:
        server.shutdown()
        server.server_close()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def replace(path, content):
    """Put a file in the place of one that may be a link."""
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


def unpacked(folder, name):
    return folder / "unpacked" / "MNIST" / "raw" / name


def refused(folder, kind, *words):
    """Load, and return the message of the refusal: one sentence, and nothing has changed."""
    before = contents(folder)
    with pytest.raises(kind) as caught:
        mnist.load_mnist(train=False, data=folder)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    for word in words:
        assert word in message
    assert contents(folder) == before, "something was written or left behind"
    return message


def is_right(images, labels):
    """Say whether these are the test pictures, by the md5 of the original files."""
    header = bytes.fromhex("00000803 00002710 0000001c 0000001c")
    found = hashlib.md5(header + images.numpy().tobytes()).hexdigest()
    assert found == mnist.CHECKSUMS["t10k-images-idx3-ubyte"]
    return labels.bincount().tolist() == DIGITS and labels.dtype == torch.int64


# ---- the compressed files ----------------------------------------------------------------------


@every_file
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_nothing_is_unpacked(data, mirror, name, damage):
    packed = data / f"{name}.gz"
    unpacked(data, name).unlink()
    replace(packed, DAMAGE[damage](packed.read_bytes()))
    message = refused(data, ValueError, str(packed), "restore it with 'git checkout -- data'")
    assert "is damaged (" in message or "does not hold the original MNIST file" in message


@every_file
def test_a_missing_file_that_no_mirror_has_is_named(data, mirror, name):
    unpacked(data, name).unlink()
    (data / f"{name}.gz").unlink()
    refused(
        data, FileNotFoundError, f"{name}.gz is missing and cannot be downloaded", "refused",
        f"put it into {data} ", "'git checkout -- data' restores it",
    )


@every_file
def test_a_folder_in_the_place_of_a_file_is_named(data, mirror, name):
    unpacked(data, name).unlink()
    replace(data / f"{name}.gz", None)
    (data / f"{name}.gz").mkdir()
    refused(data, ValueError, f"{name}.gz cannot be read (", "git checkout -- data")


def test_each_mirror_is_tried_once(data, mirror, monkeypatch):
    tried = []

    def refuse(address, timeout):
        tried.append(address)
        raise OSError("the network\nis blocked")

    monkeypatch.undo()
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    name = "t10k-labels-idx1-ubyte"
    unpacked(data, name).unlink()
    (data / f"{name}.gz").unlink()
    refused(data, FileNotFoundError, "the network is blocked")
    assert tried == [f"{mirror}{name}.gz" for mirror in mnist.MNIST.mirrors] and len(tried) > 1


# ---- the mirrors -------------------------------------------------------------------------------


MIRRORS = {
    "a web page": (lambda good: (HTML,), "is damaged"),
    "not found": (lambda good: (HTML, None, 404), "404"),
    "out of order": (lambda good: (b"", None, 503), "503"),
    "cut, and says so": (lambda good: (good[:99],), "is damaged"),
    "cut on the way": (lambda good: (good[:99], len(good)), "IncompleteRead"),
    "no web server": (lambda good: (b"SSH-2.0-OpenSSH_9.9\r\n", None, None), "SSH-2.0"),
    "hangs up": (lambda good: (b"", None, None), "without response"),
    "flipped": (lambda good: (flip(good),), "is damaged"),
}


@pytest.mark.parametrize("kind", MIRRORS)
def test_rubbish_from_a_mirror_is_not_kept(data, mirror, kind):
    name = "t10k-labels-idx1-ubyte"
    answer, word = MIRRORS[kind]
    mirror(*answer((data / f"{name}.gz").read_bytes()))
    unpacked(data, name).unlink()
    (data / f"{name}.gz").unlink()
    refused(data, FileNotFoundError, f"{name}.gz is missing and cannot be downloaded", word)


@every_file
def test_a_missing_file_comes_from_a_mirror(data, mirror, name):
    mirror((data / f"{name}.gz").read_bytes())
    unpacked(data, name).unlink()
    (data / f"{name}.gz").unlink()
    assert is_right(*mnist.load_mnist(train=False, data=data))
    assert hashlib.md5(unpacked(data, name).read_bytes()).hexdigest() == mnist.CHECKSUMS[name]


# ---- the unpacked copies -----------------------------------------------------------------------


@every_file
@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "missing"])
def test_a_damaged_unpacked_copy_is_repaired(data, mirror, name, damage):
    before = contents(data)
    good = unpacked(data, name).read_bytes()
    kinds = {"flipped": flip(good, 0.9), "truncated": good[:-1], "empty": b"", "missing": None}
    replace(unpacked(data, name), kinds[damage])
    assert is_right(*mnist.load_mnist(train=False, data=data))
    assert contents(data) == before


@every_file
def test_a_damaged_unpacked_copy_is_never_used(data, mirror, name):
    replace(unpacked(data, name), flip(unpacked(data, name).read_bytes()))
    (data / f"{name}.gz").unlink()
    refused(data, FileNotFoundError, f"{name}.gz is missing")


def test_what_an_old_torchvision_kept_is_never_used(data, mirror):
    """It kept tensors in a folder named processed, and still prefers them where they are."""
    wrong = torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5, dtype=torch.long)
    (data / "unpacked" / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save(wrong, data / "unpacked" / "MNIST" / "processed" / name)
    assert len(mnist.MNIST(data / "unpacked")) == 5, "torchvision takes them no more"
    assert is_right(*mnist.load_mnist(train=False, data=data))


# ---- a folder that cannot be written, and a full disk ------------------------------------------


CHILD = """
import os, resource, signal, sys
from pathlib import Path
from helpers.mnist import load_mnist
folder, kind = Path(sys.argv[1]), sys.argv[2]
if kind == "limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
if kind == "read-only" and os.getuid() == 0:  # root may write everywhere
    os.setgid(65534)
    os.setuid(65534)
try:
    (folder / "probe").write_bytes(bytes(2_000_000))
    sys.exit("the folder can be written")
except OSError as error:
    print(error.strerror)
    if kind != "read-only":
        (folder / "probe").unlink(missing_ok=True)
images, labels = load_mnist(train=False, data=folder)
print(images.double().mean().item(), *labels.bincount().tolist())
"""


def run_child(folder, kind):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, folder, kind],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    reason, data = done.stdout.splitlines()
    mean, *digits = map(float, data.split())
    assert digits == DIGITS and mean == pytest.approx(33.791224489795916)
    return reason


def test_a_folder_without_write_access_is_enough():
    """The folder is open to all, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        for name in mnist.CHECKSUMS:
            shutil.copy(mnist.DATA / f"{name}.gz", folder)
        os.chmod(folder, 0o555)
        before = contents(Path(folder))
        try:
            assert run_child(folder, "read-only") == "Permission denied"
            assert contents(Path(folder)) == before and len(os.listdir(folder)) == 4
        finally:
            os.chmod(folder, 0o755)


def test_a_read_only_folder_with_damaged_copies_is_enough(whole):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        for name in mnist.CHECKSUMS:
            copy = unpacked(Path(folder), name)
            copy.write_bytes(flip(copy.read_bytes()))
        folders = [folder, *(path for path in Path(folder).rglob("*") if path.is_dir())]
        for path in folders:
            os.chmod(path, 0o555)
        before = contents(Path(folder))
        try:
            assert run_child(folder, "read-only") == "Permission denied"
            assert contents(Path(folder)) == before
        finally:
            for path in folders:
                os.chmod(path, 0o755)


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, kind):
    """What fits is kept, the rest is unpacked in memory; the files are links to our own."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path]
    if kind == "disk" and subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        for name in mnist.CHECKSUMS:
            (tmp_path / f"{name}.gz").symlink_to(mnist.DATA / f"{name}.gz")
        reason = {"disk": "No space left on device", "limit": "File too large"}[kind]
        assert run_child(tmp_path, kind) == reason
        kept = contents(tmp_path / "unpacked")
        assert {path.name for path in kept} == {n for n in mnist.CHECKSUMS if "labels" in n}
        for path, content in kept.items():
            assert hashlib.md5(content).hexdigest() == mnist.CHECKSUMS[path.name]
    finally:
        if kind == "disk":
            subprocess.run(["umount", tmp_path], check=True)


def test_interrupted_unpacking_leaves_nothing(data, mirror, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    before = contents(data)
    for name in mnist.CHECKSUMS:
        unpacked(data, name).unlink()
    monkeypatch.setattr("helpers.files.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        mnist.load_mnist(train=False, data=data)
    assert contents(data) == {p: c for p, c in before.items() if p.suffix == ".gz"}
    monkeypatch.undo()
    assert is_right(*mnist.load_mnist(train=False, data=data)) and contents(data) == before


# ---- prompts -----------------------------------------------------------------------------------


@pytest.fixture
def prompts(tmp_path):
    return shutil.copytree(everyday.PROMPTS, tmp_path / "prompts")


@pytest.mark.parametrize("name", sorted(path.stem for path in everyday.PROMPTS.glob("*.txt")))
@pytest.mark.parametrize("damage", ["missing", "Latin-1", "cut in a letter", "a folder"])
def test_prompts_that_cannot_be_read_are_named(prompts, name, damage):
    path = prompts / f"{name}.txt"
    letter = "7\teine Sieben, größer\n".encode()
    good = path.read_bytes()
    replace(path, {
        "Latin-1": good + "7\teine Sieben, größer\n".encode("latin-1"),
        "cut in a letter": good + letter[: letter.index("ö".encode()) + 1],
    }.get(damage))
    if damage == "a folder":
        path.mkdir()
    before = contents(prompts)
    with pytest.raises(FileNotFoundError if damage == "missing" else ValueError) as caught:
        everyday.load_prompts(name, prompts)
    message = str(caught.value)
    assert str(path) in message and message.endswith("restore it with 'git checkout -- data'.")
    assert "\n" not in message and contents(prompts) == before
