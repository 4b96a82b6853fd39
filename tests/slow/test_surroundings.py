"""Drawing where nothing is as it should be, in processes of their own; and a kernel restarted.

Every process draws from a copy of the repository whose path has spaces, quotes and umlauts in it,
and a hook writes down what it opens for writing and whom it wants to connect to.
"""

import functools
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.util import run_sync
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "10_interactive_sampling.ipynb"
SENTENCE_MODELS = ("mnist-cvae", "mnist-style", "mnist-flow")
FILES = ["data/phrases.toml", "checkpoints/readers/captions.txt", *(
    f"checkpoints/{name}.{kind}"
    for name in ("shapes-cvae", *SENTENCE_MODELS, "readers/familiarity")
    for kind in ("safetensors", "json")
)]
WATCH = """
import os, sys
diary = os.open(os.environ["DIARY"], os.O_WRONLY | os.O_APPEND)
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
WAYS_OUT = ("connect", "getaddrinfo", "gethostbyname", "sendto", "sendmsg", "bind")
def watch(event, what):
    if event in CHANGES or event == "open" and what[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if what[0] != os.devnull and not isinstance(what[0], int):
            os.write(diary, f"wrote {os.path.abspath(os.fsdecode(what[0]))}\\n".encode(
                "utf-8", "surrogateescape"))
    elif event.startswith("socket.") and event.split(".")[1] in WAYS_OUT:
        os.write(diary, f"asked {event}\\n".encode())
sys.addaudithook(watch)
"""


@functools.cache
def without_network():
    """Prefix of a command that takes its network away, as far as this machine lets us."""
    for prefix in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which("unshare") and not subprocess.call([*prefix, "true"]):
            return prefix
    return []


def without_rights():
    """Prefix of a command that makes read-only folders read-only for root, too."""
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and there is no setpriv to keep it from that")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def is_scratch(path):
    """Say whether a path is Python's bytecode, or torch's own in a folder for temporary files."""
    return "__pycache__" in path.parts or path.parent.name == "tmp"


def contents(folder):
    """Map what lies in a folder to its bytes; a bytecode cache is Python's own business."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*") if "__pycache__" not in path.parts
    }


class Place:
    """A copy of the repository, a home and a folder to work in, all with nothing else in them."""

    def __init__(self, base):
        self.clone, self.home, self.here = (
            base / f"{name} \"it's\" größer" for name in ("clone", "home", "here")
        )
        self.hook, self.diary, self.scratch = base / "hook", base / "diary", base / "tmp"
        for folder in (self.home, self.here, self.hook, self.scratch):
            folder.mkdir()
        (self.hook / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "helpers", self.clone / "helpers", ignore=ignored)
        for name in FILES:
            (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, self.clone / name)
        self.before = contents(self.clone)

    def run(self, *arguments, prefix=(), environment=None, cwd=None, stdout=subprocess.PIPE):
        """Run Python there; return the process, the paths it wrote to and its ways out."""
        self.diary.write_text("")
        clean = {
            name: value for name, value in os.environ.items()
            if name not in ("PYTHONDONTWRITEBYTECODE", "COLUMNS", "HF_HOME", "TORCH_HOME")
            and not name.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONIOENCODING", "XDG_"))
        }
        clean |= {
            "HOME": str(self.home), "DIARY": str(self.diary), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(self.hook), str(self.clone)]), "LANG": "C.UTF-8",
            "TMPDIR": str(self.scratch),
        } | (environment or {})
        done = subprocess.run(
            [*prefix, sys.executable, *arguments], cwd=cwd or self.here, stdout=stdout,
            stderr=subprocess.PIPE, check=False, timeout=300,
            env={name: value for name, value in clean.items() if value is not None},
        )
        notes = [line.split(" ", 1) for line in self.diary.read_text("utf-8").splitlines()]
        wrote = {Path(what) for kind, what in notes if kind == "wrote"}
        asked = [what for kind, what in notes if kind == "asked"]
        assert contents(self.clone) == self.before and not contents(self.home)
        return done, {path for path in wrote if not is_scratch(path)}, asked

    def draw(self, *arguments, out="out", **more):
        """Draw a circle into a folder; give the process and the bytes of the one new file."""
        command = ["-m", "helpers", "draw", "circle", "--checkpoint", "shapes-cvae"]
        done, wrote, asked = self.run(*command, "--out", str(out), *arguments, **more)
        folder = self.here / out
        top = folder if Path(out).is_absolute() else self.here / Path(out).parts[0]
        assert done.returncode == 0, done.stderr.decode()
        assert not asked and all(path.is_relative_to(top) for path in wrote), wrote
        assert set(self.here.iterdir()) <= {top}
        (path,) = (path for path in top.rglob("*") if path.is_file())
        content = path.read_bytes()
        assert path.parent == folder
        shutil.rmtree(top)
        return done, content


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("surroundings"))


@pytest.fixture(scope="module")
def usual(place):
    """The file that is drawn when all is well."""
    done, content = place.draw()
    assert b"circle_seed0_1.png" in done.stdout and done.stderr == b""
    return content


@pytest.fixture
def read_only(place):
    """The copy with no right to write anywhere in it."""
    folders = [place.clone, *(path for path in place.clone.rglob("*"))]
    for path in folders:
        path.chmod(path.stat().st_mode & ~0o222)
    yield place
    for path in folders:
        path.chmod(path.stat().st_mode | 0o200)


# ---- the command line --------------------------------------------------------------------------

SURROUNDINGS = {
    "no HOME": {"HOME": None},
    "a HOME that does not exist": {"HOME": "/nonexistent/home"},
    "no folder for temporary files": {"TMPDIR": "/nonexistent/tmp"},
    "LANG=C": {"LANG": "C", "PYTHONUTF8": "0"},
    "a terminal of ASCII": {"PYTHONIOENCODING": "ascii"},
    "a terminal of Latin-1": {"PYTHONIOENCODING": "latin-1", "LANG": "C"},
}


CLOSED = (">&-", "2>&-", "<&- >&- 2>&-")


def test_draws_the_same_wherever_it_is(place, usual, tmp_path):
    for name, environment in SURROUNDINGS.items():
        done, content = place.draw("--no-preview", out="größe 素", environment=environment)
        assert content == usual and done.stderr == b"" and done.stdout.count(b"\n") == 1, name
        assert b"circle_seed0_1.png" in done.stdout, name
    for closed in CLOSED:
        done, content = place.draw(prefix=["sh", "-c", f'exec "$@" {closed}', "sh"])
        assert content == usual and done.stderr == b"", closed
        assert (done.stdout == b"") == (">&-" in closed.split()), closed
    for out in ("a b/ü/'c'", tmp_path / "elsewhere"):
        assert place.draw(out=out)[1] == usual, out


def test_a_clone_that_cannot_be_written(read_only, usual):
    """From another folder it draws; inside, it says that it cannot, and leaves all as it was."""
    environment = {"HOME": str(read_only.clone)}
    rights = without_rights()
    done, content = read_only.draw(prefix=rights, environment=environment)
    assert content == usual and done.stderr == b""
    touch = f"open({str(read_only.clone / 'helpers' / 'new')!r}, 'w')"
    assert b"PermissionError" in read_only.run("-c", touch, prefix=rights)[0].stderr
    for out, named in ((["--out", "x"], "x"), (["--out", "a/b"], "a/b"), ([], "outputs")):
        done, wrote, asked = read_only.run(
            "-m", "helpers", "draw", "circle", "--checkpoint", "shapes-cvae", *out,
            prefix=rights, environment=environment, cwd=read_only.clone,
        )
        assert done.returncode == 2 and done.stdout == b"" and not asked
        tried = {path.relative_to(read_only.clone).parts[0] for path in wrote}
        assert tried <= {*Path(named).parts}
        assert not (read_only.clone / named).exists()
        reason = "cannot be written (Permission denied): choose a folder that you may write to"
        assert done.stderr.decode() == f"{named}: {reason}.\n"


# ---- sentences, with everything missing at once ------------------------------------------------

SENTENCES = """
import sys, helpers
from helpers import TextToImage
from helpers.generator import save_picture
print(helpers.__file__.startswith(sys.argv[1]))
for name in sys.argv[3:]:
    model = TextToImage.load(name, device="cpu")
    pictures = model.draw("Can you show me what five looks like?", 2)
    assert pictures.shape == (2, 1, 28, 28) and pictures.mean() > 0.02
    assert not model.doubt("Can you show me what five looks like?")
    for k, picture in enumerate(pictures, start=1):
        save_picture(picture, sys.argv[2], {"prompt": name, "seed": 0}, k)
print("drawn")
"""


def test_sentences_are_read_without_network_home_or_rights(read_only):
    done, wrote, asked = read_only.run(
        "-W", "error::ResourceWarning", "-c", SENTENCES, str(read_only.clone), "out",
        *SENTENCE_MODELS, prefix=[*without_network(), *without_rights()],
        environment={"HOME": "/nonexistent/home", "TMPDIR": "/nonexistent/tmp", "LANG": "C"},
    )
    assert done.stdout == b"True\ndrawn\n", done.stderr.decode()
    assert done.stderr == b"" and not asked
    assert all(path.is_relative_to(read_only.here / "out") for path in wrote), wrote
    paths = sorted((read_only.here / "out").iterdir())
    prompts = [Image.open(path).text["prompt"] for path in paths]
    assert sorted(prompts) == sorted(2 * SENTENCE_MODELS)
    shutil.rmtree(read_only.here / "out")
    assert not contents(read_only.here)


def test_the_hook_sees_what_is_written_and_who_is_asked(place):
    code = """import os, socket
os.mkdir('here')
try: socket.create_connection(('127.0.0.1', 9), 1)
except OSError: pass"""
    done, wrote, asked = place.run("-c", code, prefix=without_network())
    assert done.returncode == 0 and wrote == {place.here / "here"}
    assert asked == ["socket.getaddrinfo", "socket.connect"]
    (place.here / "here").rmdir()


@pytest.fixture(scope="module")
def kernel():
    """A client of a fresh kernel for 10_interactive_sampling."""
    client = NotebookClient(
        nbformat.read(NOTEBOOK, as_version=4), timeout=600, allow_errors=True,
        resources={"metadata": {"path": str(NOTEBOOK.parent)}}, coalesce_streams=True,
        store_widget_state=False,
    )
    client.stored = {k: shown(client.nb.cells[k]) for k in code_cells(client)}
    with client.setup_kernel():
        yield client


def code_cells(kernel):
    return [k for k, cell in enumerate(kernel.nb.cells) if cell.cell_type == "code"]


def shown(cell):
    """List what a cell shows as text, and its error."""
    return [
        output.get("text") or output.get("data", {}).get("text/plain") or output.get("evalue")
        for output in cell.outputs
    ]


def run_cells(kernel, order):
    """Run cells in an order; return what the marked ones show. No cell may fail."""
    found = {}
    for k in order:
        cell = kernel.execute_cell(kernel.nb.cells[k], k)
        for output in cell.outputs:
            where = f"{cell.source}\n{output.get('evalue')}"
            assert output.output_type != "error", where
        if "nbval-check-output" in cell.metadata.get("tags", []):
            found[k] = shown(cell)
    return found


def files():
    """Map what a notebook could harm to sizes and times."""
    folders = [ROOT / "notebooks", ROOT / "checkpoints", ROOT / "data"]
    others = {"runs", "measured", "__pycache__"}  # where other tests may write meanwhile
    found = [path for folder in folders for path in folder.rglob("*")
             if path.is_file() and not others & set(path.parts)]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def test_a_kernel_restarted_half_way(kernel):
    """From the top all is as it was; a cell from the middle misses a name and does no harm."""
    before, cells = files(), code_cells(kernel)
    half = len(cells) // 2
    first = run_cells(kernel, cells[:half])
    run_sync(kernel.km.restart_kernel)(now=True)
    kernel.kc.stop_channels()
    kernel.start_new_kernel_client()
    tried = (kernel.execute_cell(kernel.nb.cells[k], k) for k in cells[half:])
    alone = next(c for c in tried if any(o.output_type == "error" for o in c.outputs))
    (error,) = (output for output in alone.outputs if output.output_type == "error")
    assert error.ename == "NameError" and error.evalue.endswith("is not defined")
    again = run_cells(kernel, cells)
    assert first and first.items() <= again.items()
    assert again == {k: kernel.stored[k] for k in again} and len(again) > len(first)
    assert files() == before


def wired(order, kernel):
    """Let the cells around the small form keep their order: a new button needs its wire again."""
    form = [k for k in order if re.search(r"\bbutton\b", kernel.nb.cells[k].source)]
    ordered = iter(sorted(form))
    return [next(ordered) if k in form else k for k in order]


def test_cells_run_again_in_any_order(kernel):
    """A kernel in which every cell has run once can run them again, whichever comes first."""
    cells = code_cells(kernel)
    shuffled = wired(random.Random(0).sample(cells, len(cells)), kernel)
    for order in (cells, cells[::-1], shuffled):
        found = run_cells(kernel, order)
        assert found == {k: kernel.stored[k] for k in found} and len(found) >= 3
