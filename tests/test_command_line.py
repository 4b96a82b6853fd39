"""The command line: what it prints and writes, what it refuses, and which recipe it starts."""

import io
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from helpers import __main__ as command_line
from helpers import generator
from helpers.__main__ import main, preview
from helpers.checkpoints import save_checkpoint
from helpers.generator import DEFAULT, TextToImage, picture_to_image
from helpers.models import ShapesCVAE

HOME = command_line.RECIPES


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Save an untrained model that reads letters; give its path."""
    torch.manual_seed(0)
    return save_checkpoint(tmp_path_factory.mktemp("c") / "untrained", ShapesCVAE(), {})


@pytest.fixture
def draw(letters, tmp_path, monkeypatch):
    """Run the draw command with that checkpoint; return status and the PNG files."""
    monkeypatch.chdir(tmp_path)

    def draw(*arguments):
        out = tmp_path / "out"
        status = main(["draw", "--checkpoint", str(letters), "--out", str(out), *arguments])
        return status, sorted(out.glob("*")) if out.exists() else []

    return draw


def refusal(capsys, status):
    """Return the one sentence on stderr of a command that ended with 2."""
    printed = capsys.readouterr()
    assert status == 2 and printed.out == "" and len(printed.err) < 400
    assert printed.err.count("\n") == 1 and printed.err.endswith(".\n"), printed.err
    assert "Traceback" not in printed.err and "Errno" not in printed.err
    return printed.err


def test_draw_writes_previews_and_names_its_files(draw, capsys, letters):
    asked = {"seed": 5, "temperature": 0.25}
    status, paths = draw("circle", "--count", "3", "--seed", "5", "--temperature", "0.25")
    printed = capsys.readouterr()
    assert status == 0 and len(paths) == 3 and printed.err == ""
    assert printed.out.splitlines()[-3:] == [str(path) for path in paths]
    pictures = TextToImage.load(letters, "cpu").draw("circle", 3, **asked)
    facts = {"prompt": "circle", "checkpoint": "untrained", "Title": '"circle"'}
    facts |= {name: str(value) for name, value in asked.items()}
    for k, (path, picture) in enumerate(zip(paths, pictures, strict=True), start=1):
        assert re.fullmatch(rf"\d{{8}}-\d{{6}}_circle_seed5_{k}\.png", path.name)
        with Image.open(path) as image:
            assert image.text == facts | {"index": str(k)}
            assert image.tobytes() == picture_to_image(picture).tobytes()
    lines = printed.out.splitlines()[:-3]
    assert len(lines) == 14 + 1 + 14 and max(map(len, lines)) == 58
    assert len(draw("circle", "--seed", "5")[1]) == 4, "nothing is overwritten"


def test_any_prompt_is_drawn_and_does_nothing_else(draw, capsys, tmp_path):
    for prompt in ("-x", "--help", "--out=elsewhere", "$(touch x) `touch y`; touch z > w", "a\0b",
                   "two\nlines\r\n", "../../a", "%s {a} %(a)s", "\x1b[31mred", "a" * 10_000,
                   "café \u202e na\u0308ive 👩‍🚀"):
        status, (path,) = draw("--no-preview", "--", prompt)
        printed = capsys.readouterr()
        assert status == 0 and printed.out == f"{path}\n" and printed.err.count("\n") == 1, prompt
        assert "none of the nine prompts; the nearest I know is" in printed.err
        plain = prompt.replace("\0", "")
        with Image.open(path) as image:
            assert image.text["prompt"] == plain
            assert image.text["Title"] == f'"{plain}" (not what I know?)'
        assert [*tmp_path.iterdir()] == [path.parent], prompt
        path.unlink()
    assert command_line.make_parser().parse_args(["draw", "a seven"]).checkpoint == DEFAULT


def test_bad_input_is_one_sentence(draw, capsys, tmp_path, letters):
    (tmp_path / "file").write_text("")
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(letters.read_bytes()[:-7])
    copy.with_suffix(".json").write_text("{}")
    cases = {
        (" ",): "The prompt is empty", ("12",): "no letter from a to z",
        ("caf\udce9",): "The prompt holds bytes that are not text",
        ("circle", "--count", "0"): "is 0: give a whole number from 1 to 100,000",
        ("circle", "--count", "1000000"): "is 1000000: give a whole number from 1 to 100,000",
        ("circle", "--temperature", "nan"): "The temperature is nan: give a number from 0 to 1,000",
        ("circle", "--steps", "2", "--guidance", "3"): 'untrained is no flow: load "mnist-flow"',
        ("circle", "--device", "abacus"): "no device 'abacus' here: choose one of cpu",
        ("circle", "--checkpoint", "nonesuch"): "There is no checkpoint 'nonesuch'",
        ("circle", "--checkpoint", str(copy)): f"{copy} and its JSON are damaged",
        ("circle", "--checkpoint", ""): "not a checkpoint's name",
        ("circle", "--out", str(tmp_path / "file" / "below")): "cannot be written (Not a dir",
        ("circle", "--out", "/proc/none/such"): "/proc/none",
    }
    for arguments, words in cases.items():
        status, paths = draw(*arguments)
        assert words in refusal(capsys, status), arguments
        assert paths == []


def test_bad_usage_is_one_sentence(capsys):
    cases = {
        (): "required", ("draw",): "required: prompt", ("draw", "-x"): "required: prompt",
        ("paint", "x"): "nvalid choice: 'paint'", ("train",): "required: ",
        ("draw", "circle", "--count", "1.5"): "--count: invalid int value: '1.5'",
        ("draw", "circle", "--seed", "1" * 5000): "--seed: invalid int value: …",
        ("draw", "circle", "two\nlines"): "nrecognized arguments: two lines",
    }
    for arguments, words in cases.items():
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert words in refusal(capsys, ended.value.code), arguments


def test_control_c_and_a_full_disk_leave_no_half_file(draw, capsys, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    error = KeyboardInterrupt()
    assert draw("circle", "--no-preview") == (130, [])
    assert capsys.readouterr().err == "Stopped before it was done; what is written is whole.\n"
    error = OSError(28, "No space left on device", "a.png")
    status, paths = draw("circle", "--no-preview")
    assert "No space left" in refusal(capsys, status) and paths == []


def test_what_is_written_before_the_disk_is_full_is_named(draw, capsys, monkeypatch):
    save = generator.save_picture

    def fill(picture, folder, facts, k):
        if k == 3:
            raise OSError(28, "No space left on device", "a.png")
        return save(picture, folder, facts, k)

    monkeypatch.setattr(generator, "save_picture", fill)
    status, paths = draw("circle", "--count", "5", "--no-preview")
    said = capsys.readouterr()
    assert status == 2 and len(paths) == 2 and said.err.startswith("a.png: No space left")
    assert said.out.splitlines() == [str(path) for path in paths]


def test_too_little_memory_and_control_c_while_importing_are_one_line(draw, capsys, monkeypatch):
    errors = [MemoryError(), RuntimeError("no memory to allocate"), KeyboardInterrupt()]

    def fail(*_, **__):
        raise errors.pop(0)

    monkeypatch.setattr("helpers.generator.TextToImage.draw", fail)
    for _ in range(2):
        assert "ask for fewer pictures" in refusal(capsys, draw("circle")[0])
    named = "helpers.generator"
    finder = SimpleNamespace(find_spec=lambda name, *_: fail() if name == named else None)
    monkeypatch.delitem(sys.modules, named)
    monkeypatch.delattr(named)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    assert draw("circle") == (130, [])
    assert capsys.readouterr().err == "Stopped before it was done; what is written is whole.\n"


def test_bytes_that_are_no_text_and_what_is_not_imported(letters, tmp_path):
    """In a process of its own, as a shell starts it; what is slow to import stays out."""
    code = f"""
import sys
from helpers.__main__ import main
for words in sys.argv[1:]:
    print(main(["draw", words, "--no-preview", "--out", "out", "--checkpoint", {str(letters)!r}]))
print(*sys.modules)
"""
    command = [sys.executable, "-c", code, b"caf\xc3\xa9 circle", b"circle \xff"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    *_, first, second, loaded = done.stdout.splitlines()
    assert (first, second) == ("0", "2") and "torch" in loaded.split(), done.stderr
    assert "bytes that are not text" in done.stderr and done.stderr.count("\n") == 2
    slow = {"matplotlib", "sklearn", "sentence_transformers", "ipywidgets"}
    assert not slow & {*loaded.split()}
    (path,) = (tmp_path / "out").iterdir()
    assert Image.open(path).text["prompt"] == "café circle"


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """Put other recipes in place, which write down how they were started and end with 7."""
    folder = tmp_path / "clone" / "checkpoints" / "recipes"
    folder.mkdir(parents=True)
    (tmp_path / "clone" / "beside.py").touch()
    code = f"""
import sys, pathlib, beside
words = " ".join([pathlib.Path(__file__).stem, *sys.argv[1:]])
pathlib.Path({str(tmp_path / "said")!r}).write_text(words)
sys.exit(7)
"""
    for name in ("mnist_style", "compare_training", "compare_styles"):
        (folder / f"{name}.py").write_text(code)
    monkeypatch.setattr(command_line, "RECIPES", folder)
    return tmp_path / "said"


def test_a_recipe_is_started_and_its_status_is_ours(recipes):
    cases = {
        "train mnist-style": "mnist_style train",
        "evaluate mnist-style --release": "mnist_style evaluate --release",
        "compare": "compare_training",
        "compare wider deeper --release": "compare_training wider deeper --release",
        "compare styles": "compare_styles",
    }
    for typed, started in cases.items():
        assert main(typed.split()) == 7 and recipes.read_text() == started


def test_what_has_no_recipe_is_refused(recipes, capsys):
    for command in ("train", "evaluate"):
        known = command_line.KNOWN[command]
        sentence = f"There is no recipe for 'x': choose {known}.\n"
        assert refusal(capsys, main([command, "x"])) == sentence
        files = [HOME / f"{name.replace('-', '_')}.py" for name in known.split(", ")]
        assert all(map(Path.is_file, files)), "what is offered is there"
    assert "choose shapes-mlp" in refusal(capsys, main(["evaluate", "judges"]))
    path = command_line.RECIPES / "shapes_mlp.py"
    sentence = f"There is no {path}: train needs a clone of the project.\n"
    assert refusal(capsys, main(["train", "shapes-mlp"])) == sentence
    assert "compare needs a clone" in refusal(capsys, main(["compare", "flows"]))
    assert not recipes.exists()


def test_preview_shows_the_picture_and_fits():
    for width in (20, 58, 80, 200):
        for colours in (0, 256, 2**24):
            text = preview(torch.rand(5, 1, 28, 28), width, colours)
            lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
            assert max(map(len, lines)) <= max(width, 28)
            assert ("▀" in text) == (colours > 0) == ("\x1b" in text)
    picture = torch.zeros(1, 1, 28, 28)
    picture[0, 0, :2, 0] = 1
    assert preview(picture).splitlines()[0] == "@" + " " * 27
    picture[0, 0, 1, 0] = 0
    assert preview(picture, colours=2**24).startswith("\x1b[38;2;255;255;255;48;2;0;0;0m▀")
    assert preview(picture, colours=256).startswith("\x1b[38;5;255;48;5;232m▀")


def test_colours_only_where_they_show(draw, monkeypatch, tmp_path):
    """And a stream that lacks a letter, or is closed, stops nothing."""
    for name in ("NO_COLOR", "COLORTERM", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value, encoding, code in (
        ("TERM", "xterm", "utf-8", "38;5"), ("COLORTERM", "truecolor", "utf-8", "38;2"),
        ("NO_COLOR", "1", "utf-8", ""), ("TERM", "dumb", "utf-8", ""), ("TERM", "", "ascii", ""),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
            patch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
            assert draw("circle", "--out", str(tmp_path / "é"))[0] == 0
            shown = sys.stdout.buffer.getvalue().decode(encoding)
        assert f"\x1b[{code}" in shown if code else "\x1b" not in shown, (name, value)
        assert ("é" if encoding == "utf-8" else r"\xe9") in shown
    monkeypatch.setattr(sys, "stdout", None)
    assert draw("circle")[0] == 0
