"""The command line: what it prints and writes, its exit statuses, and how fast it starts."""

import re
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from helpers import __main__ as command_line
from helpers.__main__ import main, preview
from helpers.checkpoints import checkpoint_paths, save_checkpoint
from helpers.generator import DEFAULT, FAMILIARITY
from helpers.models import ShapesCVAE


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Save an untrained model that reads letters; give its path as text."""
    torch.manual_seed(0)
    return str(save_checkpoint(tmp_path_factory.mktemp("c") / "untrained", ShapesCVAE(), {}))


@pytest.fixture
def draw(letters, tmp_path):
    """Run the draw command with that checkpoint; return status and the PNG files."""

    def draw(*arguments):
        out = tmp_path / "out"
        status = main(["draw", "--checkpoint", letters, "--out", str(out), *arguments])
        return status, sorted(out.glob("*")) if out.exists() else []

    return draw


def refusal(capsys, status):
    """Return the one sentence on stderr of a command that ended with 2."""
    printed = capsys.readouterr()
    assert status == 2 and printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.endswith(".\n"), printed.err
    assert "Traceback" not in printed.err and "Errno" not in printed.err
    return printed.err


def test_draw_writes_previews_and_names_its_files(draw, capsys):
    status, paths = draw("circle", "--count", "3", "--seed", "5")
    printed = capsys.readouterr()
    assert status == 0 and len(paths) == 3 and printed.err == ""
    assert printed.out.splitlines()[-3:] == [str(path) for path in paths]
    for k, path in enumerate(paths, start=1):
        assert re.fullmatch(rf"\d{{8}}-\d{{6}}_circle_seed5_{k}\.png", path.name)
        with Image.open(path) as image:
            assert image.size == (224, 224) and image.text["prompt"] == "circle"
            assert image.text["seed"] == "5" and image.text["checkpoint"] == "untrained"
            assert image.text["Title"] == '"circle"'
    lines = printed.out.splitlines()[:-3]
    assert len(lines) == 14 + 1 + 14 and max(map(len, lines)) == 58


def test_same_seed_same_files_and_none_is_overwritten(draw):
    draw("circle", "--no-preview")
    _, paths = draw("circle", "--no-preview")
    _, paths = draw("circle", "--no-preview", "--seed", "1")
    assert len(paths) == 3
    pixels = [Image.open(path).tobytes() for path in sorted(paths, key=lambda p: "seed1" in p.name)]
    assert pixels[0] == pixels[1] != pixels[2]


def test_no_preview(draw, capsys):
    _, paths = draw("circle", "--no-preview")
    assert capsys.readouterr().out == f"{paths[0]}\n"


def test_a_prompt_that_is_not_understood_is_drawn_with_a_word_of_doubt(draw, capsys):
    status, paths = draw("a cat", "--no-preview")
    assert status == 0 and len(paths) == 1
    assert "none of the nine prompts; the nearest I know is" in capsys.readouterr().err
    with Image.open(paths[0]) as image:
        assert image.text["Title"] == '"a cat" (not what I know?)'


def test_the_best_checkpoint_draws_unless_another_is_named():
    arguments = command_line.make_parser().parse_args(["draw", "a seven"])
    assert arguments.checkpoint == DEFAULT


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([""], "The prompt is empty"),
        (["   "], "The prompt is empty"),
        (["12"], "no letter from a to z"),
        (["circle", "--count", "0"], "at least 1"),
        (["circle", "--count", "-1"], "at least 1"),
        (["circle", "--temperature", "nan"], "finite number"),
        (["circle", "--temperature", "-1"], "finite number"),
        (["circle", "--device", "abacus"], "no device 'abacus' here: choose one of cpu"),
        (["circle", "--checkpoint", "nonesuch"], "There is no checkpoint 'nonesuch'"),
        (["circle", "--checkpoint", ""], "not a checkpoint's name"),
    ],
)
def test_bad_input_is_one_sentence(draw, capsys, arguments, words):
    status, paths = draw(*arguments)
    assert words in refusal(capsys, status) and paths == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["draw"], "required: prompt"),
        (["paint", "x"], "invalid choice: 'paint'"),
        (["draw", "circle", "--count", "1.5"], "--count: invalid int value: '1.5'"),
        (["draw", "circle", "--seed", "x"], "--seed: invalid int value"),
        (["draw", "circle", "--colour"], "nrecognized arguments: --colour"),
    ],
)
def test_bad_usage_is_one_sentence(capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert words in refusal(capsys, ended.value.code)


def test_unwritable_folders(draw, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        status, _ = draw("circle", "--out", str(out))
        assert str(out).removesuffix("/below").removesuffix("/none") in refusal(capsys, status)


def test_a_full_disk_leaves_no_half_file(draw, capsys, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    status, paths = draw("circle")
    assert "No space left" in refusal(capsys, status) and paths == []


def test_damaged_weights(letters, capsys, tmp_path):
    copy = tmp_path / "copy.safetensors"
    source = command_line.Path(letters)
    copy.write_bytes(source.read_bytes()[:-7])
    copy.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
    assert "damaged or truncated" in refusal(capsys, main(["draw", "x", "--checkpoint", str(copy)]))


@pytest.mark.parametrize("command", ["train", "evaluate", "compare"])
def test_unknown_names_to_the_slow_commands(capsys, command):
    assert "nonesuch" in refusal(capsys, main([command, "nonesuch"]))


def test_compare_styles_is_the_table_of_notebook_11(monkeypatch):
    called = []
    monkeypatch.setattr("helpers.style_comparisons.compare_styles", lambda: called.append("11"))
    monkeypatch.setattr("helpers.comparisons.compare", called.append)
    assert main(["compare", "styles"]) == main(["compare"]) == 0
    assert called == ["11", []]


def test_control_c(draw, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line.TextToImage, "draw", stop)
    status, paths = draw("circle")
    printed = capsys.readouterr()
    assert status == 130 and paths == []
    assert printed.err == "Stopped before it was done; what is written is whole.\n"


@pytest.mark.parametrize("width", [20, 58, 80, 200])
@pytest.mark.parametrize("colours", [0, 256, 2**24])
def test_preview_fits(width, colours):
    text = preview(torch.rand(5, 1, 28, 28), width, colours)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= max(width, 28)
    assert ("▀" in text) == (colours > 0) == ("\x1b" in text)


def test_preview_shows_the_picture():
    picture = torch.zeros(1, 1, 28, 28)
    picture[0, 0, :2, 0] = 1
    assert preview(picture).splitlines()[0] == "@" + " " * 27
    picture[0, 0, 1, 0] = 0
    assert preview(picture, colours=2**24).startswith("\x1b[38;2;255;255;255;48;2;0;0;0m▀")
    assert preview(picture, colours=256).startswith("\x1b[38;5;255;48;5;232m▀")


def test_colours_only_where_they_show(monkeypatch):
    class Terminal:
        encoding = "utf-8"

        def isatty(self):
            return True

    for name in ("NO_COLOR", "COLORTERM", "TERM"):
        monkeypatch.delenv(name, raising=False)
    terminal = Terminal()
    assert command_line._colours(terminal) == 256
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert command_line._colours(terminal) == 2**24
    monkeypatch.setenv("NO_COLOR", "1")
    assert command_line._colours(terminal) == 0
    monkeypatch.delenv("NO_COLOR")
    terminal.encoding = "latin-1"
    assert command_line._colours(terminal) == 0
    terminal.isatty = lambda: False
    assert command_line._colours(terminal) == 0


def seconds(*arguments):
    """Time a Python process that must succeed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start, done


@pytest.mark.skipif(
    not (FAMILIARITY.is_file() and checkpoint_paths(DEFAULT)[0].is_file()), reason="not trained yet"
)
def test_the_released_model_draws_soon_after_a_cold_start(tmp_path):
    """Against importing sentence-transformers alone (through helpers, which mends torchvision)."""
    command = ["-m", "helpers", "draw", "Can you show me what five looks like?", "--out", tmp_path]
    imports = ["-c", "import helpers, sentence_transformers"]
    extra = []
    for _ in range(2):
        whole, done = seconds(*command)
        extra.append(whole - seconds(*imports)[0])
    assert done.stderr == "" and len(list(tmp_path.iterdir())) == 2
    assert min(extra) < 1.5, f"{extra} s beyond the import; about 0.6 s on quiet cores"


def test_the_slow_imports_stay_out_of_drawing(letters, tmp_path):
    code = f"""
import sys
from helpers.__main__ import main
assert main(["draw", "circle", "--checkpoint", {letters!r}, "--out", {str(tmp_path)!r}]) == 0
print(*sys.modules)
"""
    _, done = seconds("-c", code)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "sklearn", "sentence_transformers", "ipywidgets"}
