"""The generators and their parts: the ELBO against torch.distributions, heads, FiLM, prior."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import distributions as D
from torch import nn

from helpers import models
from helpers.flow import LatentFlow
from helpers.models import ConvCVAE, ShapesCVAE, StyleCVAE, StyleHead
from helpers.shapes import PROMPTS
from helpers.text import CharacterTokenizer

GENERATORS = (models.FirstGenerator, ShapesCVAE, ConvCVAE, StyleCVAE, LatentFlow)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(kind, seed=0, **options):
    torch.manual_seed(seed)
    return kind(**options).eval()


def embed(n, seed=0):
    """Stand in for MiniLM: n vectors of length 1 around a common centre."""
    return F.normalize(torch.randn(n, 384, generator=seeded(seed)) * 0.05 + 0.03, dim=1)


def inputs_of(model, n):
    return CharacterTokenizer().encode(PROMPTS[:n]) if model.reads == "characters" else 5 * embed(n)


def test_elbo_terms_are_nats_per_picture():
    logits = torch.randn(6, 1, 28, 28, generator=seeded(3))
    pictures = torch.rand(6, 1, 28, 28, generator=seeded(4)).round()
    mean, log_variance = torch.randn(2, 6, 20, generator=seeded(5))
    reconstruction, kl = models.elbo_terms(logits, pictures, mean, log_variance)
    by_torch = -D.Bernoulli(logits=logits).log_prob(pictures).sum() / 6
    assert reconstruction.shape == kl.shape == ()
    assert torch.allclose(reconstruction, by_torch, rtol=1e-5)
    each = D.kl_divergence(D.Normal(mean, (log_variance / 2).exp()), D.Normal(0.0, 1.0))
    assert torch.allclose(kl, each.sum() / 6, rtol=1e-5)
    assert torch.allclose(models.kl_divergence(mean, log_variance), each, atol=1e-5)
    grey = torch.rand(6, 1, 28, 28, generator=seeded(0))
    for logit, nats in ((0, 784 * math.log(2)), (200, (1 - grey).sum().item() * 200 / 6)):
        found = models.elbo_terms(torch.full_like(grey, logit), grey, mean, log_variance)[0]
        assert found.item() == pytest.approx(nats, rel=1e-5), "grey pixels, large logits"


def test_a_posterior_is_sampled_with_its_mean_and_standard_deviation():
    mean, log_variance = torch.full((20_000, 1), 1.5), torch.full((20_000, 1), math.log(0.25))
    z, again, other = (models.sample_posterior(mean, log_variance, seeded(k)) for k in (0, 0, 1))
    assert z.mean().item() == pytest.approx(1.5, abs=0.02)
    assert z.std().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(z, again) and not torch.equal(z, other)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("latent", [20, 3])
def test_a_generator_reads_then_paints_and_hears_prompt_and_code(kind, latent):
    model = build(kind, latent=latent)
    inputs, z = inputs_of(model, 4), torch.randn(4, latent, generator=seeded())
    if kind is StyleCVAE:
        nn.init.normal_(model.prior[-1].weight)
    if kind is LatentFlow:  # grey, and moved far enough to be seen
        nn.init.constant_(model.autoencoder.ink.bias, 0.5)
        nn.init.normal_(model.velocity.leave.weight, std=0.2)
        model.head.read.scale.fill_(10)
    with torch.no_grad():
        for settings in ({}, {"guidance": 3.0, "steps": 2})[: 1 + model.guided]:
            drawn = model.draw(inputs, z, **settings)
            assert model.latent == latent and drawn.shape == (4, 1, 28, 28)
            assert 0 <= drawn.min() and drawn.max() <= 1
            assert torch.equal(drawn, model.paint(z, model.read(inputs), **settings))
            alone = [model.draw(inputs[[k]], z[[k]], **settings) for k in range(4)]
            assert torch.allclose(drawn, torch.cat(alone), atol=1e-5), "each picture by itself"
            for other in (model.draw(inputs, z.flip(0), **settings),
                          model.draw(inputs.flip(0), z, **settings)):
                assert (drawn - other).flatten(1).abs().amax(1).min() > 1e-5
        assert not model.guided or not torch.allclose(drawn, model.draw(inputs, z))


@pytest.mark.parametrize("kind", [ShapesCVAE, ConvCVAE, StyleCVAE])
def test_a_cvae_reconstructs_from_its_posterior_and_sees_the_prompt(kind):
    """A model that decodes its mean would give the same logits for every seed."""
    model = build(kind, latent=5)
    pictures = torch.rand(1, 1, 28, 28, generator=seeded()).expand(3, -1, -1, -1)
    inputs = inputs_of(model, 3)
    first, again, other = (model(pictures, inputs, seeded(seed)) for seed in (0, 0, 1))
    assert first[0].shape == pictures.shape and first[1].shape == first[2].shape == (3, 5)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0]) and torch.equal(first[1], other[1])
    z = models.sample_posterior(first[1], first[2], seeded())
    assert torch.allclose(first[0], model.decode(z, model.read(inputs)), atol=1e-4)
    assert (first[1][0] - first[1][1]).abs().max() > 1e-4, "the encoder sees the prompt, too"


def test_every_weight_of_a_cvae_learns():
    still = {ShapesCVAE: set(), ConvCVAE: {"head.digit"}, StyleCVAE: {"prior.0", "prior.2"}}
    for kind, taught_otherwise in still.items():
        model, pictures = build(kind).train(), torch.rand(4, 1, 28, 28, generator=seeded())
        logits, mean, log_variance = model(pictures, inputs_of(model, 4), seeded())
        sum(models.elbo_terms(logits, pictures, mean, log_variance)).backward()
        unmoved = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert {name.rpartition(".")[0] for name in unmoved} == taught_otherwise


def test_heads_centre_and_scale_and_are_noisy_in_training_alone():
    for head in (build(models.PromptHead, noise=0.5), build(StyleHead),
                 build(models.SentenceLayers, hidden=12, output=5, noise=0.5)):
        layers, embeddings = head.read if isinstance(head, StyleHead) else head, embed(500)
        layers.fit_scale(embeddings)
        x = layers.prepare(embeddings)
        assert torch.allclose(x.mean(0), torch.zeros(384), atol=1e-4)
        assert x.square().mean().item() == pytest.approx(1, abs=1e-4)
        assert {"centre", "scale"} <= set(layers.state_dict()), "saved with the weights"
        assert torch.equal(head(embeddings, seeded(1)), head(embeddings, seeded(2)))
        head.train()
        first, again, other = (head(embeddings, seeded(seed)) for seed in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other)
        noise = layers.prepare(embeddings, seeded()) - x
        assert noise.std().item() == pytest.approx(layers.noise, rel=0.02)


def test_heads_give_vectors_of_one_length_or_probabilities():
    for output in (2, 16, 64):
        condition = build(models.PromptHead, output=output)(embed(7))
        assert torch.allclose(condition.norm(dim=1), torch.tensor(output**0.5).expand(7))
    head = build(StyleHead)
    condition, (digit, levels) = head(embed(7)), head.logits(embed(7))
    assert condition.shape == (7, 34) and digit.shape == (7, 10) and levels.shape == (7, 4, 6)
    assert torch.allclose(digit.softmax(1), head.digit(condition), atol=1e-6)
    assert torch.allclose(levels.softmax(2), head.levels(condition), atol=1e-6)


def test_film_scales_and_shifts_and_is_a_second_way_in():
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])     # 1×2×1×2
    told = torch.tensor([[1.0, -1.0, 0.0, 0.5]])            # gains 1 and −1, shifts 0 and 0.5
    expected = torch.tensor([[[[2.0, 4.0]], [[0.5, 0.5]]]])
    both = models.modulate(maps.repeat(2, 1, 1, 1), nn.Identity(), torch.cat([0 * told, told]))
    assert torch.equal(both, torch.cat([maps, expected])), "each row by its own condition"
    for film in (True, False):  # z and condition are cut off from the first layer
        model = build(ConvCVAE, film=film)
        nn.init.zeros_(model.expand[0].weight)
        drawn = model.decode(torch.zeros(2, 20), model.head(embed(2)))
        assert torch.equal(drawn[0], drawn[1]) is not film


def test_styles_move_the_codes_as_the_condition_says_and_hear_all_of_it():
    model, z = build(StyleCVAE), torch.randn(1, 20, generator=seeded()).expand(35, -1)
    conditions = torch.cat([torch.zeros(1, 34), torch.eye(34)])
    assert torch.equal(model.place(z, conditions), z), "at first it changes nothing"
    drawn = model.paint(z, conditions)
    assert (drawn[1:] - drawn[0]).flatten(1).abs().amax(1).min() > 1e-5
    with torch.no_grad():
        model.prior[-1].bias[:20] = 1.0
        model.prior[-1].bias[20:] = math.log(0.5)
    assert torch.allclose(model.place(z, conditions), 1 + 0.5 * z, atol=1e-6)
    moved = model.decode(1 + 0.5 * z, conditions).sigmoid()
    assert torch.allclose(model.paint(z, conditions), moved, atol=1e-5)
