"""A training that is stopped, killed, or without room goes on from its files, or says why not."""

import functools
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
import torch._dynamo
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from helpers.models import sample_posterior
from helpers.training import constant, train_cvae

FILES = ["last.safetensors"]
processes = multiprocessing.get_context("forkserver")  # each is forked from one that has loaded:
processes.set_forkserver_preload(["pytest", "helpers.training"])


class Tiny(nn.Module):
    """A CVAE of one layer each way; the wider it is, the longer a save takes."""

    def __init__(self, width):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(784, 2 * width), nn.Linear(width, 784)

    def forward(self, pictures, inputs, generator):
        mean, log_variance = self.encoder(pictures.flatten(1)).chunk(2, dim=1)
        z = sample_posterior(mean, log_variance, generator)
        return self.decoder(z).view_as(pictures), mean, log_variance


def batches(generator):
    for _ in range(3):
        yield torch.rand(8, 1, 28, 28, generator=generator).round(), torch.zeros(8)


def redraw(model, inputs, generator):
    """Ask for little ink in what the prior draws: a penalty that uses up the generator."""
    z = torch.randn(8, model.decoder.in_features, generator=generator)
    return 100 * model.decoder(z).sigmoid().mean()


VALIDATION = list(batches(torch.Generator().manual_seed(9)))[:2]


def new_model(width=2):
    torch.manual_seed(0)
    return Tiny(width)


def train(folder=None, model=None, width=2, **settings):
    torch.set_num_threads(1)
    settings = {"batches": batches, "epochs": 4, "steps": 3, "beta": 2.0} | settings
    return train_cvae(model or new_model(width), folder=folder, **settings)


def train_until(epoch, folder, **settings):
    def press_stop(average, done):
        if done == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, after_epoch=press_stop, **settings)
    return folder


def content(folder):
    """Map the names in a folder to their bytes, but for what a killed process had begun."""
    paths = sorted(folder.iterdir()) if folder.exists() else []
    return {path.name: path.read_bytes() for path in paths if path.suffix != ".part"}


def read_state(folder):
    with safe_open(folder / "last.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    return load_file(folder / "last.safetensors"), facts


def read_run(folder):
    """Read all that a run's folder holds, except for how long it took."""
    tensors, facts = read_state(folder)
    assert all(float(row.pop("seconds")) > 0 for row in facts["history"])
    return sorted(content(folder)), {name: x.tolist() for name, x in tensors.items()}, facts


def epochs_kept(folder):
    return len(read_state(folder)[1]["history"]) if (folder / FILES[0]).exists() else 0


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module", name="whole")
def fixture_whole(tmp_path_factory):
    """What the folder of a training holds that nothing disturbed."""
    train(folder := tmp_path_factory.mktemp("whole"))
    return read_run(folder)


def test_stopped_and_resumed_is_the_same_training_to_the_last_bit(tmp_path):
    for name, settings in (("plain", {}), ("penalty", {"penalty": redraw}),
                           ("validation", {"validation": VALIDATION})):
        whole, history = train(tmp_path / f"{name} whole", **settings)
        kept = read_run(tmp_path / f"{name} whole")
        assert len(history) == 4 and kept[0] == FILES and len(kept[2]["history"]) == 4
        assert torch.equal(weights(whole), weights(train(**settings)[0])), "no folder, the same"
        for epoch in (1, 3, 4):
            folder = train_until(epoch, tmp_path / f"{name} {epoch}", **settings)
            assert epochs_kept(folder) == epoch
            resumed, _ = train(folder, model := new_model(), **settings)
            assert torch.equal(weights(whole), weights(resumed)) and not resumed.training
            assert not torch.equal(weights(model), weights(resumed)), "the model is restored, too"
            assert read_run(folder) == kept


def in_child(connection, act, *given):
    sys.stderr = io.StringIO()
    connection.send("begun")
    try:
        act(*given)
    except OSError as error:
        connection.send(error)


def run_in_child(act, *given, seconds=None):
    """Run `act` in a process of its own, for some seconds if told: what it raised, or its end."""
    here, there = processes.Pipe()
    child = processes.Process(target=in_child, args=(there, act, *given))
    child.start()
    there.close()
    assert here.recv() == "begun"
    if seconds is not None:
        time.sleep(seconds)
        child.kill()
    try:
        return here.recv()
    except EOFError:
        child.join()
        return child.exitcode


def test_killed_at_random_moments_and_resumed_it_is_the_same_training(tmp_path):
    train_wide = functools.partial(train, width=100)  # saving takes a good part of the time
    train_wide(tmp_path / "warm")
    start = time.perf_counter()
    train_wide(tmp_path / "whole")
    seconds, whole = time.perf_counter() - start, read_run(tmp_path / "whole")
    print(f"moments of seed {(seed := random.SystemRandom().randrange(10**6))}")
    moments, folder, kills, kept = random.Random(seed), tmp_path / "run", 0, 0
    while kills < 6:
        moment = moments.uniform(0, seconds)
        kills += run_in_child(train_wide, folder, seconds=moment) == -signal.SIGKILL
        before, kept = kept, epochs_kept(folder)
        assert kept >= before, "a resumed training goes on, it does not begin anew"
        if kept == 4:  # done: once more
            train_wide(folder)
            assert read_run(folder) == whole
            shutil.rmtree(folder)
            kept = 0
    train_wide(folder)
    assert read_run(folder) == whole


def die_at_rename(folder, number):
    """Train, and be killed as the file with this number is about to be put in its place."""
    renames = iter(range(100))

    def die(event, arguments):
        if event == "os.rename" and next(renames) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    train(folder)


def test_killed_while_it_saves_it_is_the_same_training(tmp_path, whole):
    for number in range(3):
        folder = tmp_path / str(number)
        assert run_in_child(die_at_rename, folder, number) == -signal.SIGKILL
        assert epochs_kept(folder) == number
        train(folder)
        assert read_run(folder) == whole, number


def train_restricted(folder, size=None):
    """Train where no file may be longer than a size, as on a full disk, or else as nobody."""
    if size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    elif not os.geteuid():
        os.setgid(65534)
        os.setuid(65534)
    train(folder)


def test_without_room_or_right_to_write_the_last_good_state_stays(whole):
    full = "cannot be written (File too large): free some disk space"
    shut = "cannot be written (Permission denied): choose a folder that you may write to"
    cases = [(0, 40_000, FILES[0], full), (2, 40_000, FILES[0], full), (1, None, "", shut)]
    for after, size, name, said in cases:
        with tempfile.TemporaryDirectory() as place:
            Path(place).chmod(0o755)
            folder = Path(place) / "run"
            good = content(train_until(after, folder))[FILES[0]] if after else None
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755 if size else 0o555)
            raised = run_in_child(train_restricted, folder, size)
            folder.chmod(0o755)
            assert isinstance(raised, OSError), (after, size)
            assert (raised.strerror, raised.filename) == (said, str(folder / name))
            assert content(folder).get(FILES[0]) == good and epochs_kept(folder) == after
            assert {path.name for path in folder.iterdir()} <= set(FILES), "nothing half-written"
            train(folder)
            assert read_run(folder) == whole


def damaged(folder):
    """Yield what is wrong, and the bytes of a state in which it is."""
    packed, (tensors, facts) = content(folder)[FILES[0]], read_state(folder)
    yield from {
        "empty": b"", "five bytes": packed[:5], "header cut": packed[:900], "longer": packed + b"a",
        "end cut": packed[:-9], "length flipped": packed[:2] + b"\x81" + packed[3:],
        "pickle": pickle.dumps(tensors), "weights alone": save(new_model().state_dict()),
        "no JSON": save(tensors, {"facts": "{"}),
    }.items()
    for name, x in tensors.items():
        changes = {"missing": {}, "of another shape": {name: torch.zeros(7).to(x.dtype)}}
        if x.is_floating_point():
            changes["not finite"] = {name: x / 0}
        for what, change in changes.items():
            rest = {key: kept for key, kept in tensors.items() if key != name} | change
            yield f"{name} {what}", save(rest, {"facts": json.dumps(facts)})
    for name in facts:
        rest = {key: fact for key, fact in facts.items() if key != name}
        yield f"{name} missing", save(tensors, {"facts": json.dumps(rest)})


def test_a_damaged_state_is_refused_and_nothing_is_restored(tmp_path):
    folder, fresh, failures = train_until(2, tmp_path / "run"), weights(new_model()), []
    start = (f"{folder / FILES[0]} does not fit this training: delete the folder to start anew, or "
             "give another (")
    for name, packed in list(damaged(folder)):
        (folder / FILES[0]).write_bytes(packed)
        before, model, said = content(folder), new_model(), "accepted"
        try:
            train(folder, model)
        except Exception as error:
            said = str(error) if isinstance(error, ValueError) else repr(error)
        same = content(folder) == before and torch.equal(weights(model), fresh)
        if not (said.startswith(start) and "\n" not in said and same):
            failures.append(f"{name}: {said}; {'nothing' if same else 'something'} was restored")
    assert not failures, "\n".join(failures)


def test_a_state_of_another_training_is_refused(tmp_path):
    before, failures = content(train_until(2, tmp_path)), []
    others = ({"epochs": 5}, {"epochs": 2, "steps": 6}, {"steps": 2}, {"beta": 3.0}, {"share": 0.5},
              {"rate": 1e-3}, {"seed": 1}, {"validation": VALIDATION}, {"schedule": constant},
              {"penalty": redraw}, {"batches": lambda g: ((1 - x, y) for x, y in batches(g))})
    for settings in (*others, {"width": 3}):
        with pytest.raises(ValueError, match="does not fit this training: delete") as caught:
            train(tmp_path, **settings)
        name = next(iter(settings))
        reason = {"width": "size mismatch", "penalty": "were others", "batches": "were others"}
        reason = reason.get(name, f"({name} was ")
        if reason not in str(caught.value) or content(tmp_path) != before:
            failures.append(f"{settings}: {caught.value}")
    assert not failures, "\n".join(failures)
