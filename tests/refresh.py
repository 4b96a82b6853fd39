"""Execute notebooks in place, top to bottom in a fresh kernel, and keep outputs fit to commit.

    python tests/refresh.py [notebooks/01_drawing_shapes.ipynb …]     (all of them without names)

Progress bars mean nothing once they are done and widgets nothing without a kernel: the former are
left out of the outputs, a line of text stands in for the latter. Execution times and versions of
the machine are left out too.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
STAND_IN = "A widget: run this cell in Jupyter to use it."


def all_notebooks():
    """List the numbered notebooks, then the solutions, each in order."""
    return sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) + sorted(NOTEBOOKS.glob("solutions/*.ipynb"))


def refresh(path):
    """Execute one notebook and write it back; a failing notebook is left as it was."""
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


def _is_passing(output):
    """Say whether an output is a progress bar: a widget on its own, or text with returns."""
    if output.output_type == "stream":
        return output.name == "stderr" and "\r" in output.text
    return output.output_type == "display_data" and WIDGET in output.data


if __name__ == "__main__":
    for notebook_path in [Path(name).resolve() for name in sys.argv[1:]] or all_notebooks():
        start = time.perf_counter()
        refresh(notebook_path)
        print(f"{notebook_path.name}: {time.perf_counter() - start:.0f} s", flush=True)
