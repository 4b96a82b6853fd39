"""Measures on cases whose answer is known."""

import math

import pytest
import torch
from torch import nn

from helpers import metrics
from helpers.checkpoints import load_checkpoint
from helpers.metrics import (
    accuracy_after_training_on,
    binarise,
    bounds_by_digit,
    draw_balanced,
    frechet_distance,
    kernel_distance,
    load_digit_judge,
    load_feature_judge,
    log_mean,
    log_weights,
    nearest_pictures,
    precision_recall_density_coverage,
    prompt_accuracy,
    wilson_interval,
)
from helpers.mnist import load_mnist, to_float
from helpers.models import ConvCVAE
from helpers.training import loss_terms


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(n, d, seed):
    """Draw n features of d numbers from the standard normal: float64."""
    return torch.randn(n, d, generator=seeded(seed), dtype=torch.float64)


# ---- what is drawn, and whether it is what was asked for ---------------------------------------


@pytest.fixture(scope="module")
def judge():
    return load_digit_judge()


class Copyist:
    """Draws real test pictures of the digit that its input names, or of the next one."""

    latent = 1

    def __init__(self, off_by=0):
        images, labels = load_mnist(train=False)
        self.pictures = [to_float(images[labels == d][:800]) for d in range(10)]
        self.off_by = off_by

    def draw(self, digits, z):
        chosen = [(d + self.off_by) % 10 for d in digits.tolist()]
        return torch.stack([self.pictures[d][k % 800] for k, d in enumerate(chosen)])


class Recorder:
    """Draws its input in the first pixel and its latents in the next three."""

    latent = 3

    def draw(self, inputs, z):
        pictures = torch.zeros(len(inputs), 784)
        pictures[:, :4] = torch.cat([inputs[:, None], z], 1)
        return pictures.view(-1, 1, 28, 28)


def test_every_digit_is_drawn_equally_often_from_its_own_inputs():
    digits = torch.arange(10).repeat_interleave(torch.arange(1, 11))  # 1 input for 0, 10 for 9
    pictures, rows = draw_balanced(Recorder(), torch.arange(55.0), digits, n=3000)
    assert pictures.shape == (3000, 1, 28, 28)
    assert torch.equal(digits[rows], torch.arange(10).repeat_interleave(300))
    assert torch.equal(pictures[:, 0, 0, 0], rows.float())
    assert rows.unique().tolist() == list(range(55))


def test_latents_come_from_the_prior_times_the_temperature():
    for temperature in (1.0, 0.5):
        pictures, _ = draw_balanced(
            Recorder(), torch.arange(10.0), torch.arange(10), temperature=temperature
        )
        z = pictures[:, 0, 0, 1:4]
        assert z.mean(0).abs().max() < 0.05
        assert torch.allclose(z.std(0), torch.full((3,), temperature), rtol=0.03)
        assert len(z.unique(dim=0)) == 10_000


def test_temperature_0_has_no_variety():
    args = Recorder(), torch.arange(10.0), torch.arange(10)
    pictures, _ = draw_balanced(*args, n=100, temperature=0)
    assert pictures.view(10, 10, -1).var(1).max() == 0


def test_the_same_seed_draws_the_same_pictures():
    args = Recorder(), torch.arange(40.0), torch.arange(10).repeat(4)
    (once, rows), (again, same), (other, _) = (draw_balanced(*args, 50, s) for s in (5, 5, 6))
    assert torch.equal(once, again) and torch.equal(rows, same)
    assert not torch.equal(once, other)


def test_prompt_accuracy_of_real_pictures_is_the_judges_own(judge):
    digits = torch.arange(10)
    accuracy, per_digit = prompt_accuracy(Copyist(), digits, digits, judge, n=1000)
    assert accuracy > 0.98 and per_digit.shape == (10,)
    assert accuracy == pytest.approx(per_digit.mean().item())


def test_prompt_accuracy_of_the_wrong_digit_is_nothing(judge):
    digits = torch.arange(10)
    assert prompt_accuracy(Copyist(off_by=1), digits, digits, judge, n=1000)[0] < 0.02


def test_prompt_accuracy_of_shuffled_captions_is_chance(judge):
    digits = torch.arange(10).repeat(100)
    shuffled = digits[torch.randperm(1000, generator=seeded(0))]
    assert 0.05 < prompt_accuracy(Copyist(), shuffled, digits, judge, n=1000)[0] < 0.15


def test_prompt_accuracy_counts_digit_by_digit(judge):
    """Asked for a 3, this one draws an 8: nine digits are right."""
    drawn = torch.tensor([0, 1, 2, 8, 4, 5, 6, 7, 8, 9])
    accuracy, per_digit = prompt_accuracy(Copyist(), drawn, torch.arange(10), judge, n=1000)
    assert per_digit[3] < 0.05 and per_digit[[0, 1, 2, 4, 5, 6, 7, 8, 9]].min() > 0.95
    assert accuracy == pytest.approx(0.9, abs=0.02)


PUBLISHED = {  # successes, trials: low, high; the last four from Newcombe (1998), table I
    (0, 10): (0.0, 0.2775), (5, 10): (0.2366, 0.7634), (10, 10): (0.7225, 1.0),
    (81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605),
    (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718),
}


@pytest.mark.parametrize("counts", PUBLISHED)
def test_wilson_intervals_are_the_published_ones(counts):
    successes, n = counts
    assert wilson_interval(successes / n, n) == pytest.approx(PUBLISHED[counts], abs=6e-5)


def test_an_interval_lies_within_0_and_1_and_around_the_share():
    for n in (1, 10, 30, 100, 10_000):
        for successes in (0, n // 3, n):
            low, high = wilson_interval(successes / n, n)
            assert 0 <= low and high <= 1 and low - 1e-12 <= successes / n <= high + 1e-12


def test_95_of_100_intervals_hold_the_truth():
    """Tosses of a coin that is known; the share of intervals which cover it."""
    n, truths = 200, torch.linspace(0.02, 0.98, 97).double()
    wins = torch.binomial(torch.full((3000, 97), float(n)).double(), truths.expand(3000, -1),
                          generator=seeded(0))
    limits = torch.tensor([wilson_interval(k / n, n) for k in range(n + 1)]).double()[wins.long()]
    covered = ((limits[..., 0] <= truths) & (truths <= limits[..., 1])).double().mean(0)
    assert 0.945 < covered.mean() < 0.958
    assert covered.min() > 0.91 and covered.max() < 0.985


# ---- the distance of Gaussians -----------------------------------------------------------------


def sample_with(mean, covariance, seed=0, n=400):
    """Draw features whose own mean and covariance are these, not only on average."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False)
    return torch.tensor(mean).double() + (torch.linalg.cholesky(covariance.double()) @ x).T


A = torch.tensor([[2.0, 1.2], [1.2, 1.0]])
B = torch.tensor([[1.0, -0.8], [-0.8, 3.0]])


def test_the_frechet_distance_of_a_set_to_itself_is_0():
    x = normal(300, 8, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x[torch.randperm(300)]) == pytest.approx(0, abs=1e-9)


def test_a_shift_costs_its_squared_length():
    x = normal(300, 3, 0)
    assert frechet_distance(x, x + torch.tensor([1.0, 2.0, -2.0])) == pytest.approx(9)
    assert frechet_distance(x, 3 * x) == pytest.approx(
        4 * (x.var(0).sum() + x.mean(0).square().sum()).item()
    )


def test_frechet_distance_of_diagonal_gaussians():
    """The closed form: squared gaps of the means and of the standard deviations."""
    s, t = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 2.0, 1.5])
    x, y = sample_with([0.0, 0, 0], s.square().diag()), sample_with([1.0, 0, 2], t.square().diag())
    assert frechet_distance(x, y) == pytest.approx(1 + 4 + 4 + 0 + 1)


def test_frechet_distance_of_correlated_gaussians():
    """In two dimensions trace(M^½) is (trace M + 2 (det M)^½)^½; these two do not commute."""
    x, y = sample_with([0.0, 1.0], A, 0), sample_with([2.0, 1.0], B, 1)
    product = A @ B
    assert not torch.allclose(product, product.T)
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    known = 4 + A.trace() + B.trace() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(known.item(), rel=1e-5)
    assert frechet_distance(y, x) == pytest.approx(known.item(), rel=1e-5)


def test_a_rotation_of_both_sets_changes_no_distance():
    x, y = normal(300, 6, 0) @ normal(6, 6, 1), 0.5 + normal(200, 6, 2) @ normal(6, 6, 3)
    turn = torch.linalg.qr(normal(6, 6, 4)).Q
    for measure in (frechet_distance, lambda a, b: kernel_distance(a, b, subsets=1, size=200)):
        rows = x[:200]
        assert measure(rows @ turn, y @ turn) == pytest.approx(measure(rows, y))
    turned = precision_recall_density_coverage(x @ turn, y @ turn)
    assert turned == pytest.approx(precision_recall_density_coverage(x, y))


def test_frechet_distance_to_one_point_repeated():
    """Nothing is left of the second covariance: the gap and the first one's trace remain."""
    x = sample_with([3.0, 4.0], A)
    for n in (2, 300):
        point = torch.full((n, 2), 0.1).double()
        known = 2.9**2 + 3.9**2 + A.trace().item()
        assert frechet_distance(x, point) == pytest.approx(known)
        assert frechet_distance(point, x) == pytest.approx(known)
    wide = 2 + 3 * normal(300, 96, 0)
    known = ((wide.mean(0) - wide[0]).square().sum() + wide.var(0).sum()).item()
    point = wide[:1].repeat(300, 1)
    assert frechet_distance(wide, point) == pytest.approx(known)
    assert frechet_distance(point, wide) == pytest.approx(known)


def test_fewer_features_than_numbers_in_each():
    """60 rows of 96 numbers have a covariance without full rank; the distance stays right."""
    x = normal(60, 96, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(x, x + 0.5) == pytest.approx(96 / 4, abs=1e-4)


# ---- the distance of kernels -------------------------------------------------------------------


def test_kernel_distance_by_hand():
    """Kernel (xy + 1)³ of {0, 1} and {0, 2}: 1 within, 1 within, (1 + 1 + 1 + 27) / 4 between."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    assert kernel_distance(x.double(), y.double(), subsets=3, size=2) == pytest.approx(2 - 15)


def test_kernel_distance_of_one_distribution_is_0_on_average():
    """With the diagonal left in, the mean of these would be about 0.6, not 0."""
    found = torch.tensor([
        kernel_distance(normal(25, 4, 2 * k), normal(25, 4, 2 * k + 1), subsets=1, size=25)
        for k in range(400)
    ])
    error = found.std() / 20
    assert error < 0.05 and found.mean().abs() < 3 * error
    assert (found < 0).any() and (found > 0).any()


def test_kernel_distance_of_shifted_gaussians():
    """On a line the kernel compares three moments: (Δm³)² + 3 (Δm²)² + 3 Δm²."""
    x, y, shift = normal(20_000, 1, 0), normal(20_000, 1, 1), 0.5
    known = (shift**3 + 3 * shift) ** 2 + 3 * shift**4 + 3 * shift**2
    found = kernel_distance(x, y + shift, subsets=20, size=1000)
    assert found == pytest.approx(known, rel=0.1)
    assert found == kernel_distance(x, y + shift, subsets=20, size=1000)
    assert found != kernel_distance(x, y + shift, subsets=20, size=1000, seed=1)


def test_too_few_rows_for_a_subset_are_refused():
    with pytest.raises(ValueError, match="30 rows do not fill a subset of 1000: "):
        kernel_distance(normal(30, 4, 0), normal(2000, 4, 1))
    with pytest.raises(ValueError, match="40 rows do not fill a subset of 50: "):
        kernel_distance(normal(90, 4, 0), normal(40, 4, 1), size=50)


# ---- both distances against another library's, on real features --------------------------------
# torchmetrics imports torchvision, which helpers may have to repair first: hence inside the tests.


class Describe(nn.Module):
    """What torchmetrics asks for: pictures in, features out, and how many."""

    num_features = 96

    def __init__(self):
        super().__init__()
        self.judge = load_feature_judge()

    def forward(self, pictures):
        return self.judge.describe(pictures)


@pytest.fixture(scope="module")
def two_sets():
    """Real test pictures, and others that are shifted and paler."""
    pictures = to_float(load_mnist(train=False)[0][:1000])
    return pictures[:600], 0.8 * pictures[600:].roll(1, dims=3)


def test_frechet_distance_agrees_with_torchmetrics(two_sets):
    from torchmetrics.image.fid import FrechetInceptionDistance  # noqa: PLC0415

    describe, (real, other) = Describe(), two_sets
    theirs = FrechetInceptionDistance(feature=describe)
    theirs.update(real, real=True)
    theirs.update(other, real=False)
    ours = frechet_distance(describe(real), describe(other))
    assert ours > 0.01 and ours == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_kernel_distance_agrees_with_torchmetrics(two_sets):
    from torchmetrics.image.kid import KernelInceptionDistance  # noqa: PLC0415

    describe, (real, other) = Describe(), two_sets
    with pytest.warns(UserWarning, match="save all extracted features"):
        theirs = KernelInceptionDistance(feature=describe, subsets=1, subset_size=400)
    theirs.update(real[:400], real=True)
    theirs.update(other, real=False)
    ours = kernel_distance(describe(real[:400]), describe(other), subsets=1, size=400)
    assert ours > 0 and ours == pytest.approx(theirs.compute()[0].item(), rel=1e-9)


# ---- neighbourhoods ----------------------------------------------------------------------------


def measured(real, drawn, k=5):
    """Precision, recall, density, coverage: a tuple."""
    found = precision_recall_density_coverage(real, drawn, k)
    assert list(found) == ["precision", "recall", "density", "coverage"]
    return tuple(found.values())


def test_neighbourhoods_by_hand():
    """Real 0, 1, 3 reach 1, 1, 2 far; drawn 0.9, 6, 7 reach 5.1, 1, 1: only 0.9 is among them."""
    real, drawn = torch.tensor([[0.0], [1], [3]]), torch.tensor([[0.9], [6], [7]])
    assert measured(real, drawn, k=1) == pytest.approx((1 / 3, 1, 2 / 3, 2 / 3))
    assert measured(drawn, real, k=1) == pytest.approx((1, 1 / 3, 1, 1 / 3))


def test_a_set_measured_against_itself():
    """The point itself comes on top of its k neighbours, so that density is (k + 1) / k."""
    x = normal(200, 5, 0)
    assert measured(x, x) == pytest.approx((1, 1, 1.2, 1))
    assert measured(x, x, k=2) == pytest.approx((1, 1, 1.5, 1))


def test_sets_far_apart_share_nothing():
    assert measured(normal(200, 5, 0), normal(300, 5, 1) + 100) == (0, 0, 0, 0)


@pytest.mark.parametrize("m", [300, 120])
def test_density_and_coverage_of_one_distribution(m):
    """Coverage: 1 less the chance that the k nearest of a point are all real (Naeem et al.)."""
    n, k = 300, 5
    covered = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    if n == m:
        assert covered == pytest.approx(1 - 2**-k, abs=1e-3)
    found = torch.tensor([measured(normal(n, 8, s), normal(m, 8, s + 99)) for s in range(60)])
    precision, recall, density, coverage = found.mean(0).tolist()
    error = 4 * found.std(0) / 60**0.5
    assert error.max() < 0.06 and precision > 0.9 and recall > 0.9
    assert density == pytest.approx(1, abs=error[2].item())
    assert coverage == pytest.approx(covered, abs=error[3].item())


def test_one_mode_of_ten_is_precise_and_covers_a_tenth():
    """Real points of ten kinds; drawn ones of the first kind only, ten times as many."""
    modes = 100 * torch.eye(10).double().repeat_interleave(100, 0)
    real = normal(1000, 10, 0) + modes
    drawn = normal(1000, 10, 1) + modes[0]
    precision, recall, density, coverage = measured(real, drawn)
    assert precision > 0.9 and 0.05 < recall <= 0.1
    assert density == pytest.approx(1, abs=0.2) and 0.09 < coverage <= 0.1


def test_one_point_repeated_is_precise_and_covers_next_to_nothing():
    real = normal(1000, 16, 0)
    precision, recall, density, coverage = measured(real, real[:1].repeat(500, 1))
    assert (precision, recall) == (1, 1 / 1000) and coverage < 0.05
    assert density == pytest.approx(coverage * 1000 / 5)  # every one is in the same few balls


def test_density_rewards_what_coverage_does_not():
    """One point in the middle lies in many neighbourhoods, and yet in few of them all."""
    real = normal(1000, 16, 0)
    precision, recall, density, coverage = measured(real, torch.zeros(9, 16).double())
    assert (precision, recall) == (1, 0) and density > 10 and coverage < 0.1


def test_an_outlier_deceives_precision_and_not_density():
    """One real point far away has a ball so wide that all which is drawn lies in it."""
    real = torch.cat([normal(500, 8, 0), torch.full((1, 8), 100.0).double()])
    drawn = 100 + 10 * normal(300, 8, 1)
    assert measured(real, drawn) == pytest.approx((1, 1 / 501, 1 / 5, 1 / 501))


# ---- what can be learned from the pictures, and whether they are copies ------------------------


@pytest.fixture(scope="module")
def exam():
    images, labels = load_mnist(train=False)
    return images[5000:5500], labels[5000:5500]


def test_real_pictures_teach_and_shuffled_or_repeated_ones_do_not(exam):
    images, labels = load_mnist(train=False)
    pictures, labels = to_float(images[:1500]), labels[:1500]
    shuffled = labels[torch.randperm(1500, generator=seeded(0))]
    one_of_each = pictures[torch.stack([(labels == d).nonzero()[0, 0] for d in labels])]
    whole = accuracy_after_training_on(pictures, labels, *exam, epochs=2)
    assert whole > 0.6
    assert 0.02 < accuracy_after_training_on(pictures, shuffled, *exam, epochs=1) < 0.25
    assert accuracy_after_training_on(one_of_each, labels, *exam, epochs=2) < whole - 0.15


def test_the_student_depends_on_the_seed_alone(exam):
    images, labels = load_mnist(train=False)
    pictures, labels = to_float(images[:512]), labels[:512]
    torch.manual_seed(99)
    once, again, other = (
        accuracy_after_training_on(pictures, labels, *exam, epochs=1, seed=s) for s in (0, 0, 1)
    )
    assert once == again != other


def test_the_student_is_new_and_meets_the_pictures_as_bytes(exam, judge, monkeypatch):
    images, labels = load_mnist(train=False)
    met = []

    def train(student, *given):
        met.extend(given)
        assert not torch.equal(student[0].weight, judge[0].weight)
        return judge

    monkeypatch.setattr(metrics, "train_classifier", train)
    found = accuracy_after_training_on(to_float(images[:500]) - 1e-3, labels[:500], *exam, epochs=4)
    assert torch.equal(met[0], images[:500]) and met[0].dtype == torch.uint8
    assert torch.equal(met[1], labels[:500]) and met[2] == 4
    assert found > 0.98


def test_planted_copies_are_found():
    """Copies are at distance 0, and one changed pixel away is as far as the pixel has changed."""
    real = to_float(load_mnist(train=False)[0][:2000])
    places = torch.randperm(2000, generator=seeded(0))[:300]
    drawn = real[places].clone()
    drawn[:5, 0, 0, 0] = torch.tensor([0.01, 0.1, 0.2, 0.5, 1.0])
    distances, rows = nearest_pictures(drawn, real)
    assert torch.equal(rows, places) and distances.dtype == torch.float32
    assert distances[:5].tolist() == pytest.approx([0.01, 0.1, 0.2, 0.5, 1.0], abs=1e-5)
    assert distances[5:].abs().max() < 1e-5


def test_nearest_pictures_are_the_nearest_in_any_batch():
    pictures = to_float(load_mnist(train=False)[0][:300])
    distances, rows = nearest_pictures(pictures[:50], pictures[50:], batch=7)
    each = (pictures[:50, None] - pictures[None, 50:]).flatten(2).norm(dim=2)  # 50×250
    assert torch.equal(rows, each.argmin(1))
    assert torch.allclose(distances, each.amin(1), atol=1e-4)
    assert torch.equal(rows, nearest_pictures(pictures[:50], pictures[50:])[1])


# ---- likelihood --------------------------------------------------------------------------------


def test_tossed_pixels_have_their_grey_level_as_mean():
    images = torch.tensor([0, 51, 128, 255], dtype=torch.uint8)[:, None, None].expand(4, 28, 28)
    tossed = torch.stack([binarise(images, seed) for seed in range(50)])
    assert tossed.shape == (50, 4, 1, 28, 28) and tossed.dtype == torch.float32
    assert set(tossed.unique().tolist()) == {0, 1}
    means = tossed.mean((0, 2, 3, 4))
    assert means[0] == 0 and means[3] == 1
    assert means.tolist() == pytest.approx([0, 0.2, 128 / 255, 1], abs=0.01)


def test_tosses_are_pinned_by_the_seed():
    images = load_mnist(train=False)[0][:20]
    torch.manual_seed(5)
    assert torch.equal(binarise(images), binarise(images, seed=0))
    assert not torch.equal(binarise(images), binarise(images, seed=1))


def test_log_mean_averages_probabilities():
    assert torch.equal(log_mean(torch.full((7, 2), -3.0)), torch.full((2,), -3.0))
    weights = torch.tensor([[1.0, 2.0], [3.0, 2.0]]).log()
    assert torch.allclose(log_mean(weights), torch.tensor([2.0, 2.0]).log())
    far = log_mean(torch.tensor([[-9000.0], [-9500.0]]))  # exp of these is 0 in float32
    assert far.item() == pytest.approx(-9000 - math.log(2))


def blind_model(logit, mean=0.0, log_variance=0.0):
    """Make a ConvCVAE whose decoder ignores z and whose posterior is the same for all."""
    model = ConvCVAE().eval()
    for weight, bias, value in (
        (model.up2.weight, model.up2.bias, torch.tensor([logit])),
        (model.posterior[-1].weight, model.posterior[-1].bias,
         torch.tensor([mean, log_variance]).repeat_interleave(20)),
    ):
        nn.init.zeros_(weight)
        bias.data.copy_(value)
    return model


@pytest.fixture(scope="module")
def tossed():
    return binarise(load_mnist(train=False)[0][:6])


def test_every_weight_is_the_likelihood_if_the_decoder_ignores_its_codes(tossed):
    """All pixels are ink with probability σ(-2), and the posterior is the prior."""
    ink = tossed.sum((1, 2, 3))
    known = ink * math.log(1 / (1 + math.exp(2))) + (784 - ink) * math.log(1 / (1 + math.exp(-2)))
    weights = log_weights(blind_model(-2.0), tossed, torch.randn(6, 384), 5, seeded(0))
    assert weights.shape == (5, 6) and weights.dtype == torch.float32
    assert torch.allclose(weights, known.expand(5, -1), atol=1e-2)


def test_a_wrong_posterior_costs_the_elbo_its_kl_and_the_average_nothing(tossed):
    pictures, inputs = tossed[:2], torch.zeros(2, 384)
    exact = log_weights(blind_model(-2.0), pictures, inputs, 1, seeded(0))[0]
    wrong = blind_model(-2.0, mean=0.15, log_variance=-0.2)
    weights = log_weights(wrong, pictures, inputs, 1000, seeded(1))
    kl = 20 * 0.5 * (0.15**2 + math.exp(-0.2) - 1 + 0.2)
    assert kl > 0.3 and torch.allclose(weights.mean(0), exact - kl, atol=0.1)
    assert torch.allclose(log_mean(weights), exact, atol=0.1)


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


def lit_pictures(lit):
    """Light the first 1 to 23 of the 24 pixels: (n,) → (n, 1, 28, 28)."""
    pictures = torch.zeros(len(lit), 784)
    pictures[:, :24] = (torch.arange(24) < lit[:, None]).float()
    return pictures.view(-1, 1, 28, 28)


def true_likelihood(lit, captions):
    """Integrate over the code on a grid, in double: nats (n,) under `OneCode`."""
    z = torch.linspace(-10, 10, 4001).double()
    logits = 1.5 * z + captions.double()
    ink = lit[:, None] * nn.functional.logsigmoid(logits)
    paper = (24 - lit[:, None]) * nn.functional.logsigmoid(-logits)
    prior = -(z**2 + math.log(2 * math.pi)) / 2
    return (ink + paper + prior).logsumexp(1) + math.log(20 / 4000)


def test_the_bound_tightens_with_more_codes_and_stops_at_the_true_likelihood():
    captions, lit = torch.linspace(-1.5, 1.5, 12)[:, None], torch.arange(1, 24, 2)
    true = true_likelihood(lit, captions)
    weights = log_weights(OneCode(), lit_pictures(lit), captions, 4096, seeded(0)).double()
    by_samples = [
        torch.stack([log_mean(part) for part in weights.split(k)]).mean(0) for k in (1, 4, 32, 4096)
    ]
    assert torch.allclose(by_samples[0], weights.mean(0))
    for looser, tighter in zip(by_samples, [*by_samples[1:], true + 0.05], strict=True):
        assert (looser < tighter).all()
    assert (true - by_samples[0]).min() > 0.05
    assert torch.allclose(by_samples[-1], true, atol=0.05)


def test_a_second_look_is_as_good_as_its_samples():
    captions, lit = torch.linspace(-1.5, 1.5, 10)[:, None], torch.tensor([9])
    bounds = bounds_by_digit(
        OneCode(), lit_pictures(lit)[0], captions, 4096, seeded(0), glance=1, margin=1000
    )
    assert torch.allclose(bounds.double(), true_likelihood(lit, captions), atol=0.05)


class OneGrey(OneCode):
    """Every pixel is ink with logit c, whatever the code; the posterior is the prior."""

    def __init__(self):
        self.decoded = []

    def encode(self, pictures, condition):
        return torch.zeros_like(condition), torch.zeros_like(condition)

    def decode(self, z, condition):
        self.decoded.append(len(z))
        return condition[:, :, None, None].expand(-1, 1, 28, 28)


def test_without_a_caption_the_likelihood_is_the_mean_over_ten(tossed):
    """Captions as different as -3 and 3: some are too unlikely for a second look, none is lost."""
    ink, captions, model = tossed[0].sum().double(), torch.linspace(-3, 3, 10)[:, None], OneGrey()
    c = captions[:, 0].double()
    known = ink * nn.functional.logsigmoid(c) + (784 - ink) * nn.functional.logsigmoid(-c)
    likely = (known > known.max() - 60).sum().item()
    assert 1 < likely < 10
    bounds = bounds_by_digit(model, tossed[0], captions, 40, seeded(0), glance=7, margin=60)
    assert torch.allclose(bounds.double(), known, atol=0.01)
    assert model.decoded == [70, 40 * likely]
    marginal = known.logsumexp(0).item() - math.log(10)
    assert log_mean(bounds).item() == pytest.approx(marginal, abs=0.01)


def test_the_mean_weight_is_the_elbo_that_training_reports(tossed):
    model, _ = load_checkpoint("mnist-cvae")
    inputs = model.head.centre + torch.randn(6, 384, generator=seeded(3)) / 20
    weights = log_weights(model.eval(), tossed, inputs, 200, seeded(0))
    with torch.no_grad():
        terms = [sum(loss_terms(model, tossed, inputs, seeded(s))) for s in range(200)]
    error = weights.mean(1).std() / 200**0.5
    assert weights.mean().item() == pytest.approx(-sum(terms).item() / 200, abs=8 * error.item())
    assert (log_mean(weights) > weights.mean(0)).all()


def test_the_same_generator_gives_the_same_weights(tossed):
    model, inputs, generator = ConvCVAE().eval(), torch.zeros(6, 384), seeded(0)
    once = log_weights(model, tossed, inputs, 3, generator)
    assert torch.equal(once, log_weights(model, tossed, inputs, 3, seeded(0)))
    assert not torch.equal(once, log_weights(model, tossed, inputs, 3, generator))
    assert not once.requires_grad
