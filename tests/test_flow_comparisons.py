"""Notebook 12's tables: the priors, Heun's method, and what each row of the decoders changes."""

from types import SimpleNamespace

import pytest
import torch
from test_flow_training import MEAN, WIDTH, build, seeded, to_gaussian
from torch import nn

from helpers import flow_comparisons
from helpers.__main__ import main
from helpers.evaluation import Yardstick
from helpers.flow_comparisons import (
    DECODERS,
    Unchanged,
    compare_decoders,
    compare_guidance,
    compare_sharp,
    compare_steps,
    feature_penalty,
    fit_by_digit,
    measure_rebuilt,
    measure_row,
    transport_by_heun,
    with_prior,
)
from helpers.flow_training import (
    collect_codes,
    conditions_of,
    gaussian_terms,
    match_features,
)
from helpers.mnist import load_splits
from helpers.models import (
    Autoencoder,
    FilmBlock,
    LatentFlow,
    Proofreader,
    StyleCVAE,
    elbo_terms,
    transport,
)
from helpers.styles import UNSAID

# conditions and codes


def test_conditions_name_the_digit_and_some_levels():
    labels = load_splits()["train"][1][:300]
    conditions = conditions_of(labels)
    assert conditions.shape == (300, 34) and set(conditions.unique().tolist()) == {0, 1}
    assert (conditions[:, :10].argmax(1) == labels).all() and (conditions.sum(1) == 5).all()
    unsaid = conditions[:, 10:].unflatten(1, (4, 6))[:, :, UNSAID + 2].mean()
    assert 0.2 < unsaid < 0.95


def test_codes_are_encoded_with_their_own_condition():
    class Adds:
        """The first pixel and the condition make the mean, the second the log variance."""

        def encode(self, pictures, condition):
            return pictures[:, 0, 0, :1] + condition[:, :1], pictures[:, 0, 0, 1:2]

    images = torch.randint(256, (1003, 28, 28), generator=seeded(), dtype=torch.uint8)
    conditions = torch.rand(1003, 34, generator=seeded(1))
    means, deviations = collect_codes(Adds(), images, conditions)
    assert means.shape == deviations.shape == (1003, 1)
    assert torch.allclose(means[:, 0], images[:, 0, 0] / 255 + conditions[:, 0])
    assert torch.allclose(deviations[:, 0].square().log(), images[:, 0, 1] / 255, atol=1e-5)


def test_codes_of_a_real_model_have_no_gradients():
    means, deviations = collect_codes(
        build(StyleCVAE).eval(), torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3, 34)
    )
    assert means.shape == deviations.shape == (3, 20) and (deviations > 0).all()
    assert not means.requires_grad


# priors


def test_a_prior_moves_codes_before_they_are_decoded():
    model = build(StyleCVAE).eval()
    z, x = torch.randn(3, 20, generator=seeded()), torch.randn(3, 384, generator=seeded())
    seen = []

    def place(z, condition):
        seen.append(condition)
        return z + 1

    drawn = with_prior(model, place)
    assert drawn.latent == 20
    with torch.no_grad():
        pictures, condition = drawn.draw(x, z), model.head(x)
        assert torch.allclose(pictures, model.decode(z + 1, condition).sigmoid())
        assert torch.equal(with_prior(model, model.place).draw(x, z), model.draw(x, z))
    assert torch.equal(seen[0], condition)


def test_sharp_codes_are_drawn_without_the_flow(monkeypatch):
    """Standard normal codes first, then those of each digit, painted by the autoencoder."""
    model, drawn = build(LatentFlow).eval(), {}
    x, z = torch.randn(3, 384, generator=seeded()), torch.randn(3, 24, generator=seeded())
    model.autoencoder.requires_grad_(False)
    places = 5 * torch.randn(10, 24, generator=seeded(1))

    def collect(autoencoder, images):
        assert autoencoder is model.autoencoder and images == "images"
        return places.repeat(40, 1), torch.full((400, 24), 0.1)

    @torch.no_grad()
    def measure(asked, yardstick, trained_on):
        assert asked.latent == 24 and trained_on
        drawn[len(drawn)] = asked.draw(x, z)
        return len(drawn)

    monkeypatch.setattr(flow_comparisons, "collect_codes", collect)
    monkeypatch.setattr(flow_comparisons, "measure_row", measure)
    labels = torch.arange(400) % 10
    results = compare_sharp("images", labels, model, None)
    assert list(results.values()) == [1, 2, 3] and next(iter(results)) == "N(0, I)"
    with torch.no_grad():
        digits = model.head(x)[:, :10].argmax(1)
        codes = places[digits] + 0.1 * z
        assert torch.equal(drawn[0], model.autoencoder.decode(z).clamp(0, 1))
        expected = model.autoencoder.decode(codes).clamp(0, 1)
    for k in (1, 2):
        assert torch.allclose(drawn[k], expected, atol=0.05)
        assert not torch.equal(drawn[k], drawn[0])


@pytest.fixture(scope="module", name="world")
def fixture_world():
    """Codes of ten digits: each a correlated Gaussian of its own, with their labels."""
    labels = torch.arange(6000) % 10
    roots = torch.randn(10, 3, 3, generator=seeded()).tril() + 2 * torch.eye(3)
    noise = torch.randn(6000, 3, 1, generator=seeded(1))
    places = 10 * torch.randn(10, 3, generator=seeded(2))
    return places[labels] + (roots[labels] @ noise)[:, :, 0], labels


def ask(digit, n):
    return torch.eye(34)[[digit]].expand(n, -1)


def test_a_gaussian_for_each_digit(world):
    """Means and covariances are those of the codes of the digit."""
    codes, labels = world
    place = fit_by_digit(codes, labels, 1)
    for digit in range(10):
        own = codes[labels == digit]
        z = torch.randn(20_000, 3, generator=seeded(digit))
        z = (z - z.mean(0)) @ torch.linalg.cholesky(z.T.cov()).inverse().T  # exactly N(0, I)
        moved = place(z, ask(digit, 20_000))
        assert moved.dtype == torch.float32
        assert torch.allclose(moved.mean(0), own.mean(0), atol=1e-3)
        assert torch.allclose(moved.T.cov(), own.T.cov(), rtol=0.01, atol=0.03)


def test_each_row_goes_to_its_own_digit(world):
    codes, labels = world
    asked = torch.randint(10, (50,), generator=seeded())
    moved = fit_by_digit(codes, labels, 1)(torch.zeros(50, 3), torch.eye(34)[asked])
    means = torch.stack([codes[labels == digit].mean(0) for digit in range(10)])
    assert torch.allclose(moved, means[asked], atol=1e-3), "the centre of the noise, the mean"


def test_a_mixture_finds_the_parts_of_a_digit():
    """Three quarters of every digit's codes lie on the left, one on the right."""
    labels = torch.arange(4000) % 10
    right = (torch.arange(4000) // 10) % 4 == 0
    codes = 0.1 * torch.randn(4000, 2, generator=seeded()) + 5.0 * right[:, None]
    place = fit_by_digit(codes, labels, 2)
    moved = place(torch.randn(4000, 2, generator=seeded(1)), ask(3, 4000))[:, 0]
    assert (moved > 2.5).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert ((moved.abs() < 0.6) | ((moved - 5).abs() < 0.6)).all(), "nothing in between"
    again = fit_by_digit(codes, labels, 2)(torch.randn(4000, 2, generator=seeded(1)), ask(3, 4000))
    assert torch.equal(again[:, 0], moved), "same seed, same choice"


# Heun


@pytest.mark.parametrize("steps", [1, 3])
def test_heun_is_exact_where_velocities_change_evenly(steps):
    """With v = t a point moves by 1/2; Euler looks only at the beginning of each step."""
    def rising(x, t, condition):
        return t[:, None].expand(len(x), 2)

    x, c = torch.randn(4, 2, generator=seeded()), torch.zeros(4, 34)
    assert torch.allclose(transport_by_heun(rising, x, c, 1.0, steps), x + 0.5, atol=1e-6)
    euler = transport(rising, x, c, 1.0, steps)
    assert torch.allclose(euler, x + (1 - 1 / steps) / 2, atol=1e-6)


def test_heun_comes_closer_than_euler():
    x, c = torch.randn(2000, 2, generator=seeded()), torch.zeros(2000, 34)

    def wrong(carry, steps):
        moved = carry(to_gaussian, x, c, 1.0, steps)
        return (moved - MEAN - WIDTH * x).square().mean().sqrt().item()

    for steps in (4, 8, 20):
        assert wrong(transport_by_heun, steps) < 0.7 * wrong(transport, steps), steps
    assert wrong(transport_by_heun, 100) < 1e-3


def test_heun_is_guided_in_both_looks():
    looks = []

    def velocity(x, t, condition):
        looks.append((len(x), t[0].item()))
        return condition[:, :2]

    moved = transport_by_heun(velocity, torch.zeros(1, 2), torch.ones(1, 34), 2.5, 2)
    assert torch.allclose(moved, torch.full((1, 2), 2.5))
    assert looks == [(2, 0.0), (2, 0.5), (2, 0.5), (2, 1.0)]


# decoders


def test_unchanged_returns_its_input():
    maps = torch.rand(2, 3, 4, 4, generator=seeded())
    assert Unchanged()(maps, torch.rand(2, 8)) is maps


def test_a_penalty_is_weighed_and_on_the_scale_of_nats():
    network = build(Proofreader).requires_grad_(False)
    painted, pictures = (torch.rand(3, 1, 28, 28, generator=seeded(k)) for k in range(2))
    expected = match_features(painted, pictures, network).log()
    painted.requires_grad_()
    found = feature_penalty(network, 100.0)(painted, pictures)
    assert found.item() == pytest.approx(100 * expected.item(), rel=1e-5)
    found.backward()
    assert painted.grad.any() and painted.grad.isfinite().all()


def test_each_decoder_changes_one_thing(monkeypatch):
    trained, flows, network = [], [], build(Proofreader).requires_grad_(False)

    def train(autoencoder, images, terms, penalty, steps):
        assert isinstance(autoencoder.ink, nn.Conv2d), "trained on logits or on grey levels"
        trained.append((autoencoder, terms, penalty, steps))

    for name, stub in {
        "load_checkpoint": lambda name: (build(StyleCVAE), {}), "train_autoencoder": train,
        "train_proofreader": lambda images, labels: network,
        "train_flow": lambda model, images, conditions, steps: flows.append(model),
        "measure_rebuilt": lambda model, yardstick: {"rebuilt": 1},
        "measure_row": lambda model, yardstick: {"training": model.training},
    }.items():
        monkeypatch.setattr(flow_comparisons, name, stub)
    results = compare_decoders(None, None, None, None, steps=3)
    assert list(results) == list(DECODERS)
    for row in results.values():
        assert row == {"CPU seconds": 0, "rebuilt": 1, "training": False}
    for block in ("block1", "block2"):
        film = [isinstance(getattr(a, block), FilmBlock) for a, *_ in trained]
        assert film == [False, False, True, True]
    assert [terms for _, terms, *_ in trained] == [elbo_terms] + 3 * [gaussian_terms]
    assert [penalty is not None for *_, penalty, _ in trained] == [False, False, False, True]
    assert {steps for *_, steps in trained} == {3}
    assert all(model.autoencoder is a for model, (a, *_) in zip(flows, trained, strict=True))
    z = 5 * torch.randn(20, 24, generator=seeded())
    inside = [0 < a.decode(z).min() and a.decode(z).max() < 1 for a, *_ in trained]
    assert inside == [True, False, False, False], "logits become probabilities"


# measuring


class Shifts:
    """An autoencoder that paints everything a little too dark."""

    def __init__(self, by):
        self.by = by

    def encode(self, pictures):
        return pictures, None

    def decode(self, codes):
        return codes + self.by


def describe(pictures):
    return pictures.flatten(1)[:, :3].double()


def test_rebuilt_pictures_are_measured():
    real = torch.rand(1200, 1, 28, 28, generator=seeded()) / 2
    yardstick = SimpleNamespace(
        real=real, describe=describe, test_features=describe(real), floor=0.01
    )
    same = measure_rebuilt(SimpleNamespace(autoencoder=Shifts(0)), yardstick)
    assert set(same) == {"rebuilt, Fréchet ratio", "rebuilt, squared error"}
    assert list(same.values()) == pytest.approx([0, 0], abs=1e-3)
    dark = measure_rebuilt(SimpleNamespace(autoencoder=Shifts(0.1)), yardstick)
    assert dark["rebuilt, squared error"] == pytest.approx(0.01, abs=1e-5)
    assert dark["rebuilt, Fréchet ratio"] == pytest.approx(3 * 0.1**2 / 0.01, rel=0.01)
    black = measure_rebuilt(SimpleNamespace(autoencoder=Shifts(9)), yardstick)
    expected = (1 - real).square().mean().item()
    assert black["rebuilt, squared error"] == pytest.approx(expected, abs=1e-4), "ink ends at 1"


def test_rebuilding_keeps_the_shape_of_pictures():
    yardstick = SimpleNamespace(
        real=torch.rand(6, 1, 28, 28, generator=seeded()), describe=describe,
        test_features=torch.randn(50, 3, generator=seeded()).double(), floor=1.0,
    )
    found = measure_rebuilt(SimpleNamespace(autoencoder=build(Autoencoder)), yardstick)
    assert all(isinstance(value, float) and value > 0 for value in found.values())


@pytest.fixture(name="yardstick")
def fixture_yardstick(monkeypatch):
    """A yardstick that is not of 10,000 pictures, with three drawn ones, two of them right."""
    yardstick = object.__new__(Yardstick)
    yardstick.floor = 0.5
    yardstick.test_images, yardstick.test_labels = "test images", "test labels"
    yardstick.prompts = {"held-out": ("embeddings", torch.arange(10))}
    right = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0] + 5 * [1.0])
    rows = torch.tensor([3] * 10)
    yardstick.draw = lambda model, embeddings, digits: ("pictures", right, rows)
    kept = {"precision": 0.7, "recall": 0.6, "coverage": 0.5}
    yardstick.fidelity = lambda pictures: {"Fréchet distance": 2.0, "KID": 0.1, "density": 1} | kept

    def train_on(pictures, digits, test_images, test_labels):
        assert (pictures, test_images, test_labels) == ("pictures", "test images", "test labels")
        assert digits.tolist() == [3] * 10
        return 0.98771

    monkeypatch.setattr(flow_comparisons, "accuracy_after_training_on", train_on)
    return yardstick


def test_a_row_is_measured(yardstick):
    row = measure_row("model", yardstick)
    assert row == {
        "prompt accuracy, held-out": 0.9, "worst digit, held-out": 0.0, "precision": 0.7,
        "recall": 0.6, "coverage": 0.5, "Fréchet ratio": 4.0,
    }
    trained = measure_row("model", yardstick, trained_on=True)
    assert trained == row | {"train on these, test on real": 0.9877}


def test_every_guidance_is_drawn_with(monkeypatch):
    def measure(model, yardstick, trained_on):
        assert model.latent == 5 and trained_on
        return model.draw("embeddings", "z")

    monkeypatch.setattr(flow_comparisons, "measure_row", measure)
    model = SimpleNamespace(latent=5, draw=lambda embeddings, z, guidance: {"drawn with": guidance})
    results = compare_guidance(model, None)
    assert results["1.0"] == {"drawn with": 1.0} and len(results) == len(flow_comparisons.GUIDANCE)
    assert all(row == {"drawn with": float(name)} for name, row in results.items())


def test_steps_by_euler_and_by_heun(monkeypatch):
    monkeypatch.setattr(flow_comparisons, "STEPS", (1, 50))
    model, drawn = build(LatentFlow, latent=4).eval(), []
    x, z = torch.randn(30, 384, generator=seeded()), torch.randn(30, 4, generator=seeded())

    @torch.no_grad()
    def draw(asked, embeddings, digits):
        drawn.append(asked.draw(embeddings, z))
        return drawn[-1], torch.ones(30), None

    yardstick = SimpleNamespace(
        prompts={"held-out": (x, None)}, draw=draw, floor=2.0, describe=describe,
        test_features=torch.randn(50, 3, generator=seeded()).double(),
    )
    results = compare_steps(model, yardstick)
    assert [list(rows) for rows in results.values()] == [["1", "50"]] * 2
    assert set(results) == {"Euler", "Heun"} and results["Heun"]["1"]["worst digit, held-out"] == 1
    with torch.no_grad():
        assert torch.equal(drawn[0], model.draw(x, z, steps=1))
        assert torch.equal(drawn[1], model.draw(x, z, steps=50))
    assert torch.allclose(drawn[1], drawn[3], atol=1e-3), "many steps, the same place"
    assert not torch.equal(drawn[0], drawn[2])
    assert all(0 <= pictures.min() and pictures.max() <= 1 for pictures in drawn)


def test_compare_flows_is_the_tables_of_notebook_12(monkeypatch):
    called = []
    monkeypatch.setattr("helpers.flow_comparisons.compare_flows", lambda: called.append("12"))
    monkeypatch.setattr("helpers.comparisons.compare", called.append)
    assert main(["compare", "flows"]) == 0
    assert called == ["12"]
