"""Measures on cases whose answer is known, and against torchmetrics and scipy."""

import math
import re
import sys
import warnings
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import nn

from helpers import metrics
from helpers.captions import HELD_OUT_PHRASINGS
from helpers.metrics import (
    HELD_OUT_FRAMES,
    MIDDLES,
    accuracy_after_training_on,
    binarise,
    draw_balanced,
    frechet_distance,
    in_third,
    kernel_distance,
    load_judge,
    log_mean,
    log_weights,
    name_digits,
    nearest_pictures,
    precision_recall_density_coverage,
    prompt_accuracy,
    share_by,
    wilson_interval,
)
from helpers.mnist import load_mnist, to_float
from helpers.strokes import EDGES, level_of


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(n, d, seed):
    """Draw n features of d numbers from the standard normal: float64."""
    return torch.randn(n, d, generator=seeded(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def tested():
    """Real test pictures and their labels."""
    return load_mnist(train=False)


# What is drawn, and whether it is what was asked for


class Recorder:
    """Draws its input in the first pixel and its codes in the next three."""

    latent = 3

    def draw(self, inputs, z):
        columns = torch.cat([inputs[:, None].float(), z], 1)
        return F.pad(columns, (0, 780)).view(-1, 1, 28, 28)


class Answer(nn.Module):
    """A judge that answers by a function."""

    def __init__(self, forward):
        super().__init__()
        self.forward = forward


@pytest.fixture
def any_pictures(monkeypatch):
    monkeypatch.setattr(metrics, "check_pictures", lambda pictures: None)


read_digit = Answer(lambda pictures: F.one_hot(pictures[:, 0, 0, 0].long(), 10))


def test_every_digit_is_drawn_equally_often_from_its_own_inputs_and_codes():
    digits = torch.arange(10).repeat_interleave(torch.arange(1, 11))  # 1 input for 0, 10 for 9
    asked = Recorder(), torch.arange(55), digits
    for temperature in (1.0, 0.5):
        pictures, rows = draw_balanced(*asked, n=3000, temperature=temperature)
        assert torch.equal(digits[rows], torch.arange(10).repeat_interleave(300))
        assert torch.equal(pictures[:, 0, 0, 0], rows.float())
        assert rows.unique().tolist() == list(range(55))
        z = pictures[:, 0, 0, 1:4]
        assert z.mean(0).abs().max() < 0.06 and len(z.unique(dim=0)) == 3000
        assert torch.allclose(z.std(0), torch.full((3,), temperature), rtol=0.05)
    (once, _), (again, _), (other, _) = (draw_balanced(*asked, 50, seed) for seed in (5, 5, 6))
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_prompt_accuracy_counts_digit_by_digit(any_pictures):
    """Asked for a 3, this one draws an 8: nine digits are right; with shuffled captions, chance."""
    drawn = torch.tensor([0, 1, 2, 8, 4, 5, 6, 7, 8, 9])
    accuracy, per_digit = prompt_accuracy(Recorder(), drawn, torch.arange(10), read_digit, n=1000)
    assert per_digit.tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert accuracy == pytest.approx(0.9)
    digits = torch.arange(10).repeat(100)
    shuffled = digits[torch.randperm(1000, generator=seeded())]
    assert 0.05 < prompt_accuracy(Recorder(), shuffled, digits, read_digit, n=1000)[0] < 0.15


def test_wilson_intervals_are_those_of_scipy_and_within_0_and_1():
    for successes, n in ((0, 1), (0, 10), (5, 10), (10, 10), (81, 263), (15, 148), (9_884, 10_000)):
        low, high = wilson_interval(successes / n, n)
        theirs = binomtest(successes, n).proportion_ci(0.95, method="wilson")
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-5)
        assert 0 <= low <= successes / n + 1e-12 and successes / n - 1e-12 <= high <= 1


# The distance of Gaussians, and of kernels


def sample_with(mean, covariance, seed=0, n=400):
    """Draw features whose own mean and covariance are these, not only on average."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False)
    return torch.tensor(mean).double() + (torch.linalg.cholesky(covariance.double()) @ x).T


def test_frechet_distances_by_hand():
    """In two dimensions trace(M^½) is (trace M + 2 (det M)^½)^½; a and b do not commute."""
    a, b = torch.tensor([[2.0, 1.2], [1.2, 1.0]]), torch.tensor([[1.0, -0.8], [-0.8, 3.0]])
    x, few = normal(300, 3, 0), normal(60, 96, 0)  # the covariance of few has not full rank
    s, t = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 2.0, 1.5])
    root = ((a @ b).trace() + 2 * torch.linalg.det(a @ b).sqrt()).sqrt()
    cases = {
        "itself": (x, x[torch.randperm(300)], 0),
        "a shift": (x, x + torch.tensor([1.0, 2.0, -2.0]), 9),
        "diagonal": (sample_with([0.0, 0, 0], s.diag() ** 2),
                     sample_with([1.0, 0, 2], t.diag() ** 2), 1 + 4 + 4 + 0 + 1),
        "correlated": (sample_with([0.0, 1.0], a, 0), sample_with([2.0, 1.0], b, 1),
                       (4 + a.trace() + b.trace() - 2 * root).item()),
        "a point": (sample_with([3.0, 4.0], a), torch.full((2, 2), 0.1).double(),
                    2.9**2 + 3.9**2 + a.trace().item()),
        "few rows": (few, few + 0.5, 96 / 4),
    }
    failures = [
        name for name, (real, drawn, known) in cases.items()
        for found in (frechet_distance(real, drawn), frechet_distance(drawn, real))
        if found != pytest.approx(known, rel=1e-5, abs=1e-4)
    ]
    assert not failures


def test_kernel_distances_by_hand_and_on_average():
    """Kernel (xy + 1)³ of {0, 1} and {0, 2}: 1 within, 1 within, (1 + 1 + 1 + 27) / 4 between.

    On a line it compares three moments: (Δm³)² + 3 (Δm²)² + 3 Δm². Of one distribution it is 0 on
    average; with the diagonal left in, that would be about 0.6.
    """
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    assert kernel_distance(x.double(), y.double(), subsets=3, size=2) == pytest.approx(2 - 15)
    same = torch.tensor([
        kernel_distance(normal(25, 4, 2 * k), normal(25, 4, 2 * k + 1), subsets=1, size=25)
        for k in range(200)
    ])
    assert same.mean().abs() < 3 * same.std() / 200**0.5 < 0.25 and (same < 0).any()
    x, y, shift = normal(8000, 1, 0), normal(8000, 1, 1), 0.5
    known = (shift**3 + 3 * shift) ** 2 + 3 * shift**4 + 3 * shift**2
    found = [kernel_distance(x, y + shift, subsets=20, size=1000, seed=s) for s in (0, 0, 1)]
    assert found[0] == pytest.approx(known, rel=0.1) and found[0] == found[1] != found[2]


def test_what_cannot_be_measured_is_refused():
    """Sizes, shapes and numbers, at the doors of every measure."""
    few, rows, spoilt = normal(1, 4, 0), normal(30, 4, 0), normal(30, 4, 0) / 0
    judge = load_judge("digits")
    for measure, words in (
        *((lambda n=n: draw_balanced(Recorder(), torch.arange(10), torch.arange(10), n),
           "a multiple of 10") for n in (5, 0, 15, -10)),
        (lambda: frechet_distance(few, rows), "1 and 30 rows are too few: give at least 2"),
        (lambda: frechet_distance(rows, rows[:, :3]), "(n, d) and (m, d), not (30, 4), (30, 3)"),
        (lambda: frechet_distance(spoilt, rows), "Features are not finite"),
        (lambda: kernel_distance(rows, rows, size=50), "30 and 30 rows are too few: give at le"),
        (lambda: precision_recall_density_coverage(rows, rows, k=30), "give at least 31"),
        (lambda: wilson_interval(0.5, 0), "of at least one trial"),
        (lambda: wilson_interval(1.2, 9), "A share is from 0 to 1"),
        (lambda: name_digits(judge, torch.rand(2, 1, 28, 28) * 255), "values from 0 (paper) to 1"),
        (lambda: name_digits(judge, torch.zeros(0, 1, 28, 28)), "There are no pictures"),
        (lambda: name_digits(judge, torch.rand(2, 28, 28)), "floats (n, 1, h, w), not torch.fl"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            measure()
    assert 0 <= frechet_distance(rows[:5], rows[:5]) < 1e-9


def test_both_distances_agree_with_torchmetrics(tested, monkeypatch):
    """On real test pictures, and others that are shifted and paler."""
    for name in ("torchvision", "torchvision.models", "torchvision.transforms"):
        monkeypatch.setitem(sys.modules, name, MagicMock(__spec__=MagicMock()))  # it may not load
    from torchmetrics.image.fid import FrechetInceptionDistance  # noqa: PLC0415
    from torchmetrics.image.kid import KernelInceptionDistance  # noqa: PLC0415

    class Describe(nn.Module):
        num_features = 96

        def forward(self, pictures):
            return load_judge("features").describe(pictures)

    pictures, describe = to_float(tested[0][:700]), Describe()
    real, other = pictures[:400], 0.8 * pictures[300:].roll(1, dims=3)
    fid = FrechetInceptionDistance(feature=describe)
    with warnings.catch_warnings(action="ignore"):  # it keeps all features in memory
        kid = KernelInceptionDistance(feature=describe, subsets=1, subset_size=400)
    for theirs in (fid, kid):
        theirs.update(real, real=True)
        theirs.update(other, real=False)
    ours = frechet_distance(describe(real), describe(other))
    assert ours > 0.01 and ours == pytest.approx(fid.compute().item(), rel=1e-6)
    ours = kernel_distance(describe(real), describe(other), subsets=1, size=400)
    assert ours > 0 and ours == pytest.approx(kid.compute()[0].item(), rel=1e-9)


# Neighbourhoods


def measured(real, drawn, k=5):
    """Precision, recall, density, coverage: a tuple."""
    found = precision_recall_density_coverage(real, drawn, k)
    assert list(found) == ["precision", "recall", "density", "coverage"]
    return tuple(found.values())


def test_neighbourhoods_by_hand():
    """Real 0, 1, 3 reach 1, 1, 2 far; drawn 0.9, 6, 7 reach 5.1, 1, 1: only 0.9 is among them."""
    real, drawn = torch.tensor([[0.0], [1], [3]]), torch.tensor([[0.9], [6], [7]])
    x = normal(200, 5, 0)
    outlier = torch.cat([normal(500, 8, 0), torch.full((1, 8), 100.0).double()])
    cases = {
        "on a line": ((real, drawn, 1), (1 / 3, 1, 2 / 3, 2 / 3)),
        "the other way": ((drawn, real, 1), (1, 1 / 3, 1, 1 / 3)),
        "itself, the point on top of k": ((x, x), (1, 1, 1.2, 1)),
        "far apart": ((x, normal(300, 5, 1) + 100), (0, 0, 0, 0)),
        "an outlier": ((outlier, 100 + 10 * normal(300, 8, 1)), (1, 1 / 501, 1 / 5, 1 / 501)),
    }
    found = {name: measured(*given) for name, (given, _) in cases.items()}
    assert not [name for name, (_, known) in cases.items() if found[name] != pytest.approx(known)]


def test_density_and_coverage_of_one_distribution_are_as_in_theory():
    """Coverage: 1 less the chance that the k nearest of a point are all real (Naeem et al.)."""
    n, m, k = 300, 120, 5
    covered = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    found = torch.tensor([measured(normal(n, 8, s), normal(m, 8, s + 99)) for s in range(40)])
    error = (4 * found.std(0) / 40**0.5).tolist()
    assert max(error) < 0.08 and found.mean(0)[:2].min() > 0.85
    assert found.mean(0)[2].item() == pytest.approx(1, abs=error[2])
    assert found.mean(0)[3].item() == pytest.approx(covered, abs=error[3])


# What can be learned from the pictures, and whether they are copies


def test_real_pictures_teach_and_shuffled_ones_do_not(tested):
    images, labels = tested
    exam, pictures = (images[5000:5500], labels[5000:5500]), to_float(images[:1000])
    shuffled = labels[:1000][torch.randperm(1000, generator=seeded())]
    torch.manual_seed(99)
    once, again, other = (
        accuracy_after_training_on(pictures, labels[:1000], *exam, epochs=2, seed=s)
        for s in (0, 0, 1)
    )
    assert once > 0.5 and once == again != other, "it depends on its seed alone"
    assert 0.02 < accuracy_after_training_on(pictures, shuffled, *exam, epochs=1) < 0.25


def test_planted_copies_are_found_and_the_nearest_in_any_batch(tested):
    """Copies are at distance 0, and one changed pixel away is as far as the pixel has changed."""
    real = to_float(tested[0][:500])
    places = torch.randperm(500, generator=seeded())[:100]
    drawn = real[places].clone()
    drawn[:4, 0, 0, 0] = torch.tensor([0.01, 0.1, 0.5, 1.0])
    distances, rows = nearest_pictures(drawn, real, batch=7)
    assert torch.equal(rows, places) and distances[4:].abs().max() < 1e-5
    assert distances[:4].tolist() == pytest.approx([0.01, 0.1, 0.5, 1.0], abs=1e-5)
    distances, rows = nearest_pictures(real[:50], real[50:], batch=7)
    each = (real[:50, None] - real[None, 50:]).flatten(2).norm(dim=2)  # 50×450
    assert torch.equal(rows, each.argmin(1)) and torch.allclose(distances, each.amin(1), atol=1e-4)


# Likelihood


def test_tossed_pixels_have_their_grey_level_as_mean():
    images = torch.tensor([0, 51, 128, 255], dtype=torch.uint8)[:, None, None].expand(4, 28, 28)
    tossed = torch.stack([binarise(images, seed) for seed in range(50)])
    assert tossed.shape == (50, 4, 1, 28, 28) and set(tossed.unique().tolist()) == {0, 1}
    means = tossed.mean((0, 2, 3, 4)).tolist()
    assert means[0] == 0 and means[3] == 1 and means[1:3] == pytest.approx([0.2, 0.502], abs=0.01)
    assert torch.equal(binarise(images), tossed[0]) and not torch.equal(*tossed[:2])


def test_log_mean_averages_probabilities():
    weights = torch.tensor([[1.0, 2.0], [3.0, 2.0]]).log()
    assert torch.allclose(log_mean(weights), torch.tensor([2.0, 2.0]).log())
    far = log_mean(torch.tensor([[-9000.0], [-9500.0]]))  # exp of these is 0 in float32
    assert far.item() == pytest.approx(-9000 - math.log(2))


class OneCode:
    """A code z on a line lights 24 pixels with logit 1.5 z + c; the posterior is only so good."""

    def head(self, inputs):
        return inputs

    def encode(self, pictures, condition):
        lit = pictures.flatten(1)[:, :24].mean(1, keepdim=True)
        return 2 * (lit - 0.5) - 0.3 * condition, torch.full_like(lit, -1.2)

    def decode(self, z, condition):
        logits = torch.full((len(z), 784), -30.0)
        logits[:, :24] = 1.5 * z + condition
        return logits.view(-1, 1, 28, 28)


def test_the_bound_tightens_with_more_codes_and_stops_at_the_true_likelihood():
    """The truth is integrated over the code on a grid, in double."""
    captions, lit = torch.linspace(-1.5, 1.5, 12)[:, None], torch.arange(1, 24, 2)[:, None]
    z = torch.linspace(-10, 10, 4001).double()
    logits = 1.5 * z + captions.double()
    likelihood = lit * F.logsigmoid(logits) + (24 - lit) * F.logsigmoid(-logits)
    prior = -(z**2 + math.log(2 * math.pi)) / 2
    true = (likelihood + prior).logsumexp(1) + math.log(20 / 4000)
    pictures = F.pad((torch.arange(24) < lit).float(), (0, 760)).view(-1, 1, 28, 28)
    weights = log_weights(OneCode(), pictures, captions, 4096, seeded()).double()
    by_samples = [
        torch.stack([log_mean(part) for part in weights.split(k)]).mean(0) for k in (1, 4, 32, 4096)
    ]
    for looser, tighter in zip(by_samples, [*by_samples[1:], true + 0.05], strict=True):
        assert (looser < tighter).all()
    assert torch.allclose(by_samples[-1], true, atol=0.05)


# Shapes, and style


def test_variety_is_the_variance_of_what_is_drawn_over_that_of_the_program():
    """Half as black: half the deviation, a quarter of the variance; always the same one: none."""
    class Program:
        latent = 1

        def __init__(self, ink, collapsed=False):
            self.ink, self.collapsed, self.next = ink, collapsed, iter(metrics.PROMPTS)

        def draw(self, tokens, z):
            drawn = metrics.draw_shapes(next(self.next), len(tokens), seed=77)[:, None] * self.ink
            return drawn[:1].expand_as(drawn) if self.collapsed else drawn

    first = Answer(lambda pictures: torch.eye(9)[:1].expand(len(pictures), -1))
    for program, low, high in ((Program(1), 0.85, 1.15), (Program(0.5), 0.21, 0.29),
                               (Program(1, collapsed=True), 0, 1e-6)):
        accuracies, ratios = metrics.shape_accuracy_and_variety(program, first, n=400)
        assert accuracies.tolist() == [1] + 8 * [0] and low <= ratios.min() <= ratios.max() <= high


def test_thirds_middles_and_shares_by_hand():
    ranks = torch.tensor([0.0, 0.333, 0.334, 0.666, 0.667, 1.0])
    for level, known in ((-2, (0, 1)), (0, (2, 3)), (1, (4, 5))):
        inside = in_third(ranks, torch.full((6,), level)).nonzero()[:, 0]
        assert tuple(inside.tolist()) == known
    ends = torch.tensor([0, *EDGES, 1])
    assert pytest.approx(MIDDLES) == ((ends[1:] + ends[:-1]) / 2).tolist()
    assert level_of(torch.tensor(MIDDLES)).tolist() == [-2, -1, 0, 1, 2]
    hits = torch.tensor([True, False, True, True, False])
    found = share_by(["b", "a", "b", "a", "c"], hits)
    assert [*found.items()] == [("b", 1.0), ("a", 0.5), ("c", 0.0)]
    assert share_by(["x"] * 3, hits[:3]) == {"x": 0.6667}
    assert len(HELD_OUT_FRAMES) >= 15 and set(HELD_OUT_FRAMES) < set(HELD_OUT_PHRASINGS)
    assert not set(" ".join(HELD_OUT_FRAMES).split()) & {"thick", "thin", "tiny", "big", "left"}


def test_every_picture_has_a_code_of_its_own(monkeypatch):
    """The codes of 1,500 pictures come in two batches."""
    class Lengths:
        def encode(self, prompts):
            return torch.tensor([float(len(prompt)) for prompt in prompts])

    monkeypatch.setattr(metrics, "sentence_encoder", Lengths)
    drawn, again, other = (
        metrics.draw_prompts(Recorder(), ["a", "two", "seven"], 500, seed=s) for s in (2, 2, 3)
    )
    assert torch.equal(drawn[:, 0, 0, 0], torch.tensor([1.0, 3, 5]).repeat_interleave(500))
    assert len(drawn[:, 0, 0, 1:4].unique(dim=0)) == 1500
    assert torch.equal(drawn, again) and not torch.equal(drawn, other)
