"""What `evaluate` and `compare` write: known answers, whole files, and controls that fail."""

import json

import pytest
import torch

from helpers import comparisons, evaluation
from helpers.captions import HELD_OUT_PHRASINGS, WORDS
from helpers.checkpoints import checkpoint_paths
from helpers.generator import DEFAULT
from helpers.mnist import DATA, load_mnist
from helpers.models import ConvCVAE, StyleCVAE

RESULTS = json.loads(checkpoint_paths("mnist-cvae")[1].read_text(encoding="utf-8"))["results"]
TABLE = json.loads(comparisons.RESULTS.read_text(encoding="utf-8"))


def test_a_summary_gives_mean_spread_and_what_real_pictures_get():
    rows = [{"Fréchet distance": value} for value in (1.0, 2.0, 6.0)]
    summary = evaluation._summarise(rows, {"Fréchet distance": 0.5})
    assert summary["Fréchet distance"] == {"mean": 3.0, "spread": 5.0, "real": 0.5}
    assert summary["Fréchet ratio"] == {"mean": 6.0, "spread": 10.0, "real": 1.0}


def test_failures_are_counted_by_digit_and_by_phrasing():
    """One seed in which every caption is drawn once, and the zeros of one phrasing all fail."""
    order = torch.arange(960).view(48, 10, 2).transpose(0, 1).flatten()  # digit by digit
    right = torch.ones(960)
    right[(order // 20 == 7) & (order % 20 < 2)] = 0  # phrasing 7, zero as word and numeral
    found = evaluation._by_digit_and_phrasing([(right, order)])
    assert found["by digit, held-out"] == [round(94 / 96, 5)] + [1.0] * 9
    first, *rest = found["by phrasing, held-out"].items()
    assert first == (HELD_OUT_PHRASINGS[7], 0.9)
    assert [share for _, share in rest] == [1.0] * 47
    low, high = found["interval, held-out"]
    assert low < 958 / 960 < high < 1


def test_a_model_that_places_its_codes_has_styles_and_no_nats(monkeypatch):
    """Its pictures do not come from the prior of its ELBO."""
    class Nothing:
        prompts, test_images = {}, torch.zeros(3, 28, 28, dtype=torch.uint8)
        images = real = test_images
        real_digits = test_labels = torch.zeros(3, dtype=torch.long)
        judge = None

        def measure(self, *_, **__):
            return {}

    for name, stub in {
        "Yardstick": Nothing, "SEEDS": (), "_summarise": lambda *_: {},
        "nearest_pictures": lambda a, b: (torch.zeros(3), None),
        "name_digits": lambda judge, pictures: torch.zeros(3, dtype=torch.long),
        "_by_digit_and_phrasing": lambda asked: {}, "_measure_speed": lambda model: {"speed": 1},
        "measure_styles_of": lambda model, yardstick: "styles",
        "_measure_likelihood": lambda model, yardstick: "nats",
    }.items():
        monkeypatch.setattr(evaluation, name, stub)
    placed, plain = evaluation.measure(StyleCVAE()), evaluation.measure(ConvCVAE())
    assert placed["styles"] == "styles" and "nats" not in placed and placed["speed"] == 1
    assert plain["nats"] == "nats" and "styles" not in plain


class Whitewasher:
    """Draws blank paper, whatever is asked."""

    latent, reads = 3, "sentences"

    def draw(self, inputs, z):
        return torch.zeros(len(inputs), 1, 28, 28)


def test_blank_paper_is_far_from_everything(monkeypatch):
    """The whole road of one seed, on 500 pictures and a tenth of the training set."""
    monkeypatch.setattr(evaluation, "PICTURES", 500)
    splits = evaluation.load_splits()
    small = {"train": tuple(part[:5500] for part in splits["train"]),
             "test": tuple(part[:500] for part in splits["test"])}
    monkeypatch.setattr(evaluation, "load_splits", lambda: small)
    monkeypatch.setattr(evaluation, "kernel_distance", lambda a, b: 0.0)
    yardstick = evaluation.Yardstick()
    row, right, captions = evaluation._draw_and_measure(Whitewasher(), yardstick, seed=0)
    real = yardstick.measure(yardstick.real, yardstick.real_digits, seed=0)
    assert len(right) == len(captions) == 500
    assert row["prompt accuracy, held-out"] == pytest.approx(0.1), "one digit's share at most"
    assert row["Fréchet distance"] > 20 * real["Fréchet distance"]
    assert row["recall"] == 0 and row["coverage"] < 0.01
    assert row["train on these, test on real"] < 0.3 < real["train on these, test on real"]


def results_of(name):
    path = checkpoint_paths(name)[1]
    if name == DEFAULT and not path.is_file():
        pytest.skip(f"{path.name} is not there yet")
    return json.loads(path.read_text(encoding="utf-8"))["results"]


@pytest.mark.parametrize("name", ["mnist-cvae", DEFAULT])
def test_the_released_results_are_complete(name):
    results = results_of(name)
    wanted = {
        "prompt accuracy, training", "prompt accuracy, held-out", "worst digit, training",
        "worst digit, held-out", "Fréchet distance", "Fréchet ratio", "KID", "precision", "recall",
        "density", "coverage", "train on these, test on real",
        "distance to the nearest training picture",
    }
    assert set(results["measures"]) == wanted
    for what, measured in results["measures"].items():
        assert set(measured) == {"mean", "spread", "real"} and measured["spread"] >= 0, what
    assert (results["pictures"], results["seeds"]) == (10_000, 3)
    if name == DEFAULT:  # what it draws from is not the prior of its ELBO
        assert "nats" not in results and "styles" in results
    else:
        assert results["nats"]["samples"] == results["nats"]["pictures"] == 1000
        assert "styles" not in results
    assert list(results["by phrasing, held-out"].values()) == sorted(
        results["by phrasing, held-out"].values()
    )
    assert set(results["by phrasing, held-out"]) == set(HELD_OUT_PHRASINGS)


def test_the_released_model_is_where_it_must_end():
    measures, nats = RESULTS["measures"], RESULTS["nats"]
    assert measures["prompt accuracy, held-out"]["mean"] >= 0.975
    assert measures["worst digit, held-out"]["mean"] >= 0.94
    assert nats["IWAE, marginal"] <= 88
    assert nats["IWAE, conditional"] < nats["IWAE, marginal"]
    assert nats["IWAE, conditional"] < nats["negative ELBO, conditional"]
    assert RESULTS["training seconds"] < 300


@pytest.mark.parametrize("name", ["mnist-cvae", DEFAULT])
def test_the_curve_of_training_rises(name):
    results = results_of(name)
    curve = results["curve"]
    assert [row["seconds"] for row in curve] == sorted(row["seconds"] for row in curve)
    assert curve[-1]["seconds"] <= results["training seconds"]
    assert curve[0]["Fréchet ratio"] > curve[-1]["Fréchet ratio"] > 1


# ---- controls ----------------------------------------------------------------------------------


def test_every_row_of_the_table_is_there():
    assert list(TABLE) == [*comparisons.ROWS, comparisons.STRAIGHTFORWARD]


def test_shuffled_captions_leave_chance():
    for kind in ("training", "held-out"):
        assert 0.05 < TABLE["captions shuffled"][f"prompt accuracy, {kind}"] < 0.15
    released = TABLE["as released, three epochs"]["prompt accuracy, held-out"]
    assert released > 0.95 > TABLE[comparisons.STRAIGHTFORWARD]["prompt accuracy, held-out"]


def test_rows_have_the_same_budget():
    """CPU seconds are measured, so they are alike and not the same."""
    seconds = [TABLE[name]["CPU seconds"] for name in comparisons.ROWS]
    assert max(seconds) < 1.5 * min(seconds)


def test_an_unknown_row_is_refused_before_anything_slow():
    with pytest.raises(ValueError, match="There is no row 'beta 7': choose among 'as released"):
        comparisons.compare(["beta 7"])


def test_rows_are_kept_in_order_and_beside_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(comparisons, "RESULTS", tmp_path / "comparisons.json")
    comparisons._keep("beta 2", {"coverage": 0.5})
    comparisons._keep("captions shuffled", {"coverage": 0.1})
    comparisons._keep("beta 2", {"coverage": 0.7})
    kept = json.loads(comparisons.RESULTS.read_text(encoding="utf-8"))
    assert list(kept.items()) == [
        ("captions shuffled", {"coverage": 0.1}), ("beta 2", {"coverage": 0.7})
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["comparisons.json"]


def test_a_digit_makes_a_condition_of_length_four():
    head = comparisons.OneHotHead()
    conditions = head(torch.arange(10))
    assert torch.equal(conditions.norm(dim=1), torch.full((10,), 4.0))
    assert torch.equal(head.digit(conditions).argmax(1), torch.arange(10))


def test_a_plain_head_fits_the_model():
    torch.manual_seed(0)
    model = ConvCVAE()
    model.head = comparisons.PlainHead()
    assert model.draw(torch.randn(3, 384), torch.randn(3, 20)).shape == (3, 1, 28, 28)


def test_a_constant_rate_stays():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], fused=True)
    schedule = comparisons._stay(optimizer, 1e-3, total_steps=4)
    for _ in range(3):
        assert schedule.get_last_lr() == [1e-3]
        optimizer.step()
        schedule.step()
    assert schedule.last_epoch == 3, "the warm-up counts the steps by it"


def test_the_straightforward_loop_reads_captions_of_what_it_shows():
    _, labels = load_mnist(train=True)
    data = comparisons._Captioned(DATA / "unpacked", train=True)
    for index in (0, 1, 59_999):
        _, caption = data[index]
        assert caption == f"a handwritten {WORDS[labels[index]]}"
