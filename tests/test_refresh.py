"""`make refresh`: a notebook is run again, and what it prints otherwise than before is named."""

import errno
import platform
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook, new_output
from refresh import STAND_IN, WIDGET, all_notebooks, moved, refresh


def notebook(*sources, printed=()):
    cells = [new_code_cell(source, id=f"cell-{k}") for k, source in enumerate(sources)]
    for cell, text in zip(cells, printed, strict=False):
        cell.execution_count = 1
        cell.outputs = [new_output("stream", name="stdout", text=text)]
    return new_notebook(cells=cells)


def compare(before, after):
    return moved(notebook("x", printed=[before]), notebook("x", printed=[after]))


def test_what_moved_is_named_with_its_line_and_times_are_counted():
    assert compare("97.1% of 10,000\n", "97.1% of 10,000\n") == ([], 0)
    assert compare("a   0.5\n", "a 0.5\n") == ([], 0)  # only the column is wider
    for before, after in (("97.1", "96.4"), ("-1e-3", "-2e-3"), ("1,200", "12,000"), ("3", "-3")):
        named = f"cell-0: {before} is now {after} in '{after}% of all'"
        assert compare(f"{before}% of all\n", f"{after}% of all\n") == ([named], 0)
    assert compare("trained in 12.5 s, loss 0.5", "trained in 14.0 s, loss 0.5") == ([], 1)
    assert compare("trained in 12 minutes", "trained in 14 minutes") == ([], 1)
    assert compare("12 shapes", "14 shapes")[1] == 0
    assert compare("a seven", "a nine")[0] == ["cell-0: 'a seven' is now 'a nine'"]
    assert compare("one", "one\ntwo")[0] == ["cell-0: '' is now 'two'"]


def test_a_real_run_keeps_nothing_foreign(tmp_path):
    path = tmp_path / "a.ipynb"
    before = notebook(
        "print(6 * 7, 'is the answer')",
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass",
        "import ipywidgets\nipywidgets.IntSlider()",
        f"display({{'image/png': 'aaaa', 'text/plain': 'a form', {WIDGET!r}: {{}}}}, raw=True)",
        "import sys\nprint(sys.executable)",
        printed=["41 is the answer\n"],  # the others were never run
    )
    before.metadata = {"kernelspec": {"name": "conda-env-a-py", "display_name": "a"}, "colab": {}}
    before.cells[0].metadata = {"tags": ["a"], "colab": {}, "ExecuteTime": {}, "vscode": {}}
    nbformat.write(before, path)
    after = refresh(path)
    assert moved(before, after)[0][0] == "cell-0: 41 is now 42 in '42 is the answer'"
    assert after.cells[2].outputs[0].data["text/plain"] == STAND_IN
    assert after.cells[3].outputs[0].data == {"image/png": "aaaa", "text/plain": "a form"}
    assert after.cells[4].outputs[0].text == f"{sys.executable}\n", "another Python"
    kept = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in kept.cells] == [1, 2, 3, 4, 5]
    assert not kept.cells[1].outputs and list(tmp_path.iterdir()) == [path]
    assert [cell.metadata for cell in kept.cells] == [{"tags": ["a"]}, {}, {}, {}, {}]
    for path in all_notebooks():  # which JupyterLab saves to the byte as they are
        committed = nbformat.read(path, as_version=4)
        assert path.read_text(encoding="utf-8") == f"{nbformat.writes(committed)}\n"
        assert all(cell.metadata.keys() <= {"tags"} for cell in committed.cells)
        committed.metadata.language_info.version = platform.python_version()
        assert committed.metadata == kept.metadata


def test_a_notebook_that_fails_or_finds_the_disk_full_is_left_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook("1 / 0"), path)
    bytes_before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        refresh(path)
    assert path.read_bytes() == bytes_before

    old = notebook("pass")
    old.nbformat_minor = 2  # as an editor other than JupyterLab writes it
    del old.cells[0]["id"]
    nbformat.write(old, path)
    bytes_before, whole = path.read_bytes(), Path.write_bytes

    def half(file, content):
        whole(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="free some disk space"):
        patch.setattr(Path, "write_bytes", half)
        refresh(path)
    assert path.read_bytes() == bytes_before and list(tmp_path.iterdir()) == [path]
    assert refresh(path).nbformat_minor == 5


def test_all_notebooks_in_order():
    names = [path.name for path in all_notebooks()]
    assert names[0].startswith("01_") and names[12].startswith("13_")
    assert names[13:] == [f"{k:02d}_solutions.ipynb" for k in range(1, 14)]
