"""Execute notebooks in place, top to bottom in a fresh kernel, and keep outputs fit to commit.

    python notebooks/book/refresh.py [notebooks/01_drawing_shapes.ipynb …]     (all without names)

They run in the Python that runs this, whatever kernel they name, and are written as JupyterLab
saves them. Progress bars mean nothing once they are done and widgets nothing without a kernel: the
former are left out, the picture beside the latter stands in for it, or a line of text. Execution
times and what other editors note about a cell are left out too. What was printed before is compared
with what is printed now: each number that moved is named, so that prose which quotes it can follow;
times always move and are only counted.
"""

import re
import sys
import time
from itertools import zip_longest
from pathlib import Path

import nbformat
from ipykernel.kernelspec import KERNEL_NAME, get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

from helpers import write_whole

NOTEBOOKS = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
KEPT = {"deletable", "editable", "tags"}  # what a cell's metadata may hold
STAND_IN = "A widget: run this cell in Jupyter to use it."
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
TIME = re.compile(r"\s?(?:s|ms|µs|seconds?|minutes?)\b")


def all_notebooks():
    """List the numbered notebooks, then the solutions, each in order."""
    return sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) + sorted(NOTEBOOKS.glob("solutions/*.ipynb"))


class ThisPython(AsyncKernelManager):
    """Starts the Python that runs this, whatever kernels are installed."""

    kernel_spec = KernelSpec(**get_kernel_dict())


def refresh(path):
    """Execute one notebook, write it back and return it; a failing notebook is left as it was."""
    notebook = nbformat.v4.upgrade(nbformat.read(path, as_version=4))  # gives old cells an id
    NotebookClient(
        notebook,
        timeout=900,
        kernel_manager_class=ThisPython,
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,
        store_widget_state=False,
    ).execute()
    spec = {key: get_kernel_dict()[key] for key in ("display_name", "language")}
    notebook.metadata = {
        "kernelspec": spec | {"name": KERNEL_NAME},
        "language_info": notebook.metadata.language_info,
    }
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in KEPT & cell.metadata.keys()}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
            for output in cell.outputs:
                if output.get("data", {}).pop(WIDGET, None) and "image/png" not in output.data:
                    output.data = nbformat.from_dict({"text/plain": STAND_IN})
    write_whole(path, f"{nbformat.writes(notebook)}\n".encode())
    return notebook


def printed(notebook):
    """Map the id of each code cell that was run to the lines of text that it shows."""
    shown = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.execution_count:
            texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
            pictures = any("image/png" in o.get("data", {}) for o in cell.outputs)
            shown[cell.get("id")] = [] if pictures else "\n".join(texts).splitlines()
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
    """Say whether an output is a progress bar: a widget that no cell ends in, with no picture."""
    data = output.get("data", {})
    return output.output_type == "display_data" and WIDGET in data and "image/png" not in data


if __name__ == "__main__":
    for notebook_path in [Path(name).resolve() for name in sys.argv[1:]] or all_notebooks():
        start = time.perf_counter()
        try:
            as_it_was = nbformat.read(notebook_path, as_version=4)
            lines, timings = moved(as_it_was, refresh(notebook_path))
        except (OSError, nbformat.reader.NotJSONError) as error:
            sys.exit(f"{notebook_path}: {getattr(error, 'strerror', None) or error}")
        seconds = time.perf_counter() - start
        print(f"{notebook_path.name}: {seconds:.0f} s, {len(lines)} moved, {timings} times differ")
        print("".join(f"  {line}\n" for line in lines), end="", flush=True)
