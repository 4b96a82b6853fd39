"""The README and the table of results claim nothing that a results file or a run does not show."""

import functools
import json
import re
import shlex
from pathlib import Path

import animation
import pytest

from helpers.__main__ import make_parser
from helpers.captions import HELD_OUT_PHRASINGS, TRAINING_PHRASINGS
from helpers.checkpoints import CHECKPOINTS, known_checkpoints
from helpers.generator import FAMILIARITY

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "notebooks" / "results.md").read_text(encoding="utf-8")
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))

PERCENT, COUNT, ONCE = "{:.1%}".format, "{:,}".format, "{:.1f}".format
DIGITS = ("mnist-cvae", "mnist-style", "mnist-flow")
SHAPES = ("shapes-mlp", "shapes-cvae")
THIRD = ("styles", "styled", "in the requested third")
CHOICES = (*DIGITS[:2], *(f"mnist-flow, guidance {g}" for g in (1.0, 1.3, 1.5, 2.0, 3.0)),
           "mnist-flow, its own choice")


def measured(label, measure, style=PERCENT):
    """A measure of 11_how_good_is_it, for each model of digits and for real handwriting."""
    places = [(name, "results", "measures", measure, "mean") for name in DIGITS]
    return label, [*places, ("mnist-cvae", "results", "measures", measure, "real")], style


def known(label, place, style=PERCENT, models=(*DIGITS, None)):
    return label, [model and (model, "results", *place) for model in models], style


READERS, STYLED = (None, *DIGITS[1:], None), DIGITS[1:]
ROWS = (  # what a row measures, where its numbers stand, and how they are written
    measured("show the digit asked for, training phrasings", "prompt accuracy, training"),
    measured("show the digit asked for, held-out phrasings", "prompt accuracy, held-out"),
    measured("the same for the worst of the ten digits", "worst digit, held-out"),
    known("200 prompts as people type them: show the digit", ("styles", "readers", "messy", "all"),
          models=READERS),
    known("120 misspelt number words: show the digit", ("styles", "readers", "typos", "all"),
          models=READERS),
    measured("Fréchet distance, in multiples of that of real training pictures", "Fréchet ratio",
             ONCE),
    measured("kinds of real handwriting that are drawn (coverage)", "coverage"),
    measured("real digits read by a classifier that learned from these pictures",
             "train on these, test on real"),
    known("bound on −log p of a tossed test picture, digit untold, nats",
          ("nats", "IWAE, marginal"), ONCE, (DIGITS[0], None, None, None)),
    known("pictures for each kind of phrasing, with each of three seeds", ("pictures",), COUNT),
    known("parameters", ("parameters",), COUNT),
    known("seconds of training on two CPU cores", ("training seconds",), COUNT),
    known("milliseconds per picture", ("milliseconds per picture",), "{:.2f}".format),
    *(known(kind, (*THIRD, kind.removeprefix("leaning ")), models=STYLED)
      for kind in ("thin", "thick", "leaning left", "upright", "leaning right", "narrow", "wide",
                   "small", "big")),
    ("captions that name one style: it is obeyed", [
        *(("flow-comparisons", "defaults", CHOICES[k], "styles obeyed") for k in (0, 1, -1)), None,
    ], PERCENT),
    *((name, [("flow-comparisons", "defaults", name, key) for key in (
        "styles obeyed", "digit, styled", "digit, plain", "Fréchet ratio", "coverage")],
       lambda value: (PERCENT if value <= 1 else ONCE)(value)) for name in CHOICES),
    *(known(f"chance that a digit scores above a prompt {what} (AUROC)",
            (f"AUROC, held-out against {place}",), "{:.3f}".format, [FAMILIARITY])
      for what, place in (("about something else", "far"), ("that nearly names a digit", "near"))),
    known("show the shape asked for, mean of nine prompts", ("accuracy", "mean"), models=SHAPES),
    known("variety, mean of nine prompts", ("variance ratio", "mean"),
          lambda value: f"{value:.5f}".rstrip("0"), SHAPES),
)


def written(row):
    """Write a row of a table from the results files; a model that was not asked has a dash."""
    label, places, style = row
    values = []
    for place in places:
        if place is None:
            values.append("–")
            continue
        file = (CHECKPOINTS / place[0]).with_suffix(".json")
        value = functools.reduce(lambda found, key: found[key], place[1:], json.loads(
            file.read_text(encoding="utf-8")))
        values.append(style(value))
    return f"| {' | '.join([label, *values])} |"


def opening(path):
    """Return the title of a notebook and its run time in its own words."""
    text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    time = re.search(r"\*\*Run time:?\*\*:? (.+?) on two CPU cores", text)
    return text.splitlines()[0].removeprefix("# "), time and time[1]


def code(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_it_is_short():
    assert len(README.split()) <= 1500
    assert f"figures/{animation.TARGET.name}" in "\n".join(README.splitlines()[:8])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_result(row):
    assert written(row) in RESULTS.splitlines()


def test_the_page_repeats_at_most_ten_rows():
    table = README.split("## What was measured")[1].split("##")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "`" not in line]
    assert 0 < len(rows) <= 10 and set(rows) <= {written(row) for row in ROWS}


def test_no_other_percentage_is_claimed():
    claimed = set(re.findall(r"\d[\d.,]*\s?%", README + RESULTS))
    claimed -= set(re.findall(r"\d[\d.,]*\s?%", "".join(map(written, ROWS))))
    assert not claimed, f"{claimed} comes from no results file"


def test_phrasings_are_counted():
    assert f"{len(HELD_OUT_PHRASINGS)} ways to ask" in RESULTS
    assert f"beside {len(TRAINING_PHRASINGS)} that it was" in RESULTS


def test_released_models_are_named():
    named = re.search(r"The released models are (.+?);", README)[1]
    assert sorted(re.findall(r"`([\w-]+)`", named)) == [
        name for name in known_checkpoints() if not name.startswith("mine/")]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_table_of_notebooks(path):
    (row,) = [line for line in README.splitlines() if f"](notebooks/{path.name}) |" in line]
    title, time = opening(path)
    assert f"[{title}](" in row and time and row.endswith(f"| {time} |")
    assert f'src="notebooks/figures/{path.name[:2]}_thumb.png"' in row


def test_python_example(capsys):
    exec(code("python")[0], {})
    assert capsys.readouterr().out.splitlines() == ["torch.Size([16, 1, 28, 28])", "True"]


def test_command_lines_are_understood():
    lines = [line for block in code("bash") for line in block.splitlines()]
    lines = [line for line in lines if line.startswith("python -m helpers")]
    assert len(lines) >= 3
    for line in lines:
        assert make_parser().parse_args(shlex.split(line, comments=True)[3:]).run


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([\w-]+)|`make ([\w-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE)
