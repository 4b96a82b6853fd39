"""The README claims nothing that a results file or a run does not show."""

import json
import re
import shlex
from pathlib import Path

import animation
import pytest

from helpers.__main__ import make_parser
from helpers.captions import HELD_OUT_PHRASINGS, TRAINING_PHRASINGS
from helpers.checkpoints import checkpoint_paths, known_checkpoints
from helpers.generator import FAMILIARITY

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))

PERCENT, COUNT, ONCE = "{:.1%}".format, "{:,}".format, "{:.1f}".format
M = "measures"
THIRD = ("styles", "styled", "in the requested third")
ROWS = (  # what the README says, the checkpoint, the place in its results, how it is written
    ("`mnist-cvae` | pictures judged for either kind of phrasing, with each of three seeds",
     "mnist-cvae", ("pictures",), COUNT),
    ("`mnist-cvae` | show the digit asked for, training phrasings", "mnist-cvae",
     (M, "prompt accuracy, training", "mean"), PERCENT),
    ("`mnist-cvae` | show the digit asked for, held-out phrasings", "mnist-cvae",
     (M, "prompt accuracy, held-out", "mean"), PERCENT),
    ("`mnist-cvae` | the same for the worst of the ten digits", "mnist-cvae",
     (M, "worst digit, held-out", "mean"), PERCENT),
    ("judge A | real test pictures named rightly", "mnist-cvae",
     (M, "prompt accuracy, held-out", "real"), PERCENT),
    ("`mnist-cvae` | Fréchet distance, in multiples of that of real training pictures",
     "mnist-cvae", (M, "Fréchet ratio", "mean"), ONCE),
    ("`mnist-cvae` | kinds of real handwriting that it also draws (coverage)", "mnist-cvae",
     (M, "coverage", "mean"), PERCENT),
    ("real training pictures | the same", "mnist-cvae", (M, "coverage", "real"), PERCENT),
    ("`mnist-cvae` | real digits read by a classifier that learned from its drawings", "mnist-cvae",
     (M, "train on these, test on real", "mean"), PERCENT),
    ("real training pictures | the same, from as many", "mnist-cvae",
     (M, "train on these, test on real", "real"), PERCENT),
    ("`mnist-cvae` | bound on −log p of a tossed test picture, digit untold, nats", "mnist-cvae",
     ("nats", "IWAE, marginal"), ONCE),
    ("`mnist-cvae` | parameters", "mnist-cvae", ("parameters",), COUNT),
    ("`mnist-cvae` | seconds of training on two CPU cores", "mnist-cvae", ("training seconds",),
     COUNT),
    ("`mnist-cvae` | milliseconds per picture", "mnist-cvae", ("milliseconds per picture",),
     "{:.2f}".format),
    ("`mnist-style` | show the digit asked for, held-out phrasings", "mnist-style",
     (M, "prompt accuracy, held-out", "mean"), PERCENT),
    ("`mnist-style` | Fréchet distance, in multiples of that of real training pictures",
     "mnist-style", (M, "Fréchet ratio", "mean"), ONCE),
    *(
        (f"`mnist-style` | asked to be {kind}: in that third of real handwriting", "mnist-style",
         (*THIRD, kind), PERCENT)
        for kind in ("thin", "thick", "upright", "narrow", "wide", "small", "big")
    ),
    ("`mnist-style` | asked to lean left: in that third of real handwriting", "mnist-style",
     (*THIRD, "left"), PERCENT),
    ("`mnist-style` | asked to lean right: in that third of real handwriting", "mnist-style",
     (*THIRD, "right"), PERCENT),
    ("`mnist-style` | 200 prompts as people type them: show the digit", "mnist-style",
     ("styles", "readers", "messy", "all"), PERCENT),
    ("`mnist-style` | 120 misspelt number words: show the digit", "mnist-style",
     ("styles", "readers", "typos", "all"), PERCENT),
    ("`understands` | chance that a digit scores above a prompt about something else (AUROC)",
     FAMILIARITY, ("AUROC, held-out against far",), "{:.3f}".format),
    ("`understands` | the same for prompts that nearly name a digit", FAMILIARITY,
     ("AUROC, held-out against near",), "{:.3f}".format),
    ("`mnist-flow` | show the digit asked for, held-out phrasings", "mnist-flow",
     (M, "prompt accuracy, held-out", "mean"), PERCENT),
    ("`mnist-flow` | the same for the worst of the ten digits", "mnist-flow",
     (M, "worst digit, held-out", "mean"), PERCENT),
    ("`mnist-flow` | Fréchet distance, in multiples of that of real training pictures",
     "mnist-flow", (M, "Fréchet ratio", "mean"), ONCE),
    ("`mnist-flow` | kinds of real handwriting that it also draws (coverage)", "mnist-flow",
     (M, "coverage", "mean"), PERCENT),
    ("`mnist-flow` | real digits read by a classifier that learned from its drawings", "mnist-flow",
     (M, "train on these, test on real", "mean"), PERCENT),
    ("`mnist-flow` | seconds of training on two CPU cores, reader given", "mnist-flow",
     ("training seconds",), COUNT),
    ("`mnist-flow` | of these, for the flow", "mnist-flow", ("flow seconds",), COUNT),
    ("`mnist-flow` | milliseconds per picture", "mnist-flow", ("milliseconds per picture",),
     "{:.2f}".format),
    ("`shapes-cvae` | show the shape asked for, mean of nine prompts", "shapes-cvae",
     ("accuracy", "mean"), PERCENT),
    ("`shapes-cvae` | variety, mean of nine prompts", "shapes-cvae", ("variance ratio", "mean"),
     "{:.2f}".format),
    ("`shapes-mlp` | variety of a generator that ignores its noise", "shapes-mlp",
     ("variance ratio", "mean"), "{:.5f}".format),
)


def written(checkpoint, place, style):
    """Write a measured number as the README does."""
    value = json.loads(checkpoint_paths(checkpoint)[1].read_text(encoding="utf-8"))["results"]
    for key in place:
        value = value[key]
    return style(value)


def opening(path):
    """Return the title of a notebook and its run time in its own words."""
    text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    time = re.search(r"\*\*Run time:?\*\*:? (.+?) on two CPU cores", text)
    return text.splitlines()[0].removeprefix("# "), time and time[1]


def code(language):
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL))


def test_nothing_is_left_to_fill_in():
    assert "{{" not in README and f"figures/{animation.TARGET.name}" in README


@pytest.mark.parametrize(("label", "checkpoint", "place", "style"), ROWS)
def test_result(label, checkpoint, place, style):
    assert f"\n| {label} | {written(checkpoint, place, style)} |\n" in README


def test_no_other_percentage_is_claimed():
    measured = {written(*row[1:]) for row in ROWS}
    claimed = set(re.findall(r"\d[\d.,]*\s?%", README))
    assert claimed <= measured, f"{claimed - measured} comes from no results file"


def test_phrasings_are_counted():
    assert f"{len(HELD_OUT_PHRASINGS)} ways to ask" in README
    assert f"beside {len(TRAINING_PHRASINGS)} that it was" in README


def test_released_models_are_named():
    named = re.search(r"The released models are (.+?);", README)[1]
    assert sorted(re.findall(r"`([\w-]+)`", named)) == known_checkpoints()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_table_of_notebooks(path):
    (row,) = [line for line in README.splitlines() if f"](notebooks/{path.name})" in line]
    title, time = opening(path)
    assert f"[{title}](" in row and time and row.endswith(f"| {time} |")
    assert f'src="notebooks/figures/{path.name[:2]}_hero.png"' in row


def test_python_example(capsys):
    exec(code("python"), {})
    assert capsys.readouterr().out.splitlines() == ["torch.Size([16, 1, 28, 28])", "True"]


def test_command_lines_are_understood():
    lines = [line for line in code("bash").splitlines() if line.startswith("python -m helpers")]
    assert len(lines) == 5
    for line in lines:
        assert make_parser().parse_args(shlex.split(line)[3:]).run


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([\w-]+)|`make ([\w-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE)
