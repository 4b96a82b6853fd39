"""Measuring obedience: known answers, a model that obeys, one that does not, and the released."""

import itertools
import json
import re

import pytest
import torch

from helpers import style_evaluation
from helpers.captions import HELD_OUT_PHRASINGS, WORDS
from helpers.checkpoints import checkpoint_paths
from helpers.everyday import load_prompts
from helpers.generator import DEFAULT, FAMILIARITY
from helpers.mnist import load_mnist, to_float
from helpers.strokes import measure_strokes, measure_styles
from helpers.style_evaluation import (
    HELD_OUT_FRAMES,
    MIDDLES,
    Reference,
    distance_in_ranks,
    draw_prompts,
    fill_templates,
    in_third,
    measure_cells,
    measure_familiarity,
    measure_slopes,
    measure_templates,
    misspelled_sentences,
    share_by,
)
from helpers.styles import (
    EDGES,
    HELD_OUT_CELLS,
    STYLES,
    UNSAID,
    level_of,
    rank_within_digit,
    write_styled,
)

# Goals of the issue that the released checkpoint does not reach, as ("cells", "held out") or
# ("styled", "thin"); the README and notebook 11 say so. Empty: all are reached.
UNMET = (("cells", "both"),)  # thickness and slant each are within five points, not both at once


# known answers


def test_in_third_at_the_edges():
    ranks = torch.tensor([0.0, 0.333, 0.334, 0.5, 0.666, 0.667, 1.0])
    for level in (-2, -1):
        assert in_third(ranks, torch.full((7,), level)).tolist() == [True] * 2 + [False] * 5
    assert in_third(ranks, torch.zeros(7).long()).tolist() == [False] * 2 + [True] * 3 + [False] * 2
    for level in (1, 2):
        assert in_third(ranks, torch.full((7,), level)).tolist() == [False] * 5 + [True] * 2


def test_chance_is_one_third():
    ranks, generator = torch.rand(9000, generator=torch.Generator().manual_seed(0)), None
    levels = torch.randint(5, (9000,), generator=generator) - 2
    assert in_third(ranks, levels).float().mean().item() == pytest.approx(1 / 3, abs=0.02)


def test_the_middles_are_those_of_the_levels():
    ends = (0, *EDGES, 1)
    assert pytest.approx(MIDDLES) == [(a + b) / 2 for a, b in itertools.pairwise(ends)]
    assert level_of(torch.tensor(MIDDLES)).tolist() == [-2, -1, 0, 1, 2]


def test_share_by():
    hits = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    assert share_by(["b", "a", "b", "a", "c"], hits) == {"b": 1.0, "a": 0.5, "c": 0.0}
    assert list(share_by(["b", "a"], hits[:2])) == ["b", "a"]
    assert share_by(["x"] * 3, torch.tensor([True, False, False])) == {"x": 0.3333}
    assert share_by([], torch.zeros(0)) == {}


def test_distance_in_ranks():
    even = (torch.arange(500) + 0.5) / 500
    assert distance_in_ranks(even, even) == 0
    assert distance_in_ranks(even, even.flip(0)) == pytest.approx(0, abs=1e-6)
    assert distance_in_ranks(even * 0.5, even * 0.5 + 0.2) == pytest.approx(0.2, abs=1e-3)
    assert distance_in_ranks(even, torch.full((70,), 0.5)) == pytest.approx(0.25, abs=1e-2)
    assert distance_in_ranks(even, torch.zeros(3)) == pytest.approx(0.5, abs=1e-2)
    assert distance_in_ranks(torch.zeros(3), even) == pytest.approx(0.5, abs=1e-2)


def test_held_out_frames_bring_no_style():
    assert len(HELD_OUT_FRAMES) >= 15 and set(HELD_OUT_FRAMES) < set(HELD_OUT_PHRASINGS)
    for frame in HELD_OUT_FRAMES:
        assert "{a}" in frame
        assert not re.search(r"\b(thick|thin|bold|tiny|small|big|wide|narrow|left|right)\b", frame)


def test_fill_templates():
    for name, most in (("styled", 11), ("synonyms", 9)):
        rows, templates = fill_templates(name), load_prompts(name)
        assert len(rows) == 10 * len(templates) and len({row[0] for row in rows}) == most
        for place, (kind, style, level, digit, template, prompt) in enumerate(rows):
            source = templates[place // 10]
            assert (kind, template, digit) == (source.kind, source.text, place % 10)
            assert f"{STYLES[style]} {level}" == source.answer
            name_of_digit = str(digit) if digit % 2 else WORDS[digit]
            assert re.search(rf"\b{name_of_digit}\b", prompt) and "{" not in prompt


def test_misspelled_sentences():
    sentences, digits = misspelled_sentences(each=3, seed=1)
    typos = load_prompts("typos")
    assert len(sentences) == len(digits) == 3 * len(typos)
    for place, (sentence, digit) in enumerate(zip(sentences, digits, strict=True)):
        typo = typos[place // 3]
        assert digit == int(typo.answer) and typo.text in sentence
        bare = sentence.replace("one of those", "")  # a held-out phrasing has a "one" of its own
        assert not re.search(rf"\b{WORDS[digit]}(e?s)?\b", bare)
    assert misspelled_sentences(each=3, seed=1)[0] == sentences


def test_only_the_digit_is_misspelled():
    """ "one" stands in "telephone" too."""
    sentences, _ = misspelled_sentences(each=len(HELD_OUT_PHRASINGS))
    vocabulary = {w for p in HELD_OUT_PHRASINGS for w in re.findall(r"[a-z']+", p.lower())}
    names = {p.text + s for p in load_prompts("typos") for s in ("", "s", "es")}
    for sentence in sentences:
        words = set(re.findall(r"[a-z']+", sentence.lower())) - vocabulary
        assert words <= names, f"{sentence!r} has {words - names}"


# models that are made of real pictures


class Obeying:
    """Return a real picture of the digit, with the ranks nearest to the middles of the levels."""

    latent = 20

    def __init__(self, shelf, styles=STYLES):
        self.pictures, self.digits, self.ranks = shelf
        self.generator = torch.Generator().manual_seed(1)
        self.hears = torch.tensor([style in styles for style in STYLES])

    def draw(self, inputs, z):
        digits, levels = inputs[:, 0].long(), inputs[:, 1:5].long()
        said = (levels != UNSAID) & self.hears
        wanted = torch.tensor(MIDDLES)[(levels + 2).clamp(max=4)]
        far = ((wanted[:, None] - self.ranks).abs() * said[:, None]).sum(2)
        chance = torch.rand(far.shape, generator=self.generator)  # where nothing is asked
        far = far + 9.0 * (digits[:, None] != self.digits) + 0.01 * chance
        return self.pictures[far.argmin(1)]


class Reader:
    """Stand in for MiniLM: what `write_styled` and `fill_templates` asked comes back as numbers."""

    def __init__(self):
        self.asked = {}

    def write(self, digit, levels, rng, frames):
        assert set(frames) <= set(HELD_OUT_PHRASINGS), "measured on phrasings that are held out"
        prompt = write_styled(digit, levels, rng, frames)
        self.asked[prompt] = (digit, *levels)
        return prompt

    def encode(self, prompts):
        return torch.tensor([self.asked[prompt] for prompt in prompts]).float()


@pytest.fixture(scope="module", name="shelf")
def fixture_shelf():
    images, digits = load_mnist(train=False)
    pictures, digits = to_float(images[:1500]), digits[:1500]
    return pictures, digits, measure_styles(measure_strokes(pictures))


@pytest.fixture(name="reader")
def fixture_reader(monkeypatch):
    reader = Reader()
    monkeypatch.setattr(style_evaluation, "sentence_encoder", lambda: reader)
    monkeypatch.setattr(style_evaluation, "write_styled", reader.write)
    return reader


@pytest.fixture(name="reference")
def fixture_reference(shelf):
    reference = object.__new__(Reference)  # not of 55,000 pictures
    _, reference.digits, reference.measures = shelf
    return reference


@pytest.fixture(name="ranked")
def fixture_ranked(shelf, reference):
    pictures, digits, measures = shelf
    return pictures, digits, rank_within_digit(measures, digits, reference.measures, digits)


@pytest.fixture(name="judge")
def fixture_judge(shelf, monkeypatch):
    """Know every picture of the shelf."""
    pictures, digits, _ = shelf
    known = {p.numpy().tobytes(): d for p, d in zip(pictures, digits.tolist(), strict=True)}

    def name(judge, drawn):
        return torch.tensor([known[picture.numpy().tobytes()] for picture in drawn])

    monkeypatch.setattr(style_evaluation, "name_digits", name)


def test_reference_ranks(reference, ranked):
    pictures, digits, ranks = ranked
    assert torch.allclose(reference.rank(pictures[:50], digits[:50]), ranks[:50], atol=2e-3)


def test_draw_prompts_draws_prompt_by_prompt(ranked, reader):
    reader.asked = {"a": (3, -2, 3, 3, 3), "b": (5, 2, 3, 3, 3)}
    seen = []

    class Listening(Obeying):
        def draw(self, inputs, z):
            seen.append((inputs, z))
            return super().draw(inputs, z)

    drawn = draw_prompts(Listening(ranked), ["a", "b"], 3, seed=2)
    inputs, z = seen[0]
    assert drawn.shape == (6, 1, 28, 28) and inputs[:, 0].tolist() == [3, 3, 3, 5, 5, 5]
    assert z.shape == (6, 20) and len(z.unique(dim=0)) == 6, "each from its own code"
    draw_prompts(Listening(ranked), ["a", "b"], 3, seed=2)
    assert torch.equal(seen[1][1], z)


def test_cells_of_a_model_that_obeys(ranked, reader, reference, judge):
    found = measure_cells(Obeying(ranked), reference, None, n=1)
    assert found["held out"]["cells"] == len(HELD_OUT_CELLS)
    assert found["named in training"]["cells"] == 40 - len(HELD_OUT_CELLS)
    for row in found.values():
        assert row["thickness"] > 0.9 and row["slant"] > 0.9 and row["digit"] == 1
        assert row["both"] <= min(row["thickness"], row["slant"])


def test_cells_of_a_model_that_ignores_the_style(ranked, reader, reference, judge):
    found = measure_cells(Obeying(ranked, styles=()), reference, None, n=2)["named in training"]
    assert found["digit"] == 1
    assert 0.2 < found["thickness"] < 0.5 and 0.2 < found["slant"] < 0.5 and found["both"] < 0.3


def test_cells_of_a_model_that_cannot_combine(ranked, reader, reference, judge):
    """It forgets the slant in the held-out cells: the gap that the goal is about shows."""
    class Forgetful(Obeying):
        def draw(self, inputs, z):
            inputs = inputs.clone()
            for row in inputs:
                if (*row[:3].long().tolist(),) in HELD_OUT_CELLS:
                    row[2] = -row[2]
            return super().draw(inputs, z)

    found = measure_cells(Forgetful(ranked), reference, None, n=1)
    assert found["named in training"]["slant"] > 0.9 and found["held out"]["slant"] < 0.2


def test_slopes(ranked, reader, reference):
    obeying = measure_slopes(Obeying(ranked), reference, n=1)
    deaf = measure_slopes(Obeying(ranked, styles=("slant",)), reference, n=1)
    assert list(obeying) == list(deaf) == list(STYLES)
    for style, row in obeying.items():
        assert row["slope"] == pytest.approx(1, abs=0.1) and row["R²"] > 0.9, style
        assert (deaf[style]["R²"] > 0.9) == (style == "slant")
        assert style == "slant" or abs(deaf[style]["slope"]) < 0.3


@pytest.mark.parametrize("name", ["styled", "synonyms"])
def test_templates(ranked, reader, reference, judge, name, monkeypatch):
    """Thirds of one attribute at a time, within the prompts' digits; all but width is obeyed."""
    rows = [row for row in fill_templates(name) if row[3] in (0, 2, 3, 6, 7)]
    monkeypatch.setattr(style_evaluation, "fill_templates", lambda name: rows)
    for _, style, level, digit, _, prompt in rows:
        levels = [UNSAID] * 4
        levels[style] = level
        reader.asked[prompt] = (digit, *levels)
    model = Obeying(ranked, styles=("thickness", "slant", "size"))
    found = measure_templates(model, name, reference, None, n=3)
    assert found["pictures"] == 3 * len(rows) and found["digit"] == 1
    for kind, share in found["in the requested third"].items():
        assert share < 0.8 if kind in ("wide", "narrow") else share > 0.95, kind
    assert set(found["by template"]) == {row[4] for row in rows}


def test_unnamed(ranked, reader, reference, shelf, monkeypatch):
    """Real pictures are as far from the test set as others; thin ones are far in thickness only."""
    pictures, digits, ranks = ranked
    measures = shelf[2]
    back = torch.cat([measures, measures[:, 3:].square() / measures[:, 2:3].clamp(min=1)], 1)
    strokes = back[:, [0, 1, 2, 4]]
    monkeypatch.setattr(style_evaluation, "load_strokes", lambda train=True: strokes)
    monkeypatch.setattr(style_evaluation, "load_splits", lambda: {"test": (None, digits)})
    same = style_evaluation.measure_unnamed(pictures[:600], digits[:600], reference)
    assert set(same) == set(STYLES)
    for row in same.values():
        assert set(row) == {"drawn", "real"} and row["drawn"] < 0.05 and row["real"] < 0.02
    thin = ranks[:, 0] < 0.3
    odd = style_evaluation.measure_unnamed(pictures[thin][:300], digits[thin][:300], reference)
    assert odd["thickness"]["drawn"] > 0.3 > odd["slant"]["drawn"]


# familiarity


class Files:
    """Stand in for MiniLM: 1 for prompts that ask for a digit, 0 for others, or all the same."""

    def __init__(self, blind=False):
        others = {p.text for name in ("far", "near", "negations") for p in load_prompts(name)}
        self.others, self.blind = others, blind

    def encode(self, sentences):
        return torch.tensor([[float(self.blind or s not in self.others)] for s in sentences])


def test_familiarity_of_a_net_that_knows(monkeypatch):
    def net(x):
        return torch.cat([8 * x, torch.zeros(len(x), 9), 4 * torch.ones(len(x), 1)], 1)

    monkeypatch.setattr(style_evaluation, "sentence_encoder", Files)
    found = measure_familiarity(net)
    for known in ("held-out", "messy"):
        for other in ("far", "near"):
            assert found[f"AUROC, {known} against {other}"] == 1
    trusted = found["trusted"]
    assert set(trusted["messy"].values()) == {1.0} and trusted["held-out"] == 1
    assert set(trusted["far"].values()) == set(trusted["near"].values()) == {0.0}
    assert set(trusted) == {"held-out", "messy", "far", "near", "negations", "indirect"}


def test_familiarity_of_a_net_that_does_not(monkeypatch):
    monkeypatch.setattr(style_evaluation, "sentence_encoder", lambda: Files(blind=True))
    found = measure_familiarity(lambda x: torch.zeros(len(x), 11))
    assert found["AUROC, held-out against far"] == 0.5


# the released checkpoint


def results_of(path):
    if not path.is_file():
        pytest.skip(f"{path.name} is not there yet")
    return json.loads(path.read_text(encoding="utf-8"))["results"]


@pytest.fixture(scope="module", name="results")
def fixture_results():
    return results_of(checkpoint_paths(DEFAULT)[1])


def held_to(place, reached):
    """Check a goal of the issue; one that is listed as unmet must really be unmet."""
    if place in UNMET:
        assert not reached, f"{place} is reached: take it out of UNMET"
    else:
        assert reached, place


def test_released_results_are_complete(results):
    styles = results["styles"]
    assert set(styles) == {"styled", "synonyms", "slopes", "cells", "unnamed", "readers"}
    for name in ("styled", "synonyms"):
        templates = load_prompts(name)
        assert set(styles[name]["in the requested third"]) == {p.kind for p in templates}
        assert set(styles[name]["by template"]) == {p.text for p in templates}
        assert styles[name]["pictures"] == 40 * len(templates)
    assert set(styles["slopes"]) == set(styles["unnamed"]) == set(STYLES)
    assert set(styles["readers"]) == {"messy", "typos", "indirect", "typos in sentences"}
    for name in ("messy", "typos", "indirect"):
        assert set(styles["readers"][name]) == {"all"} | {p.kind for p in load_prompts(name)}
    assert styles["cells"]["held out"]["cells"] == len(HELD_OUT_CELLS)


@pytest.mark.parametrize(
    ("kind", "goal"),
    [("thin", 0.85), ("thick", 0.85), ("left", 0.85), ("right", 0.85), ("upright", 0.75),
     ("narrow", 0.75), ("wide", 0.75)],
)
def test_goal_of_a_style(results, kind, goal):
    held_to(("styled", kind), results["styles"]["styled"]["in the requested third"][kind] >= goal)


@pytest.mark.parametrize(("name", "goal"), [("messy", 0.97), ("typos", 0.85)])
def test_goal_of_a_reader(results, name, goal):
    held_to(("readers", name), results["styles"]["readers"][name]["all"] >= goal)


@pytest.mark.parametrize("what", ["thickness", "slant", "both"])
def test_goal_of_held_out_combinations(results, what):
    cells = results["styles"]["cells"]
    gap = cells["named in training"][what] - cells["held out"][what]
    held_to(("cells", what), gap <= 0.05)


@pytest.mark.parametrize("kind", ["training", "held-out"])
def test_goal_of_the_digit(results, kind):
    held_to(("digit", kind), results["measures"][f"prompt accuracy, {kind}"]["mean"] >= 0.97)


def test_goal_of_the_digit_under_a_style(results):
    held_to(("digit", "styled"), results["styles"]["styled"]["digit"] >= 0.97)


@pytest.mark.parametrize(
    ("other", "goal"), [("far", 0.99), ("near", 0.90)]
)
@pytest.mark.parametrize("known", ["held-out", "messy"])
def test_goal_of_familiarity(known, other, goal):
    results = results_of(FAMILIARITY.with_suffix(".json"))
    held_to((f"AUROC, {known}", other), results[f"AUROC, {known} against {other}"] >= goal)


def test_nothing_else_is_listed_as_unmet():
    groups = {"styled", "readers", "cells", "digit", "AUROC, held-out", "AUROC, messy"}
    assert {group for group, _ in UNMET} <= groups
