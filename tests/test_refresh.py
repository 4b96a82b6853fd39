"""`make refresh`: a notebook is run again, and what it prints otherwise than before is named."""

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook, new_output
from refresh import STAND_IN, all_notebooks, moved, refresh


def notebook(*sources, printed=()):
    cells = [new_code_cell(source, id=f"cell-{k}") for k, source in enumerate(sources)]
    for cell, text in zip(cells, printed, strict=False):
        cell.execution_count = 1
        cell.outputs = [new_output("stream", name="stdout", text=text)]
    return new_notebook(cells=cells)


def compare(before, after):
    return moved(notebook("x", printed=[before]), notebook("x", printed=[after]))


def test_what_stays_the_same_is_not_named():
    assert compare("97.1% of 10,000\n", "97.1% of 10,000\n") == ([], 0)
    assert compare("a   0.5\n", "a 0.5\n") == ([], 0)  # only the column is wider


def test_a_number_that_moved_is_named_with_its_line():
    for before, after in (("97.1", "96.4"), ("-1e-3", "-2e-3"), ("1,200", "12,000"), ("3", "-3")):
        named = f"cell-0: {before} is now {after} in '{after}% of all'"
        assert compare(f"{before}% of all\n", f"{after}% of all\n") == ([named], 0)


def test_times_are_only_counted():
    assert compare("trained in 12.5 s, loss 0.5", "trained in 14.0 s, loss 0.5") == ([], 1)
    assert compare("trained in 12 minutes", "trained in 14 minutes") == ([], 1)
    assert compare("12 shapes", "14 shapes")[1] == 0


def test_other_words_and_lines_are_shown():
    assert compare("a seven", "a nine")[0] == ["cell-0: 'a seven' is now 'a nine'"]
    assert compare("one", "one\ntwo")[0] == ["cell-0: '' is now 'two'"]


def test_a_real_run_keeps_no_trace_of_the_machine(tmp_path):
    path = tmp_path / "a.ipynb"
    before = notebook(
        "print(6 * 7, 'is the answer')",
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass",
        "import ipywidgets\nipywidgets.IntSlider()",
        printed=["41 is the answer\n"],  # the others were never run
    )
    nbformat.write(before, path)
    after = refresh(path)
    assert moved(before, after) == (["cell-0: 41 is now 42 in '42 is the answer'"], 0)
    assert after.cells[2].outputs[0].data["text/plain"] == STAND_IN
    kept = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in kept.cells] == [1, 2, 3]
    assert not kept.cells[1].outputs and "widgets" not in kept.metadata
    assert not any("execution" in cell.metadata for cell in kept.cells)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ipynb"]


def test_a_failing_notebook_is_left_as_it_was(tmp_path):
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook("1 / 0"), path)
    bytes_before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        refresh(path)
    assert path.read_bytes() == bytes_before


def test_all_notebooks_in_order():
    names = [path.name for path in all_notebooks()]
    assert names[0].startswith("01_") and names[11].startswith("12_")
    assert names[12:] == [f"{k:02d}_solutions.ipynb" for k in range(1, 13)]
