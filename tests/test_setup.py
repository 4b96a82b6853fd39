"""One list of packages for pip, conda and make; an installation that repairs itself."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = PROJECT["dependencies"] + [r for extra in EXTRAS.values() for r in extra]
NASTY = (
    "a seven",
    "it's \"8\", isn't it?",
    "$HOME costs $5 or $(shell echo 6)",
    "`id`; echo no && echo never | cat > no",
    "100% # of \\ ${PATH} * ~",
    "--help",
    "zwei Zeilen:\nsieben, café",
)

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def make(*arguments, **environment):
    """Run make as a person would, even if this test itself was started by make."""
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=clean | environment, capture_output=True, text=True,
        check=False, timeout=60,
    )


def write_script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


@needs_make
def test_conda_and_make_install_the_same_for_readers_and_more_for_tests(tmp_path):
    conda = re.findall(r"^\s*- -e (\S+)$", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    for target, extras in (("lab", ".[measured]"), ("draw", ".[measured]"),
                           ("test", ".[measured,test]"), ("book", ".[measured,test]")):
        answer = make("-n", target, f"VENV={tmp_path}/venv", "PROMPT=a seven")
        assert re.findall(r"pip install .*-e \"(\S+)\"", answer.stdout) == [extras], target
    assert conda == [".[measured]"] and list(EXTRAS) == ["measured", "test"]


def test_conda_brings_python_and_pip_and_nothing_else():
    text = (ROOT / "environment.yml").read_text()
    packages = re.findall(r"^  - (.+)$", text.split("dependencies:")[1], re.MULTILINE)
    assert packages == [f"python{PROJECT['requires-python']}", "pip", "pip:"]
    assert re.search(r"^name: prompt-to-pixels$", text, re.MULTILINE)


def test_torch_and_torchvision_are_a_pair():
    torch, torchvision = EXTRAS["measured"]  # what the numbers here were measured with
    needs = importlib.metadata.requires("torchvision")
    needs = [re.sub(r"[ ()]", "", need) for need in needs]
    assert torch in needs, f"{torchvision} wants another torch"


def test_every_requirement_has_bounds_that_what_is_installed_keeps():
    failures = []
    for requirement in REQUIREMENTS:
        bounds = requirement[len(name_of(requirement)) :]
        installed = importlib.metadata.version(name_of(requirement)).partition("+")[0]
        between = re.fullmatch(r">=([\d.]+),<([\d.]+)", bounds)
        low, here, high = (
            tuple(int(part) for part in re.findall(r"\d+", version))
            for version in (between[1], installed, between[2])
        ) if between else (0, 0, 0)
        if bounds != f"=={installed}" and not low <= here < high:
            failures.append(f"{requirement}: {installed} is installed")
    assert not failures


def imported_names(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def sources(pattern):
    """Yield the name and the Python of every module or code cell that a pattern finds."""
    for path in sorted(ROOT.glob(pattern)):
        if path.suffix == ".py":
            yield path.name, path.read_text(encoding="utf-8")
            continue
        if ".ipynb_checkpoints" in path.parts:
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                python = [line for line in lines if not line.lstrip().startswith(("%", "!"))]
                yield path.name, "\n".join(python)


@pytest.mark.parametrize(
    ("pattern", "extra"),
    [("helpers/**/*.py", []), ("notebooks/**/*.ipynb", []), ("checkpoints/recipes/*.py", []),
     ("notebooks/book/**/*.py", EXTRAS["test"]), ("tests/**/*.py", EXTRAS["test"])],
)  # fmt: skip
def test_what_is_imported_is_declared(pattern, extra):
    allowed = PROJECT["dependencies"] + extra
    declared = {name_of(requirement) for requirement in allowed}
    owners = importlib.metadata.packages_distributions()
    ours = {"helpers"} | {path.stem for path in (ROOT / "tests").glob("*.py")}
    for folder in ("checkpoints/recipes", "notebooks/book"):
        ours |= {path.stem for path in (ROOT / folder).glob("*.py")}
    found = list(sources(pattern))
    assert found, "the pattern finds nothing"
    for file, source in found:
        for name in set(imported_names(source)) - set(sys.stdlib_module_names) - ours:
            packages = {package.lower().replace("_", "-") for package in owners.get(name, [])}
            assert packages & declared, f"{file} imports {name}: declare it in pyproject.toml"


@needs_make
def test_every_target_is_known_and_help_names_it():
    text = make().stdout
    for target in ("lab", "install", "test", "test-quick", "draw", "refresh", "book"):
        assert make("-n", target, "PROMPT=a seven").returncode == 0
        assert re.search(rf"^make {target}\b", text, re.MULTILINE), f"help is silent on {target}"


@needs_make
def test_make_test_is_one_pytest_over_everything():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["testpaths"] == ["tests", "notebooks"]
    for option in ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900"):
        assert option in options["addopts"].split()
    for target in ("test", "test-quick", "test-browser"):
        assert "-m pytest" in make("-n", target).stdout.splitlines()[-1]
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK) and "make test" in ci.read_text()


@pytest.mark.parametrize(("ci", "status", "kind"), [("", 0, "SKIPPED"), ("true", 1, "ERROR")])
def test_without_chromium_the_browser_tests_say_so(ci, status, kind):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/browser/test_pages.py", "-k", "whole"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"CI": ci, "CHROMIUM": "/nowhere/chromium"},
    )
    assert done.returncode == status and kind in done.stdout
    assert "Chromium is not here, so the browser tests were not run: install it" in done.stdout


def test_ruff_has_nothing_to_say():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "helpers", "checkpoints", "tests", "notebooks"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


MEANT = "thre,eigth,cros,Theis,ore,wight,ist,tre,te"  # misspelt on purpose, rare, or no English


def test_codespell_has_nothing_to_say(tmp_path):
    """The cells of notebooks are read without their outputs."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("notebooks/*.md")]
    pages += [*ROOT.glob("helpers/*.py"), *ROOT.glob("checkpoints/recipes/*.py")]
    pages += ROOT.glob("notebooks/book/**/*.py")
    for path in ROOT.glob("notebooks/**/[0-9]*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        pages.append(tmp_path / f"{path.stem}.txt")
        pages[-1].write_text("\n\n".join("".join(c["source"]) for c in cells), encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).with_name("codespell"), "-L", MEANT, *pages],
        capture_output=True, text=True, check=False, timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def made_environment(tmp_path, script):
    """Lay out an environment that the Makefile takes for its own, with a Python that we write."""
    write_script(tmp_path / "bin" / "python", script)
    for mark in (".installed", ".installed-tests"):
        (tmp_path / mark).touch()
    return f"VENV={tmp_path}"


@needs_make
@pytest.mark.parametrize("prompt", NASTY)
def test_a_prompt_reaches_python_as_typed(tmp_path, prompt):
    venv = made_environment(tmp_path, r"""printf '%s\0' "$@" """)
    wanted = ["-m", "helpers", "draw", "--out", "outputs", "--", prompt, ""]
    as_argument = make("-s", "draw", venv, f"PROMPT={prompt}")
    from_outside = make("-s", "draw", venv, PROMPT=prompt)
    assert as_argument.stdout.split("\0") == from_outside.stdout.split("\0") == wanted
    assert not (ROOT / "no").exists()


@needs_make
def test_draw_without_a_prompt_says_how(tmp_path):
    answer = make("-s", "draw", made_environment(tmp_path, "echo drawn"), PROMPT="")
    assert answer.returncode != 0 and 'make draw PROMPT="a seven"' in answer.stderr
    assert "drawn" not in answer.stdout


@needs_make
@pytest.mark.parametrize("script", ["exit 1", "echo 'no such thing' >&2; exit 127"])
def test_an_old_python_is_refused_before_anything_is_made(tmp_path, script):
    old = write_script(tmp_path / "python", script)
    answer = make("install", f"VENV={tmp_path}/venv", f"PYTHON={old}")
    assert answer.returncode != 0 and "needs Python 3.11 or newer" in answer.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_a_folder_that_make_did_not_make_is_left_alone(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").touch()
    for _ in range(2):
        answer = make("install", f"VENV={mine}", "PYTHON=python3")
        assert answer.returncode != 0 and "was not made by make" in answer.stderr
        assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    named = make("-n", "lab", VENV=str(mine)).stdout  # in the environment it is another program's
    assert str(mine) not in named


@needs_make
def test_an_interrupted_installation_is_repaired_and_a_complete_one_left_alone(tmp_path):
    venv, log, network = tmp_path / "venv", tmp_path / "log", tmp_path / "network"
    fake = write_script(
        tmp_path / "python",
        f"""case "$2" in
          venv) mkdir -p "$3/bin"; cp "$0" "$3/bin/python";;
          pip) test -e {network} || exit 1; echo "$@" >> {log};;
        esac""",
    )
    arguments = (f"VENV={venv}", f"PYTHON={fake}", "PROMPT=a seven")
    assert make("install", *arguments).returncode != 0
    (venv / "half-a-package").touch()
    network.touch()
    assert make("install", *arguments).returncode == 0 and not (venv / "half-a-package").exists()
    network.unlink()
    assert make("book", *arguments).returncode != 0 and make("draw", *arguments).returncode == 0
    network.touch()
    for target in ("book", "refresh", "test-quick"):
        assert make(target, *arguments).returncode == 0
    asked = [line.partition(" -e ")[2] for line in log.read_text().splitlines()]
    assert asked == [".[measured]", ".[measured,test]"]
    (venv / ".unfinished").touch()  # as if make had been killed while pip worked
    (venv / "half-a-package").touch()
    assert make("draw", *arguments).returncode == 0 and not (venv / "half-a-package").exists()
