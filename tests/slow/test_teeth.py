"""Teeth: a broken helper or recipe turns the suite red.

`planted_bugs.toml` lists them. Each is planted alone, in one line of a copy of the project, and the
test that it names runs there in a process of its own. The same tests pass on a copy that is whole.
"""

import contextlib
import io
import os
import shutil
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUGS = tomllib.loads((ROOT / "tests" / "planted_bugs.toml").read_text(encoding="utf-8"))["bug"]
LINKED = ("data", "checkpoints")  # large and never broken, but for the recipes in it
HEAVY = ["torch", "pytest", "hypothesis", "anywidget", "matplotlib.pyplot", "skimage.morphology"]


def copy_tree(folder):
    """Lay out a project: helpers, recipes and tests as copies, large files as links."""
    for name in ("helpers", "tests", "checkpoints/recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=lambda *_: ["__pycache__"])
    for name in LINKED:
        (folder / name).mkdir(exist_ok=True)
        for path in (ROOT / name).iterdir():
            if path.name not in ("recipes", "runs"):
                (folder / name / path.name).symlink_to(path)
    shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")


def run(folder, tests):
    """Run tests there, in this process; return the exit status and what was printed."""
    os.chdir(folder)
    sys.dont_write_bytecode = True
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-o",
                              "addopts=", "--rootdir", str(folder), *tests])
    import helpers  # noqa: PLC0415  (those of the copy, whatever is installed)

    assert Path(helpers.__file__).parents[1] == folder, helpers.__file__
    return int(status), printed.getvalue()


@pytest.fixture(scope="module")
def pool():
    """Processes that each serve one run and start with the slow imports done."""
    context = get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as executor:
        yield executor


def test_a_whole_copy_passes(tmp_path, pool):
    copy_tree(tmp_path)
    tests = sorted({bug["test"] for bug in BUGS})
    status, printed = pool.submit(run, tmp_path, tests).result()
    assert status == 0, printed


def test_there_are_enough():
    assert len(BUGS) >= 40 and len({bug["what"] for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug["what"])
def test_red(tmp_path, pool, bug):
    copy_tree(tmp_path)
    path = tmp_path / bug["file"]
    source = path.read_text(encoding="utf-8")
    assert source.count(bug["find"]) == 1, f"{bug['file']} has changed: break it in another way"
    path.write_text(source.replace(bug["find"], bug["replace"]), encoding="utf-8")
    status, printed = pool.submit(run, tmp_path, [bug["test"]]).result()
    assert status == 1 and "failed" in printed, printed
