"""Execute notebooks in place, top to bottom in a fresh kernel, and keep outputs fit to commit.

    python notebooks/book/refresh.py [notebooks/01_drawing_shapes.ipynb …]     (all without names)

Progress bars mean nothing once they are done and widgets nothing without a kernel: the former are
left out of the outputs, a line of text stands in for the latter. Execution times and versions of
the machine are left out too. What was printed before is compared with what is printed now: each
number that moved is named, so that prose which quotes it can follow; times always move and are
only counted.
"""

import os
import re
import sys
import time
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
STAND_IN = "A widget: run this cell in Jupyter to use it."
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
TIME = re.compile(r"\s?(?:s|ms|µs|seconds?|minutes?)\b")


def all_notebooks():
    """List the numbered notebooks, then the solutions, each in order."""
    return sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) + sorted(NOTEBOOKS.glob("solutions/*.ipynb"))


def refresh(path):
    """Execute one notebook, write it back and return it; a failing notebook is left as it was."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=900,
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,
        store_widget_state=False,
    ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
            for output in cell.outputs:
                if WIDGET in output.get("data", {}):
                    output.data = nbformat.from_dict({"text/plain": STAND_IN})
    beside = path.with_suffix(f".{os.getpid()}")
    nbformat.write(notebook, beside)
    os.replace(beside, path)
    return notebook


def printed(notebook):
    """Map the id of each code cell that was run to the lines of text that it shows."""
    shown = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.execution_count:
            texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
            pictures = any("image/png" in o.get("data", {}) for o in cell.outputs)
            shown[cell.id] = [] if pictures else "\n".join(texts).splitlines()
    return shown


def moved(before, after):
    """Compare two versions of a notebook: lines about what moved, and how many times did.

    A cell is known by its id. Numbers are compared where the words around them stayed the same;
    any other change of a line is shown whole.
    """
    report, times = [], 0
    old, new = printed(before), printed(after)
    for cell in [cell for cell in new if cell in old]:
        for was, now in zip_longest(old[cell], new[cell], fillvalue=""):
            if was == now:
                continue
            if NUMBER.sub("#", was).split() != NUMBER.sub("#", now).split():
                report.append(f"{cell}: {was.strip()!r} is now {now.strip()!r}")
                continue
            for a, b in zip(NUMBER.finditer(was), NUMBER.finditer(now), strict=True):
                if a[0] == b[0]:
                    continue
                if TIME.match(now, b.end()):
                    times += 1
                else:
                    report.append(f"{cell}: {a[0]} is now {b[0]} in {now.strip()!r}")
    return report, times


def _is_passing(output):
    """Say whether an output is a progress bar: a widget that no cell ends in."""
    return output.output_type == "display_data" and WIDGET in output.data


if __name__ == "__main__":
    for notebook_path in [Path(name).resolve() for name in sys.argv[1:]] or all_notebooks():
        start = time.perf_counter()
        as_it_was = nbformat.read(notebook_path, as_version=4)
        lines, timings = moved(as_it_was, refresh(notebook_path))
        seconds = time.perf_counter() - start
        print(f"{notebook_path.name}: {seconds:.0f} s, {len(lines)} moved, {timings} times differ")
        print("".join(f"  {line}\n" for line in lines), end="", flush=True)
