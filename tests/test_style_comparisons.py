"""Notebook 11's table of controls: what each row trains, what is measured, what is written."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from test_style_training import reading_model, seeded, toy_captions

from helpers import style_comparisons
from helpers.evaluation import Yardstick
from helpers.everyday import load_prompts
from helpers.models import Proofreader, Ruler
from helpers.style_comparisons import (
    EPOCHS,
    RESULTS,
    ROWS,
    compare_styles,
    measure_row,
    ruler_for_decoder,
)
from helpers.styles import STYLES

KEYS = {"in the requested third", "prompt accuracy, held-out", "Fréchet ratio", "unnamed"}


# the ruler that reads along


@pytest.fixture(name="quick")
def fixture_quick(monkeypatch):
    """Untrained judges, and what the ruler was shown: a list of (name, arguments)."""
    calls = []

    def note(name, answer=None):
        def call(*data, **how):
            calls.append((name, data, how))
            return answer

        monkeypatch.setattr(style_comparisons, name, call)

    torch.manual_seed(1)
    note("train_proofreader", Proofreader().requires_grad_(False))
    note("train_ruler")
    note("recalibrate")
    note("draw_and_measure", (torch.zeros(2, 1, 28, 28), torch.zeros(2, 4)))
    return calls


def read_along(weight=40.0):
    """Make the penalty for 300 pictures that show nothing."""
    embeddings, digits, _ = toy_captions(400)
    corpus = SimpleNamespace(
        embeddings=embeddings, ranks=torch.rand(300, 4, generator=seeded()),
        measures=torch.rand(300, 4, generator=seeded(1)),
    )
    images = torch.zeros(300, 28, 28, dtype=torch.uint8)
    return corpus, ruler_for_decoder(images, digits[:300], corpus, weight)


def test_the_penalty_teaches_only_what_draws(quick):
    _, (along, _) = read_along()
    model, inputs = reading_model().train(), toy_captions(200)[0]
    penalty = along(model, inputs, seeded())
    assert penalty.shape == () and penalty.isfinite() and penalty > 0
    penalty.backward()
    learns = {
        name.split(".")[0] for name, p in model.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    assert {"expand", "up1", "up2"} <= learns
    assert not learns & {"head", "convolutions", "posterior", "prior"}
    assert along(model, inputs, seeded()).item() == pytest.approx(penalty.item(), rel=1e-5)
    other = torch.cat([inputs[:128], inputs[:72]])
    assert along(model, other, seeded()).item() == pytest.approx(penalty.item(), rel=1e-5)


def test_the_penalty_adds_up(quick):
    model, inputs = reading_model().eval(), toy_captions(40)[0]
    none, one, usual = (
        read_along(weight)[1][0](model, inputs, seeded()).item() for weight in (0.0, 1.0, 40.0)
    )
    assert none > 8 and one > none, "untrained, it misreads by about 2.3 nats, eightfold"
    assert usual - none == pytest.approx(40 * (one - none), rel=1e-3)


def test_the_ruler_is_shown_what_the_model_draws_by_now(quick):
    corpus, (_, after) = read_along()
    assert [name for name, *_ in quick] == ["train_proofreader", "train_ruler"]
    ruler, real, ranks = quick[1][1]
    assert isinstance(ruler, Ruler) and real.shape == (300, 1, 28, 28) and ranks is corpus.ranks
    quick.clear()
    model = reading_model().eval()
    after(model, 3)
    (_, drawn, how), (_, shown, seed) = quick
    assert drawn[0] is model and len(drawn[1]) == 300, "the captions of the pictures alone"
    assert drawn[3] is corpus.measures and how == seed == {"seed": 3}
    assert shown[0] is ruler and len(shown[1]) == 1 and len(shown[2]) == 2


# a row


def test_a_row_is_measured(monkeypatch):
    yardstick = object.__new__(Yardstick)  # not of 10,000 pictures
    yardstick.judge, yardstick.floor = "judge", 2.0
    yardstick.describe = lambda pictures: torch.randn(50, 3, generator=seeded()) + pictures.mean()
    yardstick.test_features = torch.randn(50, 3, generator=seeded())
    yardstick.prompts = {"held-out": ("embeddings", torch.arange(10))}
    rows = torch.tensor([3, 3, 7])
    drawn = torch.full((3, 1, 28, 28), 2.0), torch.tensor([1.0, 0.0, 1.0]), rows
    yardstick.draw = lambda model, embeddings, digits: drawn
    styled = {"in the requested third": {"thin": 0.9}, "digit": 1.0}
    monkeypatch.setattr(style_comparisons, "measure_templates", lambda *asked: styled)

    def unnamed(pictures, digits, reference):
        assert digits.tolist() == rows.tolist() and pictures is drawn[0]
        return {style: {"drawn": 0.1, "real": 0.01} for style in STYLES}

    monkeypatch.setattr(style_comparisons, "measure_unnamed", unnamed)
    found = measure_row("model", yardstick, "reference")
    assert set(found) == KEYS
    assert found["in the requested third"] == {"thin": 0.9}
    assert found["prompt accuracy, held-out"] == 0.6667
    assert found["Fréchet ratio"] == pytest.approx(3 * 2**2 / 2, abs=0.02), "moved by (2, 2, 2)"
    assert found["unnamed"] == dict.fromkeys(STYLES, 0.1)


# all of them


@pytest.fixture(name="trained")
def fixture_trained(monkeypatch, tmp_path):
    """What each row trained, without any training; a row is measured by its number."""
    trained = []

    def train(images, labels, corpus, **change):
        trained.append(change)
        return len(trained)

    def draw(model, prompts, n, seed):
        assert model == 2, "the picture shows what the ruler ruins"
        return torch.rand(len(prompts) * n, 1, 28, 28, generator=seeded(seed))

    for name, stub in {
        "load_splits": lambda: {"train": (None, None)}, "write_corpus": lambda labels: None,
        "Yardstick": lambda: None, "Reference": lambda: None,
        "ruler_for_decoder": lambda *data: ("along", "after"), "train_style": train,
        "draw_prompts": draw, "measure_row": lambda model, *_: {"Fréchet ratio": model},
        "RESULTS": tmp_path / "results.json", "PICTURE": tmp_path / "picture.png",
    }.items():
        monkeypatch.setattr(style_comparisons, name, stub)
    return trained


def test_three_rows_differ_in_what_the_ruler_moves(trained, tmp_path, capsys):
    compare_styles()
    assert trained == [
        {"epochs": EPOCHS, "moved": False},
        {"epochs": EPOCHS, "moved": False, "penalty": "along", "after_epoch": "after"},
        {"epochs": EPOCHS},
    ]
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(written.items()) == [
        (name, {"epochs": EPOCHS, "Fréchet ratio": k}) for k, name in enumerate(ROWS, start=1)
    ]
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > picture.height > 3 * 28 * 2
    assert all(name in capsys.readouterr().out for name in ROWS[:1])


def test_nothing_is_written_before_all_is_done(trained, tmp_path, monkeypatch):
    def fail(model, *_):
        if model == 3:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(style_comparisons, "measure_row", fail)
    with pytest.raises(KeyboardInterrupt):
        compare_styles()
    assert not list(tmp_path.iterdir())


# the released table


@pytest.fixture(scope="module", name="table")
def fixture_table():
    if not RESULTS.is_file():
        pytest.skip(f"{RESULTS.name} is not there yet")
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_every_row_of_the_table_is_there(table):
    assert list(table) == list(ROWS)
    kinds = {prompt.kind for prompt in load_prompts("styled")}
    for row in table.values():
        assert set(row) == KEYS | {"epochs"} and row["epochs"] == EPOCHS
        assert set(row["in the requested third"]) == kinds and set(row["unnamed"]) == set(STYLES)
        assert 0.5 < row["prompt accuracy, held-out"] <= 1 < row["Fréchet ratio"]


def test_a_ruler_that_moves_the_decoder_ruins_the_pictures(table):
    without, decoder, codes = (table[name]["Fréchet ratio"] for name in ROWS)
    assert decoder > 1.2 * without and decoder > 1.2 * codes


def test_a_ruler_that_moves_the_codes_helps(table):
    without, _, codes = (table[name]["in the requested third"].values() for name in ROWS)
    assert sum(codes) > sum(without)
