"""The latent flow: guidance, transport, its loss, how autoencoder and flow are trained."""

import math
from types import SimpleNamespace

import mnist_flow
import pytest
import torch
from mnist_flow import train_autoencoder
from torch import distributions as D
from torch import nn

from helpers import flow
from helpers.captions import UNSAID
from helpers.flow import LatentFlow, transport, transport_by_heun
from helpers.mnist import load_mnist, load_splits, to_float
from helpers.models import StyleHead, kl_divergence
from helpers.steering import write_conditions

MEAN, WIDTH = 1.5, 0.3  # of the codes of a toy world


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(kind, **options):
    torch.manual_seed(0)
    return kind(**options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def to_gaussian(x, t, condition):
    """The velocity of the flow from N(0, I) to N(MEAN, WIDTH² I), exactly."""
    t = t[:, None]
    variance = (1 - t) ** 2 + (t * WIDTH) ** 2
    return MEAN + (t * WIDTH**2 - (1 - t)) / variance * (x - t * MEAN)


def test_time_waves_tell_times_apart():
    waves = flow.time_waves(t := torch.linspace(0, 1, 101))
    assert waves.shape == (101, 32) and torch.pdist(waves).min() > 0.1
    assert torch.allclose(waves[:, 0], (t * math.pi / 2).sin(), atol=1e-6), "a quarter of a turn"
    assert torch.allclose(waves[:, 31], (t * 50 * math.pi).cos(), atol=1e-3), "25 turns"


def test_a_latent_flow_is_made_of_its_parts():
    model = build(LatentFlow, latent=5).eval()
    model.centre.fill_(2.0)
    model.scale.copy_(torch.arange(1.0, 6))
    z, x = torch.randn(3, 5, generator=seeded()), torch.randn(3, 384, generator=seeded())
    with torch.no_grad():
        condition = model.head(x)
        carried = transport(model.velocity, z, condition, 2.0, 3)
        nn.init.constant_(model.autoencoder.ink.bias, 0.0)
        painted = model.autoencoder.decode(2 + torch.arange(1.0, 6) * carried)
        assert painted.min() < 0, "it may leave [0, 1]"
        assert torch.allclose(model.paint(z, condition, 2.0, 3), painted.clamp(0, 1), atol=1e-6)
        nn.init.constant_(model.autoencoder.ink.bias, 9.0)
        assert (model.draw(x, z) == 1).all(), "ink ends at 1"
    assert {"centre", "scale"} <= set(model.state_dict()), "saved with the weights"


def test_guidance_follows_its_formula():
    def towards(x, t, condition):
        return x * t[:, None] + condition[:, :1]

    x, t, c = torch.rand(4, 2), torch.rand(4), torch.rand(4, 34)
    told, untold = towards(x, t, c), towards(x, t, 0 * c)
    for guidance in (0, 0.5, 1, 1.0, 3.0):
        expected = untold + guidance * (told - untold)
        assert torch.allclose(flow.guide(towards, x, t, c, guidance), expected, atol=1e-6), guidance


def test_transport_follows_known_velocities():
    """Constant ones, the condition, the time (a point moves by 1/2), and back to the middle."""
    x, c = torch.randn(5, 2, generator=seeded()), torch.ones(5, 34)
    for steps in (1, 3, 20):
        for guidance in (0, 1.0, 2.5):
            for carry, half in ((transport, (1 - 1 / steps) / 2), (transport_by_heun, 0.5)):
                cases = ((lambda x, t, c: 0 * x + 3, 3), (lambda x, t, c: c[:, :2], guidance),
                         (lambda x, t, c: t[:, None].expand(len(x), 2), half))
                for velocity, far in cases:
                    moved = carry(velocity, x, c, guidance, steps)
                    assert torch.allclose(moved, x + far, atol=1e-5)
    assert torch.equal(transport(lambda x, t, c: -x, x, c, 1.0, 1), 0 * x)
    moved = transport_by_heun(lambda x, t, c: -x, x, c, 1.0, 1)
    assert torch.allclose(moved, x / 2), "Heun's second look is from where the first one leads"


def test_heun_comes_closer_to_the_end_of_an_exact_velocity_than_euler():
    """Every point has its own place: x ends at MEAN + WIDTH · x."""
    x, c = torch.randn(500, 3, generator=seeded()), torch.zeros(500, 34)
    for steps in (4, 20, 100):
        euler, heun = ((carry(to_gaussian, x, c, 1.0, steps) - MEAN - WIDTH * x).square().mean()
                       for carry in (transport, transport_by_heun))
        assert heun < euler / 2
    assert heun < 1e-6 and euler < 2e-3


def test_gaussian_terms_are_a_likelihood_at_the_best_width():
    painted, pictures = (torch.rand(6, 1, 28, 28, generator=seeded(k)) for k in range(2))
    mean, log_variance = (torch.randn(6, 4, generator=seeded(k)) for k in (2, 3))
    reconstruction, kl = flow.gaussian_terms(painted, pictures, mean, log_variance)
    best = (painted - pictures).square().mean().sqrt()
    less, nats, more = (-D.Normal(painted, best * factor).log_prob(pictures).sum().item() / 6
                        for factor in (0.9, 1.0, 1.1))
    assert reconstruction.item() == pytest.approx(nats, rel=1e-5) and nats < min(less, more)
    assert kl.item() == pytest.approx(kl_divergence(mean, log_variance).sum().item() / 6, rel=1e-5)


def test_an_autoencoder_learns_to_paint_and_freezes():
    images, models = load_mnist(train=False)[0][:500], []
    for seed, steps in ((0, 3), (0, 3), (1, 3), (0, 60)):
        models.append(build(flow.Autoencoder))
        torch.manual_seed(len(models))  # the global state has no part in it
        losses = train_autoencoder(models[-1], images, steps=steps, batch=32, seed=seed)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))
    model, pictures = models[-1], to_float(images)
    assert len(losses) == 60 and losses[-1] < losses[0] - 100
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    wrong = (model.decode(model.encode(pictures)[0]) - pictures).square().mean()
    assert wrong < 0.9 * pictures.var(0).mean(), "better than the mean picture"


def test_the_kl_of_an_autoencoder_is_warmed_up_and_a_penalty_joins():
    images = torch.randint(256, (9, 28, 28), dtype=torch.uint8)

    def terms(painted, pictures, mean, log_variance):
        assert painted.shape == pictures.shape == (2, 1, 28, 28) and mean.shape == (2, 24)
        return 0 * painted.sum() + 5, torch.tensor(10.0)

    for penalty, more in ((None, 0), (lambda painted, pictures: torch.tensor(3.0), 3)):
        model = build(flow.Autoencoder)
        losses = train_autoencoder(model, images, terms, penalty, steps=20, batch=2)
        assert losses == pytest.approx([5 + more + 10 * min(1, k / 4) for k in range(20)])


def test_the_exact_velocity_has_the_least_loss():
    """What remains is how far lines through one point differ; a shift adds its square."""
    t = torch.randn(200_000, generator=seeded(5)).sigmoid()
    together = t * WIDTH**2 - (1 - t)  # covariance of a point with its line
    least = 1 + WIDTH**2 - together**2 / ((1 - t) ** 2 + (t * WIDTH) ** 2)
    codes = MEAN + WIDTH * torch.randn(50_000, 2, generator=seeded(9))
    for shift in (0, -0.5, 0.5):
        def velocity(x, t, condition, shift=shift):
            return to_gaussian(x, t, condition) + shift

        loss = flow.flow_loss(velocity, codes, torch.zeros(50_000, 34), seeded()).item()
        assert loss == pytest.approx(least.mean().item() + shift**2, rel=0.03)


def test_points_lie_between_noise_and_codes_and_conditions_are_dropped_whole():
    codes, conditions = torch.randn(20_000, 2) + 3, torch.rand(20_000, 34) + 0.1
    for drop in (0, 0.1, 1):
        def velocity(x, t, told, drop=drop):
            hidden = (told == 0).all(1)
            assert hidden.float().mean().item() == pytest.approx(drop, abs=0.01 * (0 < drop < 1))
            assert torch.equal(told[~hidden], conditions[~hidden])
            noise = (x - t[:, None] * codes) / (1 - t[:, None])
            assert noise.mean().abs() < 0.02 and noise.std().item() == pytest.approx(1, abs=0.02)
            assert 0 < t.min() and t.max() < 1 and t.mean().item() == pytest.approx(0.5, abs=0.01)
            middle = ((t - 0.5).abs() < 0.2311).float().mean().item()  # the logits from -1 to 1
            assert middle == pytest.approx(0.683, abs=0.015), "more often near the middle"
            return codes

        flow.flow_loss(velocity, codes, conditions, seeded(), drop)


def test_the_flow_brings_each_condition_to_its_place():
    digits, nets = torch.arange(400) % 2, []
    means, deviations = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])[digits], torch.full((400, 2), 0.2)
    conditions = write_conditions(digits, torch.full((400, 4), UNSAID))
    for seed, steps in ((0, 4), (0, 4), (1, 4), (0, 400)):
        nets.append(build(flow.Velocity, latent=2, width=32, blocks=2))
        torch.manual_seed(len(nets))  # the global state has no part in it
        losses = flow.train_velocity(nets[-1], means, deviations, conditions, steps, 200, seed)
    assert torch.equal(weights(nets[0]), weights(nets[1]))
    assert not torch.equal(weights(nets[0]), weights(nets[2]))
    assert len(losses) == 400 and sum(losses[-20:]) < sum(losses[:20]) / 2
    assert not nets[3].training and not any(p.requires_grad for p in nets[3].parameters())
    x = torch.randn(500, 2, generator=seeded())
    for k in range(2):
        moved = transport(nets[3], x, conditions[k].expand(500, -1), 1.0, 20)
        assert torch.allclose(moved.mean(0), means[k], atol=0.15), moved.mean(0)
        assert torch.allclose(moved.std(0), deviations[k], atol=0.12), moved.std(0)
    right = transport(nets[3], x, torch.zeros(500, 34), 1.0, 20)[:, 0] > 0
    assert 0.3 < right.float().mean() < 0.7, "without a condition it goes to both"


class Corner:
    """An encoder that finds means of 100 to 110 and deviations of 2 or 6 in the first pixels."""

    def encode(self, pictures, shift=0):
        first = pictures[:, 0, 0, :2]
        return 100 + 10 * first + shift, 2 * (2 + 4 * (first > 0.5)).log()


def test_a_flow_learns_from_codes_of_standard_size(monkeypatch):
    images = torch.randint(256, (4003, 28, 28), generator=seeded(), dtype=torch.uint8)
    first, shifts, seen = images[:, 0, :2] / 255, torch.arange(4003.0)[:, None], []
    means, deviations = flow.collect_codes(Corner(), images, shifts)
    assert torch.allclose(means, 100 + 10 * first + shifts), "in order"
    assert torch.allclose(deviations, 2 + 4.0 * (first > 0.5))
    model = SimpleNamespace(autoencoder=Corner(), centre=torch.zeros(2), scale=torch.ones(2),
                            velocity=None)
    monkeypatch.setattr(mnist_flow, "train_velocity", lambda _, *data, **how: seen.extend(data))
    mnist_flow.train_flow(model, images, shifts)
    assert torch.allclose(model.centre, torch.full((2,), 105.0), atol=0.2)
    assert torch.allclose(model.scale, torch.full((2,), math.sqrt(100 / 12 + 20)), rtol=0.02)
    assert torch.allclose(seen[0] * model.scale + model.centre, 100 + 10 * first)
    assert torch.allclose(seen[1] * model.scale, deviations) and seen[2] is shifts


def test_the_released_flow_learns_from_training_pictures_alone(monkeypatch):
    seen, (images, labels) = [], load_splits()["train"]
    reader = SimpleNamespace(head=StyleHead()), {"captions": {}, "extra": {"captions": None}}
    monkeypatch.setattr(mnist_flow, "load_checkpoint", lambda name: reader)
    monkeypatch.setattr(mnist_flow, "conditions_of", lambda labels: labels)
    for name in ("train_autoencoder", "train_flow"):
        monkeypatch.setattr(mnist_flow, name, lambda _, *data: seen.append(data))
    assert mnist_flow.train()[0].head is reader[0].head
    assert len(seen) == 2 and all(torch.equal(data[0], images) for data in seen)
    assert torch.equal(seen[1][1], labels), "each picture with its own condition"
