"""What breaks off a training: kills, interrupts, losses that are no numbers, full disks, company.

Each training here is real and short, most of them in processes of their own, forked from one that
has loaded torch already.
"""

import contextlib
import csv
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
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tqdm.auto import tqdm

import helpers.__main__ as command_line
from helpers import release
from helpers.characters import CharacterTokenizer
from helpers.models import FirstGenerator, Proofreader, ShapesCVAE, StyleCVAE
from helpers.shapes import PROMPTS
from helpers.style_training import fit, train_style_head
from helpers.training import (
    resume_run,
    shape_batches,
    train_classifier,
    train_cvae,
    write_history,
    write_safetensors,
)

ROOT = Path(__file__).resolve().parents[2]
TOKENS = CharacterTokenizer().encode(PROMPTS)
FILES = [".lock", "best.safetensors", "history.csv", "last.safetensors"]
GO_ON = "holds the state after the last whole epoch; run the same again to go on from there.\n"
ANEW = "holds no state yet; run the same again to begin anew.\n"

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pytest", "helpers.__main__", "helpers.release"])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums in another order would be other sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batches(generator):
    return shape_batches(TOKENS, per_prompt=4, batch=12, generator=generator)


def new_model(latent=4):
    torch.manual_seed(0)
    return ShapesCVAE(latent)


def train(folder=None, model=None, **settings):
    arguments = {"batches": batches, "epochs": 4, "steps": 3, "beta": 2.0} | settings
    return train_cvae(model or new_model(), folder=folder, **arguments)


def stop_after(epoch):
    def press_stop(average, done):
        if done == epoch:
            raise KeyboardInterrupt

    return press_stop


def content(folder):
    """Map the names in a folder to their bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read_run(folder):
    """Read all that a run's folder holds, except for how long it took."""
    with safe_open(folder / "last.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in (*rows, *facts["history"]):
        assert float(row.pop("seconds")) > 0
    return sorted(content(folder)), tensors, facts, rows, (folder / FILES[1]).read_bytes()


def epochs_kept(folder):
    """Count the epochs in the state; every file there must load."""
    for name in ("best.safetensors", "last.safetensors"):
        if (folder / name).exists():
            assert load_file(folder / name)
    if (folder / "history.csv").exists():
        with (folder / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["epoch"]) for row in rows] == [*range(1, 1 + len(rows))]
    if not (folder / "last.safetensors").exists():
        return 0
    return len(read_run(folder)[2]["history"])


def left_behind(folder):
    return sorted(set(content(folder)) - set(FILES)) if folder.exists() else []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a training that nothing disturbed, as `read_run` reads it; its seconds."""
    folder = tmp_path_factory.mktemp("whole")
    train(tmp_path_factory.mktemp("warm"), epochs=1)
    start = time.perf_counter()
    train(folder)
    seconds = time.perf_counter() - start
    run = read_run(folder)
    assert run[0] == FILES and len(run[3]) == 4
    return run, seconds


def in_child(connection, act, *given):
    """Run `act` in a process of its own; say when it begins, and what was printed or raised."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # the usual one is a semaphore, which a kill leaves behind
    printed, code = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            connection.send("begun")
            act(*given)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt:
            code = 130
        except (OSError, ValueError) as error:
            code = f"{type(error).__name__}: {error}"
    connection.send((code, printed.getvalue()))


def begin(act, *given):
    """Start `act` in a process of its own and wait until it begins."""
    here, there = processes.Pipe()
    child = processes.Process(target=in_child, args=(there, act, *given))
    child.start()
    there.close()
    assert here.recv() == "begun"
    return child, here


def end(child, connection, number=None):
    """Send a signal, if any; return what ended the process and what it had printed."""
    if number and child.is_alive():
        os.kill(child.pid, number)
    try:
        ending = connection.recv()
    except EOFError:
        ending = None
    child.join()
    return ending or (child.exitcode, "")


# ---- killed ------------------------------------------------------------------------------------


def test_killed_at_twenty_random_moments_and_resumed_it_is_the_same_training(tmp_path, whole):
    run, seconds = whole
    seed = random.SystemRandom().randrange(10**6)
    print(f"moments of seed {seed}")
    moments, folder = random.Random(seed), tmp_path / "run"
    kept, trainings, early, in_a_save, later = 0, 0, 0, 0, 0
    while early + in_a_save + later < 20 and trainings < 60:
        child, connection = begin(train, folder)
        time.sleep(moments.uniform(0, seconds))
        code, _ = end(child, connection, signal.SIGKILL)
        if code == 0:
            trainings += 1
            assert read_run(folder) == run
            shutil.rmtree(folder)
            kept = 0
            continue
        assert code == -signal.SIGKILL
        before, kept = kept, epochs_kept(folder)
        assert kept >= before, "a resumed training goes on, it does not begin anew"
        shown = folder / "history.csv"
        ahead = shown.exists() and len(shown.read_text().splitlines()) - 1 > kept
        if ahead or left_behind(folder):
            in_a_save += 1
        elif kept:
            later += 1
        else:
            early += 1
    print(f"{early} before the first save was done, {in_a_save} in a save, {later} elsewhere")
    assert early + in_a_save + later == 20 and in_a_save and early + later
    train(folder)
    assert read_run(folder) == run, "the same to the last bit, and nothing is left behind"


def die_at_rename(folder, number):
    """Train, and be killed as the file with this number is about to be put in its place."""
    renames = iter(range(100))

    def die(event, arguments):
        if event == "os.rename" and next(renames) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    train(folder, epochs=2)


@pytest.mark.parametrize("number", range(6))
def test_killed_between_the_files_of_a_save_it_is_the_same_training(tmp_path, number):
    train(tmp_path / "whole", epochs=2)
    child, connection = begin(die_at_rename, tmp_path / "run", number)
    assert end(child, connection)[0] == -signal.SIGKILL
    assert len(left_behind(tmp_path / "run")) == 1, "it died in a save"
    assert epochs_kept(tmp_path / "run") == number // 3
    train(tmp_path / "run", epochs=2)
    assert read_run(tmp_path / "run") == read_run(tmp_path / "whole")


# ---- interrupted -------------------------------------------------------------------------------


def test_interrupted_at_random_moments_it_says_so_and_goes_on_from_there(tmp_path, whole):
    run, seconds = whole
    seed = random.SystemRandom().randrange(10**6)
    print(f"moments of seed {seed}")
    moments, folder, interrupts = random.Random(seed), tmp_path / "run", 0
    for _ in range(40):
        kept = content(folder) if folder.exists() else {}
        child, connection = begin(train, folder)
        time.sleep(moments.uniform(0, seconds / 2))
        code, printed = end(child, connection, signal.SIGINT)
        if code == 0:
            assert read_run(folder) == run
            shutil.rmtree(folder)
            continue
        assert code == 130
        assert left_behind(folder) == []
        if not printed:  # it had not begun to train, or had just ended
            found = content(folder) if folder.exists() else {}
            assert found in (kept, kept | {".lock": b""}) or read_run(folder) == run
            continue
        assert printed == (
            f"Stopped: {folder} {GO_ON}" if epochs_kept(folder)
            else f"Stopped before the first epoch was whole: {folder} {ANEW}"
        )
        interrupts += 1
        if interrupts == 5:
            break
    assert interrupts == 5
    train(folder)
    assert read_run(folder) == run


@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_after_an_epoch_it_keeps_that_epoch(tmp_path, whole, capsys, epoch):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, after_epoch=stop_after(epoch))
    assert capsys.readouterr().out == f"Stopped: {tmp_path} {GO_ON}"
    assert epochs_kept(tmp_path) == epoch and sorted(content(tmp_path)) == FILES
    train(tmp_path)
    assert read_run(tmp_path) == whole[0]


def test_interrupted_before_the_first_epoch_is_whole_it_promises_nothing(tmp_path, whole, capsys):
    def interrupted(generator):
        yield next(batches(generator))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, batches=interrupted)
    printed = capsys.readouterr().out
    assert printed == f"Stopped before the first epoch was whole: {tmp_path} {ANEW}"
    assert content(tmp_path) == {".lock": b""}
    train(tmp_path)
    assert read_run(tmp_path) == whole[0]


def test_interrupted_without_a_folder_it_says_nothing(capsys):
    with pytest.raises(KeyboardInterrupt):
        train(after_epoch=stop_after(1))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_released_checkpoint_outlives_a_stopped_training_of_it(tmp_path, number):
    """`python -m helpers train` on a copy of the project, stopped while the bar moves."""
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers")
    (tmp_path / "checkpoints").mkdir()
    for path in (ROOT / "checkpoints").glob("shapes-mlp.*"):
        shutil.copy(path, tmp_path / "checkpoints")
    before = content(tmp_path / "checkpoints")
    command = [sys.executable, "-m", "helpers", "train", "shapes-mlp"]
    child = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."}
    )
    shown = b""
    while b"loss=" not in shown:
        shown += os.read(child.stderr.fileno(), 1000)
    child.send_signal(number)
    said = child.communicate()[1].decode().splitlines()
    if number == signal.SIGINT:
        assert child.returncode == 130
        assert said[-2:] == [
            "shapes-mlp is as it was; training it again begins anew.",
            "Stopped before it was done; what is written is whole.",
        ]
    else:
        assert child.returncode == -number
    assert content(tmp_path / "checkpoints") == before and len(before) == 2


# ---- no number ---------------------------------------------------------------------------------


def spoilt(step, value=float("nan")):
    """Make batches with one pixel of this value in the batch of one step."""
    steps = iter(range(1000))

    def draw(generator):
        for pictures, tokens in batches(generator):
            if next(steps) == step:
                pictures[0, 0, 3, 4] = value
            yield pictures, tokens

    return draw


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_at_its_step_and_keeps_the_last_good_state(
    tmp_path, whole, value
):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, after_epoch=stop_after(2))
    good, model = content(tmp_path), new_model()
    with pytest.raises(FloatingPointError) as caught:
        train(tmp_path, model, batches=spoilt(1, value))
    assert str(caught.value) == (
        "The loss is nan at step 7: lower the learning rate and start again. "
        f"{tmp_path} holds the state after the last whole epoch, from which the same would come "
        "again: delete it, or give another folder."
    )
    assert content(tmp_path) == good
    assert all(weight.isfinite().all() for weight in model.parameters())
    train(tmp_path)
    assert read_run(tmp_path) == whole[0], "with sound batches it goes on"


@pytest.mark.parametrize("step", [0, 1, 4])
def test_the_step_before_a_loss_that_is_no_number_is_the_last_one_taken(step):
    with pytest.raises(FloatingPointError, match=f"^The loss is nan at step {step}: lower the lea"):
        train(model=(model := new_model()), batches=spoilt(step))
    taken = new_model()
    with pytest.raises(KeyboardInterrupt):
        train(model=taken, batches=stopping(step))
    for mine, other in zip(model.parameters(), taken.parameters(), strict=True):
        assert torch.equal(mine, other)


def stopping(step):
    """Make batches that end with an interrupt in place of the batch of one step."""
    steps = iter(range(1000))

    def draw(generator):
        for batch in batches(generator):
            if next(steps) == step:
                raise KeyboardInterrupt
            yield batch

    return draw


def test_a_far_too_high_learning_rate_stops_and_leaves_finite_weights(tmp_path):
    model = new_model()

    def one_batch(generator):
        yield next(batches(generator))

    def explode():
        train(tmp_path, model, batches=one_batch, epochs=20, steps=1, rate=1.0)

    with pytest.raises(FloatingPointError, match=r"^The loss is (nan|inf) at step (\d+): lower"):
        explode()
    kept, good = epochs_kept(tmp_path), content(tmp_path)
    assert kept > 0
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert load_file(tmp_path / "last.safetensors")["model.decoder.0.weight"].isfinite().all()
    model = new_model()
    with pytest.raises(FloatingPointError, match=f"at step {kept}: .*from which the same would"):
        explode()
    assert content(tmp_path) == good
    with pytest.raises(ValueError, match=r"delete the folder .* \(rate was 1.0 and is 0.001\)\.$"):
        train(tmp_path, batches=one_batch, epochs=20, steps=1, rate=1e-3)
    assert content(tmp_path) == good


def test_a_penalty_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, after_epoch=stop_after(1))
    good = content(tmp_path)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(tmp_path, penalty=lambda *given: torch.tensor(float("nan")))
    assert content(tmp_path) == good


def test_a_validation_that_is_no_number_stops_before_it_is_kept(tmp_path):
    pictures, tokens = next(batches(torch.Generator().manual_seed(9)))
    with pytest.raises(FloatingPointError, match=r"^The loss is nan at step 3: lower"):
        train(tmp_path, validation=[(pictures * float("nan"), tokens)])
    assert content(tmp_path) == {".lock": b""}


def test_a_classifier_stops_at_the_step_whose_loss_is_no_number():
    calls = []

    class Spoilt(Proofreader):
        def forward(self, pictures):
            calls.append(len(pictures))
            return super().forward(pictures) * (float("nan") if len(calls) == 4 else 1)

    classifier = Spoilt()
    images = torch.randint(256, (60, 28, 28), dtype=torch.uint8)
    with pytest.raises(FloatingPointError, match=r"^The loss is nan at step 3: lower the learning"):
        train_classifier(classifier, images, torch.arange(60) % 10, epochs=3, batch=10)
    assert calls == [10] * 4
    assert all(weight.isfinite().all() for weight in classifier.parameters())


def test_the_trainings_of_notebook_11_stop_at_the_step_whose_loss_is_no_number():
    weight = torch.nn.Parameter(torch.ones(3))
    factors = iter([1.0, 1.0, float("inf"), 1.0])
    with pytest.raises(FloatingPointError, match=r"^The loss is inf at step 2: lower the learning"):
        fit([weight], lambda: weight.square().sum() * next(factors), steps=4, rate=0.1)
    assert weight.isfinite().all() and next(factors) == 1.0
    head = StyleCVAE().head
    sentences = torch.full((40, 384), float("nan"))
    said = torch.zeros(40, 4, dtype=torch.int64)
    with pytest.raises(FloatingPointError, match=r"^The loss is nan at step 0: lower the learning"):
        train_style_head(head, sentences, torch.arange(40) % 10, said, steps=5)


# ---- no room -----------------------------------------------------------------------------------


def train_with_files_up_to(folder, megabytes, after):
    """Train; from the end of epoch `after` on, no file may be longer than this."""

    def limit(average=None, epoch=0):
        if epoch == after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes * 2**20, megabytes * 2**20))

    limit()
    train(folder, after_epoch=limit)


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize(("megabytes", "name"), [(1, FILES[1]), (8, FILES[3])])
def test_without_room_for_a_file_the_old_state_stays(tmp_path, whole, after, megabytes, name):
    """`best.safetensors` has 4.3 MB, `last.safetensors` 17 MB."""
    if after:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, after_epoch=stop_after(after))
    good = content(tmp_path).get("last.safetensors")
    if after:
        shutil.copytree(tmp_path, copy := tmp_path / "copy")
        child, connection = begin(train_with_files_up_to, copy, megabytes, 0)
    else:
        child, connection = begin(train_with_files_up_to, copy := tmp_path / "new", megabytes, 0)
    assert end(child, connection) == (
        f"OSError: [Errno 27] cannot be written (File too large): free some disk space: "
        f"'{copy / name}'", "",
    )
    assert content(copy).get("last.safetensors") == good and left_behind(copy) == []
    assert epochs_kept(copy) == after
    train(copy)
    assert read_run(copy) == whole[0]


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 30 MB: room for one state and the beginning of a second."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can make a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_the_last_good_state(small_disk, whole):
    folder = small_disk / "run"
    with pytest.raises(OSError, match="No space left") as caught:
        train(folder)
    assert caught.value.strerror == (
        "cannot be written (No space left on device): free some disk space"
    )
    assert caught.value.filename == str(folder / "last.safetensors")
    assert sorted(content(folder)) == FILES and epochs_kept(folder) == 1
    with pytest.raises(OSError, match="No space left"):
        train(folder)
    assert sorted(content(folder)) == FILES and epochs_kept(folder) == 1
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    train(folder)
    assert read_run(folder) == whole[0]


def train_released_without_room(folder):
    """Run the command with a training that takes no time and a disk that takes half a megabyte."""
    release.TRAINERS["tiny"] = lambda after_epoch: (FirstGenerator(), {}, None)
    release.save_checkpoint = functools.partial(save_in, folder, release.save_checkpoint)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))
    with contextlib.redirect_stderr(sys.stdout):
        print(command_line.main(["train", "tiny"]))


def save_in(folder, save, name, *given):
    return save(folder / f"{name}.safetensors", *given)


def test_the_command_line_says_in_one_sentence_that_the_disk_is_full(tmp_path):
    (tmp_path / "tiny.safetensors").write_bytes(b"the old weights")
    child, connection = begin(train_released_without_room, tmp_path)
    code, printed = end(child, connection)
    path = tmp_path / "tiny.safetensors"
    said = f"{path}: cannot be written (File too large): free some disk space.\n"
    assert (code, printed) == (0, f"{said}2\n")
    (tmp_path / ".tiny.lock").unlink(missing_ok=True)
    assert content(tmp_path) == {"tiny.safetensors": b"the old weights"}


@pytest.mark.parametrize("name", ["last.safetensors", "history.csv"])
def test_a_rename_that_fails_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path, monkeypatch, name
):
    _, history = train(tmp_path, epochs=1)
    before = content(tmp_path)

    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("helpers.files.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        if name == "history.csv":
            write_history(tmp_path / name, history * 2)
        else:
            write_safetensors(tmp_path / name, {"a": torch.zeros(3)}, {})
    assert content(tmp_path) == before


# ---- company -----------------------------------------------------------------------------------


def train_at_leave(folder, connection):
    """Train; after each epoch say so and wait."""

    def wait(average, epoch):
        connection.send(epoch)
        connection.recv()

    train(folder, after_epoch=wait)


def test_a_second_training_in_the_folder_is_refused_and_the_first_is_unharmed(tmp_path, whole):
    here, there = processes.Pipe()
    child, connection = begin(train_at_leave, tmp_path, there)
    for epoch in range(1, 5):
        assert here.recv() == epoch
        before = content(tmp_path)
        with pytest.raises(ValueError) as caught:
            train(tmp_path)
        assert str(caught.value) == (
            f"Another training is using {tmp_path}: wait for it to end, or give this one a folder "
            "of its own."
        )
        assert content(tmp_path) == before
        here.send("go on")
    assert end(child, connection) == (0, "")
    assert read_run(tmp_path) == whole[0]


def test_a_training_inside_another_is_refused_as_well(tmp_path, whole):
    def again(average, epoch):
        with pytest.raises(ValueError, match=r"^Another training is using"):
            train(tmp_path)

    train(tmp_path, after_epoch=again)
    assert read_run(tmp_path) == whole[0]


def test_a_folder_is_free_again_when_its_training_is_killed(tmp_path, whole):
    here, there = processes.Pipe()
    child, connection = begin(train_at_leave, tmp_path, there)
    assert here.recv() == 1
    assert end(child, connection, signal.SIGKILL)[0] == -signal.SIGKILL
    train(tmp_path)
    assert read_run(tmp_path) == whole[0]


# ---- folders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_is_no_folder(tmp_path, below):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(OSError, match=r"cannot be written .*: choose a folder you may write to"):
        train(tmp_path / "notes" / below)
    assert content(tmp_path) == {"notes": b"mine"}


def train_as_nobody(folder):
    if not os.geteuid():
        os.setgid(65534)
        os.setuid(65534)
    train(folder)


@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_that_cannot_be_written_is_refused_at_once(whole, begun):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        if begun:
            with pytest.raises(KeyboardInterrupt):
                train(folder, after_epoch=stop_after(1))
            (folder / ".lock").chmod(0o444)
        else:
            folder.mkdir()
        before = content(folder)
        folder.chmod(0o555)
        Path(place).chmod(0o755)
        try:
            child, connection = begin(train_as_nobody, folder)
            code, _ = end(child, connection)
        finally:
            folder.chmod(0o755)
        assert code == (
            "PermissionError: [Errno 13] cannot be written (Permission denied): choose a folder "
            f"you may write to: '{folder}'"
        )
        assert content(folder) == before
        (folder / ".lock").unlink(missing_ok=True)
        train(folder)
        assert read_run(folder) == whole[0]


# ---- damaged files -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The folder of a training that was stopped after epoch 2."""
    folder = tmp_path_factory.mktemp("half") / "run"
    with pytest.raises(KeyboardInterrupt):
        train(folder, after_epoch=stop_after(2))
    return folder


@pytest.fixture
def folder(half, tmp_path):
    return shutil.copytree(half, tmp_path / "run")


class Trap:
    """An object that leaves a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path(tempfile.gettempdir()) / "unpickled",)


def flipped(packed, place):
    return packed[:place] + bytes([packed[place] ^ 1]) + packed[place + 1 :]


def torch_pickle(packed):
    torch.save({"model": Trap()}, buffer := io.BytesIO())
    return buffer.getvalue()


def other_text(packed):
    """Make the last beta of the history another number, of the same length."""
    before, beta, after = packed.rpartition(b'\\"beta\\": 2.0')
    return before + beta.replace(b"2", b"3") + after


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: b"",
        lambda packed: packed[:5],
        lambda packed: packed[:900],
        lambda packed: packed[:-100],
        lambda packed: packed + b"more",
        lambda packed: flipped(packed, 2),
        lambda packed: flipped(packed, 40),
        lambda packed: flipped(packed, len(packed) // 2),
        lambda packed: flipped(packed, len(packed) - 1),
        other_text,
        lambda packed: pickle.dumps(Trap()),
        torch_pickle,
    ],
    ids=["empty", "five bytes", "header cut", "end cut", "longer", "length flipped",
         "header flipped", "weights flipped", "last byte flipped", "history changed", "pickle",
         "torch pickle"],
)
def test_a_damaged_state_is_refused_and_nothing_is_restored(folder, monkeypatch, tmp_path, damage):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    last = folder / "last.safetensors"
    last.write_bytes(damage(last.read_bytes()))
    before, model = content(folder), new_model()
    with pytest.raises(ValueError) as caught:
        train(folder, model)
    message = str(caught.value)
    assert message.startswith(f"{last} does not fit this training: delete the folder to start anew")
    assert message.endswith(").") and "\n" not in message
    assert content(folder) == before
    for mine, fresh in zip(model.parameters(), new_model().parameters(), strict=True):
        assert torch.equal(mine, fresh)
    assert not (tmp_path / "unpickled").exists()


def test_weights_alone_are_no_state(folder):
    shutil.copy(folder / "best.safetensors", folder / "last.safetensors")
    before = content(folder)
    with pytest.raises(ValueError, match=r"does not fit this training: .* \(it is damaged\)\.$"):
        train(folder)
    assert content(folder) == before


def test_the_traps_would_have_sprung(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pickle.loads(pickle.dumps(Trap()))
    assert (tmp_path / "unpickled").exists()
    (tmp_path / "unpickled").unlink()
    torch.load(io.BytesIO(torch_pickle(b"")), weights_only=False)
    assert (tmp_path / "unpickled").exists()


OTHER = {
    "epochs was 4 and is 5": {"epochs": 5},
    "epochs was 4 and is 2": {"epochs": 2, "steps": 6},
    "steps was 3 and is 2": {"steps": 2},
    "beta was 2.0 and is 3.0": {"beta": 3.0},
    "share was 0.2 and is 0.5": {"share": 0.5},
    "rate was 0.002 and is 0.001": {"rate": 1e-3},
    "seed was 0 and is 1": {"seed": 1},
    "validation was 0 and is 1": {"validation": list(batches(torch.Generator()))[:1]},
    "the model was another": {"model": ShapesCVAE(latent=5)},
}


@pytest.mark.parametrize("reason", OTHER)
def test_a_state_of_another_training_is_refused(folder, reason):
    before = content(folder)
    with pytest.raises(ValueError) as caught:
        train(folder, **OTHER[reason])
    assert str(caught.value) == (
        f"{folder / 'last.safetensors'} does not fit this training: delete the folder to start "
        f"anew, or give another ({reason})."
    )
    assert content(folder) == before


@pytest.mark.parametrize("name", ["history.csv", "best.safetensors"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"\0,\n1")])
def test_what_can_be_told_from_the_state_is_written_anew(folder, whole, name, damage):
    damage(folder / name)
    train(folder)
    assert read_run(folder) == whole[0]


def test_the_history_of_a_training_that_is_done_is_written_anew(tmp_path, whole):
    train(tmp_path)
    before = content(tmp_path)
    (tmp_path / "history.csv").unlink()
    train(tmp_path)
    assert content(tmp_path) == before


def test_an_empty_folder_resumes_nothing(tmp_path):
    assert resume_run(tmp_path, {}, None, None, None, None, None) == []


@pytest.mark.parametrize("steps", [1, 2, 4, 12])
def test_another_number_of_batches_than_steps_is_refused_before_it_is_kept(tmp_path, steps):
    with pytest.raises(ValueError, match=f"^3 batches are no epoch of {steps}: `steps` must be"):
        train(tmp_path, steps=steps)
    assert content(tmp_path) == {".lock": b""}


def test_an_epoch_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"^0 batches are no epoch of 3: `steps` must be their"):
        train(batches=lambda generator: [])
