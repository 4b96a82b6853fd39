"""What `make lab` adds to JupyterLab: opening a notebook and closing it changes no byte."""

import json
from pathlib import Path


def keep_kernel(path, model, contents_manager):
    """Keep what a notebook says of its own kernel: JupyterLab notes which Python it has started."""
    file = Path(contents_manager.root_dir, path.strip("/"))
    if model["type"] == "notebook" and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))["metadata"]
        after = model["content"]["metadata"]
        names = [notes.get("kernelspec", {}).get("name") for notes in (before, after)]
        if names[0] == names[1]:
            after |= {key: before[key] for key in ("kernelspec", "language_info") if key in before}
