"""The latent flow of notebook 12: its layers, its transport, how autoencoder and flow are trained.

Known answers: a flow to a Gaussian, whose exact velocity can be written down.
"""

import math

import pytest
import torch
from torch import distributions as D

from helpers import flow_training
from helpers.flow_training import (
    collect_codes,
    flow_loss,
    gaussian_terms,
    match_features,
    standardise,
    train_autoencoder,
    train_flow,
    train_velocity,
    write_conditions,
)
from helpers.mnist import load_mnist, to_float
from helpers.models import (
    Autoencoder,
    FilmBlock,
    FlowBlock,
    LatentFlow,
    Proofreader,
    StyleHead,
    Velocity,
    guide,
    kl_divergence,
    time_waves,
    transport,
)
from helpers.styles import UNSAID

MEAN, WIDTH = 1.5, 0.3  # of the codes of a toy world


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(kind, **options):
    torch.manual_seed(0)
    return kind(**options)


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


def to_gaussian(x, t, condition):
    """The velocity of the flow from N(0, I) to N(MEAN, WIDTH² I), exactly."""
    t = t[:, None]
    variance = (1 - t) ** 2 + (t * WIDTH) ** 2
    return MEAN + (t * WIDTH**2 - (1 - t)) / variance * (x - t * MEAN)


def towards(x, t, condition):
    """A velocity that depends on all three: x, the time, and the condition's first number."""
    return x * t[:, None] + condition[:, :1]


@pytest.fixture(scope="module", name="images")
def fixture_images():
    """Five hundred real pictures, uint8."""
    return load_mnist(train=False)[0][:500]


# layers


def test_time_waves_tell_times_apart():
    t = torch.linspace(0, 1, 101)
    waves = time_waves(t)
    assert waves.shape == (101, 32) and time_waves(t, 5).shape == (101, 10)
    assert waves[0].tolist() == [0.0] * 16 + [1.0] * 16
    assert torch.allclose(waves[:, 0], (t * math.pi / 2).sin(), atol=1e-6), "a quarter of a turn"
    assert torch.allclose(waves[:, 31], (t * 50 * math.pi).cos(), atol=1e-3), "25 turns"
    assert torch.pdist(waves).min() > 0.1


def test_a_flow_block_adds_what_it_is_told():
    block, x = build(FlowBlock, width=8), torch.randn(5, 8, generator=seeded())
    known = torch.randn(2, 8, generator=seeded(1))
    one, other = block(x, known[:1].expand(5, 8)), block(x, known[1:].expand(5, 8))
    assert one.shape == (5, 8) and not torch.allclose(one, other)
    for parameter in block.net[-1].parameters():
        parameter.data.zero_()
    assert torch.equal(block(x, known[:1].expand(5, 8)), x), "what is added is all that changes"


def test_a_velocity_looks_at_point_time_and_condition():
    net = build(Velocity, latent=6, width=16, blocks=2)
    x, t, c = (torch.rand(3, n, generator=seeded(n)) for n in (6, 1, 34))
    found = net(x, t[:, 0], c)
    assert found.shape == (3, 6)
    for changed in ((x + 1, t, c), (x, t / 2, c), (x, t, 0 * c)):
        assert not torch.allclose(net(changed[0], changed[1][:, 0], changed[2]), found)
    alone = torch.cat([net(x[[k]], t[k], c[[k]]) for k in range(3)])
    assert torch.allclose(found, alone, atol=1e-5), "each row by itself"


def test_a_film_block_changes_nothing_at_first():
    block = build(FilmBlock, channels=4, code=8)
    maps, code = torch.randn(3, 4, 7, 7, generator=seeded()), torch.randn(3, 8, generator=seeded())
    assert torch.equal(block(maps, code), maps)
    block.second.weight.data.normal_(generator=seeded())
    assert block(maps, code).shape == maps.shape and not torch.equal(block(maps, code), maps)
    assert not torch.allclose(block(maps, code), block(maps, -code)), "the code modulates"


def test_shapes_of_the_autoencoder():
    for latent in (24, 5):
        model = build(Autoencoder, latent=latent)
        mean, log_variance = model.encode(torch.rand(3, 1, 28, 28, generator=seeded()))
        assert mean.shape == log_variance.shape == (3, latent)
        painted = model.decode(mean)
        assert painted.shape == (3, 1, 28, 28)
        model.ink.bias.data.fill_(-3)
        assert model.decode(mean).max() < 0, "it may leave [0, 1]"


def test_a_latent_flow_is_made_of_its_parts():
    model = build(LatentFlow, latent=5).eval()
    model.centre.fill_(2.0)
    model.scale.copy_(torch.arange(1.0, 6))
    z, x = torch.randn(3, 5, generator=seeded()), torch.randn(3, 384, generator=seeded())
    with torch.no_grad():
        condition = model.head(x)
        codes = model.place(z, condition, 2.0, 3)
        carried = transport(model.velocity, z, condition, 2.0, 3)
        painted = model.paint(z, condition, 2.0, 3)
        assert torch.allclose(codes, 2 + torch.arange(1.0, 6) * carried)
        assert torch.allclose(painted, model.autoencoder.decode(codes).clamp(0, 1))
        assert torch.equal(model.draw(x, z, 2.0, 3), painted)
        usual = model.paint(z, condition, LatentFlow.guidance, LatentFlow.steps)
        assert torch.equal(model.draw(x, z), usual) and painted.shape == (3, 1, 28, 28)
        model.autoencoder.ink.bias.data.fill_(9.0)
        assert (model.draw(x, z) == 1).all(), "ink ends at 1"
    assert {"centre", "scale"} <= set(model.state_dict()), "saved with the weights"


# guide, transport


def test_guidance_follows_its_formula():
    x, t, c = (torch.rand(4, n, generator=seeded(n)) for n in (2, 1, 34))
    t = t[:, 0]
    told, untold = towards(x, t, c), towards(x, t, 0 * c)
    for guidance in (0, 0.5, 1, 1.0, 3.0):
        expected = untold + guidance * (told - untold)
        assert torch.allclose(guide(towards, x, t, c, guidance), expected, atol=1e-6), guidance
    assert torch.equal(guide(towards, x, t, c, 0), untold)
    low, middle, high = (guide(towards, x, t, c, g) for g in (1.0, 2.0, 3.0))
    assert torch.allclose(high - middle, middle - low, atol=1e-5), "linear"


def test_a_guidance_of_one_looks_once():
    rows = []

    def velocity(x, t, condition):
        assert len(x) == len(t) == len(condition)
        rows.append(len(x))
        return x

    for guidance in (1, 1.0, 0, 2.0):
        guide(velocity, torch.zeros(3, 2), torch.zeros(3), torch.ones(3, 34), guidance)
    assert rows == [3, 3, 6, 6]


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_a_constant_velocity_moves_by_itself(steps):
    push, x = torch.tensor([[2.0, -1.0]]), torch.randn(5, 2, generator=seeded())

    def constant(x, t, condition):
        return push.expand(len(x), 2)

    for guidance in (1.0, 1.5):
        moved = transport(constant, x, torch.ones(5, 34), guidance, steps)
        assert torch.allclose(moved, x + push, atol=1e-5)


def test_transport_goes_from_time_0_towards_1():
    seen = []

    def velocity(x, t, condition):
        assert t.shape == (3,) and (t == t[0]).all()
        seen.append(t[0].item())
        return torch.ones_like(x)

    transport(velocity, torch.zeros(3, 2), torch.zeros(3, 34), 1.0, 4)
    assert seen == [0, 0.25, 0.5, 0.75]


def test_transport_exaggerates_by_its_guidance():
    x, c = torch.zeros(1, 2), torch.ones(1, 34)
    moved = [transport(lambda x, t, c: c[:, :2], x, c, g, 5)[0, 0].item() for g in (0, 1, 2.5)]
    assert moved == pytest.approx([0, 1, 2.5])


def test_transport_along_the_exact_velocity_ends_at_the_gaussian():
    """Every point has its own place: x ends at MEAN + WIDTH · x."""
    x = torch.randn(2000, 3, generator=seeded())
    wrong = []
    for steps in (5, 20, 100, 400):
        moved = transport(to_gaussian, x, torch.zeros(2000, 34), 1.0, steps)
        wrong.append((moved - MEAN - WIDTH * x).square().mean().sqrt().item())
    assert wrong == sorted(wrong, reverse=True) and wrong[-1] < 0.01, wrong
    assert moved.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert moved.std().item() == pytest.approx(WIDTH, abs=0.01)


# the autoencoder's losses


def test_gaussian_terms_are_a_likelihood_at_the_best_width():
    painted, pictures = (torch.rand(6, 1, 28, 28, generator=seeded(k)) for k in range(2))
    mean, log_variance = (torch.randn(6, 4, generator=seeded(k)) for k in (2, 3))
    reconstruction, kl = gaussian_terms(painted, pictures, mean, log_variance)

    def nats(width):
        return -D.Normal(painted, width).log_prob(pictures).sum((1, 2, 3)).mean().item()

    best = (painted - pictures).square().mean().sqrt().item()
    assert reconstruction.shape == kl.shape == ()
    assert reconstruction.item() == pytest.approx(nats(best), rel=1e-5)
    assert all(nats(best * factor) > nats(best) for factor in (0.9, 1.1))
    assert kl.item() == pytest.approx(kl_divergence(mean, log_variance).sum().item() / 6, rel=1e-5)


def test_the_better_the_pictures_the_more_an_error_counts():
    nothing = torch.zeros(2, 1, 28, 28)
    codes = torch.zeros(2, 4)
    terms = [gaussian_terms(nothing + e, nothing, codes, codes)[0].item() for e in (0.4, 0.2, 0.1)]
    for gain in (terms[0] - terms[1], terms[1] - terms[2]):
        assert gain == pytest.approx(784 * math.log(2), rel=1e-4), "half the error, the same gain"


def test_match_features_compares_what_a_network_sees():
    network = build(Proofreader).requires_grad_(False)
    painted, pictures = (torch.rand(3, 1, 28, 28, generator=seeded(k)) for k in range(2))
    assert match_features(pictures, pictures, network) == 0
    assert match_features(painted, pictures, network) > 0
    halfway = (painted + pictures) / 2
    assert match_features(halfway, pictures, network) < match_features(painted, pictures, network)
    convolution, activation, *deeper = network
    seen = []
    for x in (painted, pictures):
        first = activation(convolution(x))
        seen.append((first, deeper[1](deeper[0](first))))
    expected = sum(
        ((a - b).square().sum() / b.square().sum()).item() for a, b in zip(*seen, strict=True)
    )
    found = match_features(painted, pictures, network)
    assert found.shape == () and found.item() == pytest.approx(expected, rel=1e-4)


def test_match_features_teaches_what_is_painted():
    network = build(Proofreader).requires_grad_(False)
    painted = torch.rand(3, 1, 28, 28, generator=seeded()).requires_grad_()
    match_features(painted, torch.rand(3, 1, 28, 28, generator=seeded(1)), network).backward()
    assert painted.grad.isfinite().all() and painted.grad.flatten(1).any(1).all()
    assert all(p.grad is None for p in network.parameters())


# training the autoencoder


def test_the_autoencoder_learns_to_paint_and_freezes(images):
    model, pictures = build(Autoencoder), to_float(images)

    def wrong():
        with torch.no_grad():
            return (model.decode(model.encode(pictures)[0]) - pictures).square().mean().item()

    before = wrong()
    losses = train_autoencoder(model, images, steps=60)
    assert len(losses) == 60 and losses[-1] < losses[0] - 100
    assert wrong() < 0.7 * before and wrong() < 0.9 * pictures.var(0).mean(), "more than the mean"
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_same_seed_same_autoencoder(images):
    models = []
    for seed in (0, 0, 1):
        models.append(build(Autoencoder))
        torch.manual_seed(seed + 7)  # the global state has no part in it
        train_autoencoder(models[-1], images, steps=3, batch=16, seed=seed)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_the_kl_is_warmed_up_and_a_penalty_joins(images):
    def terms(painted, pictures, mean, log_variance):
        assert painted.shape == pictures.shape == (2, 1, 28, 28) and mean.shape == (2, 24)
        assert 0 <= pictures.min() and pictures.max() <= 1
        return 0 * painted.sum() + 5, torch.tensor(10.0)

    losses = train_autoencoder(build(Autoencoder), images, terms, steps=20, batch=2)
    rise = [5 + 10 * min(1, k / 4) for k in range(20)]
    assert losses == pytest.approx(rise)
    losses = train_autoencoder(
        build(Autoencoder), images, terms, lambda *_: torch.tensor(3.0), steps=20, batch=2
    )
    assert losses == pytest.approx([loss + 3 for loss in rise])


def test_an_autoencoder_that_diverges_stops(images):
    with pytest.raises(FloatingPointError, match=r"^The loss is nan at step 0: lower .*\.$"):
        train_autoencoder(
            build(Autoencoder), images, lambda *_: (torch.tensor(math.nan), 0.0), steps=5, batch=2
        )


# codes and conditions


def test_codes_are_collected_in_order():
    class Corner:
        """The first pixel is the mean, the second the log variance."""

        weight = torch.ones(1, requires_grad=True)

        def encode(self, pictures):
            return (self.weight * pictures[:, 0, 0, :2]).chunk(2, dim=1)

    images = torch.randint(256, (1003, 28, 28), generator=seeded(), dtype=torch.uint8)
    means, deviations = collect_codes(Corner(), images)
    assert means.shape == deviations.shape == (1003, 1) and not means.requires_grad
    assert torch.allclose(means[:, 0], images[:, 0, 0] / 255)
    assert torch.allclose(deviations[:, 0].square().log(), images[:, 0, 1] / 255, atol=1e-5)


def test_standardise_measures_codes_that_were_drawn():
    spread = torch.tensor([0.5, 2.0, 0.0])
    means = torch.tensor([1.0, -3.0, 4.0]) + spread * torch.randn(20_000, 3, generator=seeded())
    deviations = torch.rand(20_000, 3, generator=seeded(1)) + 0.1
    codes = means + deviations * torch.randn(20_000, 3, generator=seeded(2))
    centre, scale = standardise(means, deviations)
    assert torch.allclose(centre, codes.mean(0), atol=0.03)
    assert torch.allclose(scale, codes.std(0), rtol=0.02)


def test_conditions_are_written_as_a_head_writes_them():
    digits = torch.arange(12) % 10
    said = torch.randint(6, (12, 4), generator=seeded()) - 2
    said[0], said[1] = UNSAID, torch.tensor([-2, -1, 0, 2])
    conditions, head = write_conditions(digits, said), StyleHead()
    assert conditions.shape == (12, 34) and conditions.dtype == torch.float32
    assert (head.digit(conditions).argmax(1) == digits).all()
    assert (head.levels(conditions).argmax(2) - 2 == said).all()
    assert set(conditions.unique().tolist()) == {0, 1} and (conditions.sum(1) == 5).all()
    assert conditions[0].nonzero()[:, 0].tolist() == [0, 15, 21, 27, 33], "unsaid comes last"
    assert conditions[1].nonzero()[:, 0].tolist() == [1, 10, 17, 24, 32]


# the flow's loss


def draw_codes(n, latent=2):
    return MEAN + WIDTH * torch.randn(n, latent, generator=seeded(9))


def test_the_exact_velocity_has_the_least_loss():
    """What remains is how far lines through one point differ; a shift adds its square."""
    t = torch.randn(200_000, generator=seeded(5)).sigmoid()
    together = t * WIDTH**2 - (1 - t)  # covariance of a point with its line
    least = 1 + WIDTH**2 - together**2 / ((1 - t) ** 2 + (t * WIDTH) ** 2)
    codes, nothing = draw_codes(50_000), torch.zeros(50_000, 34)
    exact = flow_loss(to_gaussian, codes, nothing, seeded()).item()
    assert exact == pytest.approx(least.mean().item(), rel=0.03)
    for shift in (-0.5, 0.5):
        off = flow_loss(lambda *a, s=shift: to_gaussian(*a) + s, codes, nothing, seeded()).item()
        assert off == pytest.approx(exact + shift**2, abs=0.02)


def watch(codes, conditions, drop):
    """What a velocity is shown in one `flow_loss`: points, times and conditions."""
    shown = []

    def velocity(*inputs):
        shown.extend(inputs)
        return torch.zeros_like(codes)

    flow_loss(velocity, codes, conditions, seeded(), drop)
    return shown


def test_conditions_are_dropped_whole():
    codes, conditions = draw_codes(5000), torch.rand(5000, 34, generator=seeded(1)) + 0.1
    assert not watch(codes, conditions, 1)[2].any()
    assert torch.equal(watch(codes, conditions, 0)[2], conditions)
    shown = watch(codes, conditions, 0.1)[2]
    hidden = (shown == 0).all(1)
    assert hidden.float().mean().item() == pytest.approx(0.1, abs=0.015)
    assert torch.equal(shown[~hidden], conditions[~hidden])


def test_points_lie_between_noise_and_codes():
    codes = draw_codes(20_000)
    x, t, _ = watch(codes, torch.zeros(20_000, 34), 0.1)
    noise = (x - t[:, None] * codes) / (1 - t[:, None])
    assert noise.mean().abs() < 0.02 and noise.std().item() == pytest.approx(1, abs=0.02)
    assert 0 < t.min() and t.max() < 1 and t.mean().item() == pytest.approx(0.5, abs=0.01)
    middle = ((t - 0.5).abs() < 0.2311).float().mean().item()  # the logits from -1 to 1
    assert middle == pytest.approx(0.683, abs=0.015), "more often near the middle"


# training the flow


@pytest.fixture(scope="module", name="toy")
def fixture_toy():
    """Codes of zeros and ones at two places: means, deviations, conditions."""
    digits = torch.arange(400) % 2
    means = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])[digits]
    conditions = write_conditions(digits, torch.full((400, 4), UNSAID))
    return means, torch.full((400, 2), 0.2), conditions


def small_velocity():
    return build(Velocity, latent=2, width=32, blocks=2)


def test_the_flow_brings_each_condition_to_its_place(toy):
    means, deviations, conditions = toy
    net = small_velocity()
    losses = train_velocity(net, means, deviations, conditions, steps=400, batch=200, rate=5e-3)
    assert len(losses) == 400 and sum(losses[-20:]) < sum(losses[:20]) / 2
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    x = torch.randn(500, 2, generator=seeded())
    for k in range(2):
        moved = transport(net, x, conditions[k].expand(500, -1), 1.0, 20)
        assert torch.allclose(moved.mean(0), means[k], atol=0.15), moved.mean(0)
        assert torch.allclose(moved.std(0), deviations[k], atol=0.12), moved.std(0)
    right = transport(net, x, torch.zeros(500, 34), 1.0, 20)[:, 0] > 0
    assert 0.3 < right.float().mean() < 0.7, "without a condition it goes to both"


def test_same_seed_same_flow(toy):
    nets = []
    for seed in (0, 0, 1):
        nets.append(small_velocity())
        torch.manual_seed(seed + 7)  # the global state has no part in it
        train_velocity(nets[-1], *toy, steps=4, batch=20, seed=seed)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    assert not torch.equal(weights(nets[0]), weights(nets[2]))


def test_codes_that_are_no_numbers_stop_the_flow(toy):
    means, deviations, conditions = toy
    with pytest.raises(FloatingPointError, match=r"^The loss is nan at step 0: lower .*\.$"):
        train_velocity(small_velocity(), means * math.nan, deviations, conditions, steps=5, batch=9)


def test_a_flow_learns_from_codes_of_standard_size(images, monkeypatch):
    calls = []
    monkeypatch.setattr(
        flow_training, "train_velocity", lambda *data, **how: calls.append((data, how)) or [1.0]
    )
    model, conditions = build(LatentFlow), torch.zeros(500, 34)
    means, deviations = collect_codes(model.autoencoder, images)
    assert train_flow(model, images, conditions, steps=7, seed=3) == [1.0]
    ((net, found, widths, told, steps), how), = calls
    assert net is model.velocity and told is conditions and steps == 7 and how == {"seed": 3}
    assert torch.allclose(found * model.scale + model.centre, means, atol=1e-5)
    assert torch.allclose(widths * model.scale, deviations, atol=1e-5)
    centre, scale = standardise(found, widths)
    assert torch.allclose(centre, torch.zeros(24), atol=1e-4)
    assert torch.allclose(scale, torch.ones(24), atol=1e-4)
