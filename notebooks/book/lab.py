"""What `make lab` adds to JupyterLab: opening a notebook and closing it changes no byte."""

import json
from pathlib import Path


def keep_kernel(path, model, contents_manager):
    """Save a notebook with the notes about its kernel that the file has, if that is still its own.

    JupyterLab notes the version of whatever Python it has started, and saves of its own accord.
    """
    file = Path(contents_manager.root_dir, path.strip("/"))
    if model["type"] == "notebook" and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))["metadata"]
        after = model["content"]["metadata"]
        if before.get("kernelspec", {}).get("name") == after.get("kernelspec", {}).get("name"):
            after |= {key: before[key] for key in ("kernelspec", "language_info") if key in before}
