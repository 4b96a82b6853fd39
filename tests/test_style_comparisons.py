"""Notebook 11's table of controls: what each row trains, what is measured, what is written."""

import json

import pytest
import torch
from PIL import Image
from test_style_training import reading_model, seeded, toy_captions

from helpers import style_comparisons
from helpers.evaluation import Yardstick
from helpers.everyday import load_prompts
from helpers.models import Proofreader, Ruler
from helpers.style_comparisons import (
    RESULTS,
    ROWS,
    compare_styles,
    measure_row,
    ruler_for_decoder,
    train_along,
    undo_prior,
)
from helpers.styles import STYLES
from helpers.training import MNIST_RECIPE

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
    embeddings, digits, _ = toy_captions(300)
    ranks, measures = (torch.rand(300, 4, generator=seeded(k)) for k in range(2))
    images = torch.zeros(300, 28, 28, dtype=torch.uint8)
    corpus = embeddings, digits, measures, ranks
    return corpus, ruler_for_decoder(images, digits, embeddings, measures, ranks, weight)


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
    assert isinstance(ruler, Ruler) and real.shape == (300, 1, 28, 28) and ranks is corpus[3]
    quick.clear()
    model = reading_model().eval()
    after(model, 3)
    (_, drawn, how), (_, shown, seed) = quick
    assert drawn[0] is model
    assert all(ours is theirs for ours, theirs in zip(drawn[1:], corpus[:3], strict=True))
    assert how == seed == {"seed": 3}
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


def test_without_its_prior_a_model_draws_from_standard_normal_codes():
    model = reading_model().eval()
    for parameter in model.prior.parameters():
        parameter.data += torch.randn(parameter.shape, generator=seeded())
    z, condition = torch.randn(5, 20, generator=seeded()), model.head(toy_captions(5)[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not torch.equal(model.place(z, condition), z)
    undo_prior(model)
    assert torch.equal(model.place(z, condition), z)
    changed = {n for n, t in model.state_dict().items() if not torch.equal(before[n], t)}
    assert changed == {"prior.2.weight", "prior.2.bias"}


def test_the_decoder_is_trained_with_the_head_of_the_released_model(monkeypatch):
    calls, head = [], reading_model().eval().requires_grad_(True).head  # as it is loaded
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}

    def train(model, batches, **how):
        calls.append((next(iter(batches(seeded()))), how))
        assert not any(p.requires_grad for p in model.head.parameters()), "it reads already"
        return model.train(), []

    def along(images, labels, embeddings, measures, ranks):
        assert embeddings.shape == (300, 384) and measures.shape == ranks.shape == (300, 4)
        return "along", "after"

    for name, stub in {
        "load_strokes": lambda: torch.rand(310, 4, generator=seeded()), "train_cvae": train,
        "caption_pictures": lambda levels, digits: (["a"] * len(digits), None),
        "sentence_encoder": lambda: Axis, "ruler_for_decoder": along,
    }.items():
        monkeypatch.setattr(style_comparisons, name, stub)
    images, labels = torch.zeros(300, 28, 28, dtype=torch.uint8), torch.arange(300) % 10
    model = train_along(images, labels, head)
    ((pictures, captions), how), = calls
    assert pictures.shape == (250, 1, 28, 28) and captions.shape == (250, 384)
    assert how == MNIST_RECIPE | {"penalty": "along", "after_epoch": "after"}
    assert all(torch.equal(before[n], t) for n, t in model.head.state_dict().items())
    assert not head.training, "the released model is measured afterwards, without noise"


class Axis:
    """Stand in for MiniLM."""

    @staticmethod
    def encode(sentences):
        return torch.eye(384)[:1].expand(len(sentences), -1)


@pytest.fixture(name="measured")
def fixture_measured(monkeypatch, tmp_path):
    """Models that were measured, without any training; a row is the number of its place."""
    measured, released = [], reading_model().eval()
    for parameter in released.prior.parameters():
        parameter.data += 0.1
    ruined = reading_model(1).eval()

    def measure(model, *_):
        measured.append(model)
        return {"Fréchet ratio": len(measured)}

    def draw(model, prompts, n, seed):
        assert model is ruined, "the picture shows what the ruler ruins"
        return torch.rand(len(prompts) * n, 1, 28, 28, generator=seeded(seed))

    for name, stub in {
        "load_splits": lambda: {"train": (None, None)}, "Yardstick": lambda: None,
        "Reference": lambda: None, "load_checkpoint": lambda name: (released, {}),
        "train_along": lambda *data: ruined, "draw_prompts": draw, "measure_row": measure,
        "RESULTS": tmp_path / "results.json", "PICTURE": tmp_path / "picture.png",
    }.items():
        monkeypatch.setattr(style_comparisons, name, stub)
    return measured, released, ruined


def test_three_rows_differ_in_what_the_ruler_moves(measured, tmp_path, capsys):
    measured, released, ruined = measured
    compare_styles()
    assert len(measured) == 3 and measured[1] is ruined and measured[2] is released
    still, z, condition = measured[0], torch.ones(1, 20), torch.full((1, 34), 0.1)
    assert torch.equal(still.place(z, condition), z)
    assert not torch.equal(released.place(z, condition), z), "it keeps its own prior"
    assert torch.equal(still.decode(z, condition), released.decode(z, condition))
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(written.items()) == [(n, {"Fréchet ratio": k}) for k, n in enumerate(ROWS, 1)]
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > picture.height > 3 * 28 * 2
    printed = capsys.readouterr().out
    assert all(name in printed for name in ROWS)


def test_nothing_is_written_before_all_is_done(measured, tmp_path, monkeypatch):
    def fail(model, *_):
        if model is measured[1]:
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
        assert set(row) == KEYS
        assert set(row["in the requested third"]) == kinds and set(row["unnamed"]) == set(STYLES)
        assert 0.5 < row["prompt accuracy, held-out"] <= 1 < row["Fréchet ratio"]


def test_a_ruler_that_moves_the_decoder_ruins_the_pictures(table):
    without, decoder, codes = (table[name]["Fréchet ratio"] for name in ROWS)
    assert decoder > 1.2 * without and decoder > 1.2 * codes


def test_a_ruler_that_moves_the_codes_helps(table):
    without, _, codes = (table[name]["in the requested third"].values() for name in ROWS)
    assert sum(codes) > sum(without)
