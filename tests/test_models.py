"""The models: shapes, the ELBO against torch.distributions, the prompt head, FiLM.

The first generator has its own file, test_first_generator.py.
"""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import distributions as D
from torch import nn

from helpers.characters import CharacterTokenizer
from helpers.models import (
    ConvCVAE,
    PromptHead,
    Ruler,
    SentenceLayers,
    ShapesCVAE,
    StyleCVAE,
    StyleHead,
    elbo_terms,
    kl_divergence,
    modulate,
    sample_posterior,
)
from helpers.shapes import PROMPTS

TOKENS = CharacterTokenizer().encode(PROMPTS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(kind, seed=0, **options):
    torch.manual_seed(seed)
    return kind(**options).eval()


def embed(n, seed=0):
    """Stand in for MiniLM: n vectors of length 1 around a common centre."""
    return F.normalize(torch.randn(n, 384, generator=seeded(seed)) * 0.05 + 0.03, dim=1)


# the ELBO


@pytest.mark.parametrize("mean, variance, nats", [
    (0.0, 1.0, 0.0), (1.0, 1.0, 0.5), (0.0, 4.0, 1.5 - math.log(2)), (1.0, 0.25, 0.8181),
])  # fmt: skip
def test_kl_of_known_gaussians(mean, variance, nats):
    found = kl_divergence(torch.tensor(mean), torch.tensor(variance).log())
    assert found.item() == pytest.approx(nats, abs=1e-4)


def test_kl_agrees_with_torch_distributions():
    mean = torch.randn(50, 20, generator=seeded(1))
    log_variance = torch.randn(50, 20, generator=seeded(2))
    q = D.Normal(mean, (log_variance / 2).exp())
    expected = D.kl_divergence(q, D.Normal(torch.zeros(()), torch.ones(())))
    found = kl_divergence(mean, log_variance)
    assert found.shape == (50, 20) and found.min() >= 0
    assert torch.allclose(found, expected, atol=1e-5)


def test_elbo_terms_are_nats_per_picture():
    logits = torch.randn(6, 1, 28, 28, generator=seeded(3))
    pictures = torch.rand(6, 1, 28, 28, generator=seeded(4)).round()
    mean, log_variance = torch.randn(2, 6, 20, generator=seeded(5))
    reconstruction, kl = elbo_terms(logits, pictures, mean, log_variance)
    by_torch = -D.Bernoulli(logits=logits).log_prob(pictures).sum() / 6
    assert reconstruction.shape == kl.shape == ()
    assert torch.allclose(reconstruction, by_torch, rtol=1e-5)
    q = D.Normal(mean, (log_variance / 2).exp())
    assert torch.allclose(kl, D.kl_divergence(q, D.Normal(0.0, 1.0)).sum() / 6, rtol=1e-5)


def test_elbo_terms_bear_grey_pixels_and_large_logits():
    nothing = torch.zeros(3, 20)
    grey = torch.rand(3, 1, 28, 28, generator=seeded(0))
    reconstruction, kl = elbo_terms(torch.zeros_like(grey), grey, nothing, nothing)
    assert reconstruction.item() == pytest.approx(784 * math.log(2), rel=1e-5)
    assert kl == 0
    far = torch.full_like(grey, 200.0)
    assert elbo_terms(far, torch.zeros_like(grey), nothing, nothing)[0].item() == 784 * 200
    assert elbo_terms(far, torch.ones_like(grey), nothing, nothing)[0].item() == 0


def test_reparameterisation_has_the_right_distribution():
    mean, log_variance = torch.full((20_000, 1), 1.5), torch.full((20_000, 1), math.log(0.25))
    z = sample_posterior(mean, log_variance, seeded())
    assert z.mean().item() == pytest.approx(1.5, abs=0.02)
    assert z.std().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(z, sample_posterior(mean, log_variance, seeded()))
    assert not torch.equal(z, sample_posterior(mean, log_variance, seeded(1)))


def test_reparameterisation_lets_the_gradient_through():
    mean = torch.zeros(4, 3, requires_grad=True)
    log_variance = torch.full((4, 3), 0.6, requires_grad=True)
    sample_posterior(mean, log_variance, seeded()).sum().backward()
    epsilon = torch.randn(4, 3, generator=seeded())
    assert torch.equal(mean.grad, torch.ones(4, 3))
    assert torch.allclose(log_variance.grad, 0.5 * math.exp(0.3) * epsilon)


# the shapes CVAE


@pytest.mark.parametrize("n", [1, 2, 9])
def test_shapes_cvae_shapes(n):
    model = build(ShapesCVAE).train()
    pictures = torch.rand(n, 1, 28, 28, generator=seeded())
    logits, mean, log_variance = model(pictures, TOKENS[:n], seeded())
    assert logits.shape == (n, 1, 28, 28)
    assert mean.shape == log_variance.shape == (n, 32)
    drawn = model.draw(TOKENS[:n], torch.zeros(n, 32))
    assert drawn.shape == (n, 1, 28, 28) and 0 <= drawn.min() and drawn.max() <= 1


def test_shapes_cvae_adds_up_strokes():
    model = build(ShapesCVAE, latent=5, strokes=3)
    z, condition = torch.randn(2, 5, generator=seeded()), torch.randn(2, 64, generator=seeded(1))
    rows, columns = model.decoder(torch.cat([z, condition], dim=1)).unbind(1)  # 2×3×28 each
    expected = model.paper + sum(
        model.ink[s] * F.silu(rows[:, s, :, None] + columns[:, s, None, :]) for s in range(3)
    )[:, None]
    assert torch.allclose(model.decode(z, condition), expected, atol=1e-5)
    blank = model.decoder[-2]
    nn.init.zeros_(blank.weight)
    nn.init.zeros_(blank.bias)
    assert torch.allclose(model.decode(z, condition), torch.full((2, 1, 28, 28), -2.0))


def test_shapes_cvae_hears_prompt_and_code():
    model = build(ShapesCVAE)
    z = torch.randn(9, 32, generator=seeded())
    drawn = model.draw(TOKENS, z[:1].expand(9, -1))
    assert (drawn[0] - drawn[5]).abs().max() > 1e-4
    varied = model.draw(TOKENS[[5]].expand(9, -1), z)
    assert (varied[0] - varied[1]).abs().max() > 1e-4


# the prompt head


def test_fit_scale_centres_and_gives_components_of_unit_size():
    head, embeddings = build(PromptHead), embed(500)
    head.fit_scale(embeddings)
    x = (embeddings - head.centre) * head.scale
    assert torch.allclose(x.mean(0), torch.zeros(384), atol=1e-4)
    assert x.square().mean().item() == pytest.approx(1, abs=1e-4)
    assert {"centre", "scale"} <= set(head.state_dict())
    assert not {"centre", "scale"} & {name for name, _ in head.named_parameters()}


@pytest.mark.parametrize("output", [2, 16, 64])
def test_head_gives_vectors_of_one_length(output):
    head = build(PromptHead, output=output)
    condition = head(embed(7))
    assert condition.shape == (7, output)
    assert torch.allclose(condition.norm(dim=1), torch.tensor(output**0.5).expand(7), atol=1e-4)
    assert torch.allclose(head(embed(7)[:1]), condition[:1], atol=1e-5)
    assert head.digit(condition).shape == (7, 10)


def test_head_makes_noise_in_training_only():
    head, embeddings = build(PromptHead), embed(5)
    head.fit_scale(embed(500))
    assert torch.equal(head(embeddings), head(embeddings))
    assert torch.equal(head(embeddings, seeded(1)), head(embeddings, seeded(2)))
    head.train()
    assert torch.equal(head(embeddings, seeded(1)), head(embeddings, seeded(1)))
    assert not torch.equal(head(embeddings, seeded(1)), head(embeddings, seeded(2)))
    head.noise = 0.0
    assert torch.equal(head(embeddings), head.eval()(embeddings))


def test_head_noise_has_its_standard_deviation():
    head = build(PromptHead, noise=0.5).train()
    seen = []
    head.net[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head(torch.zeros(400, 384), seeded())
    assert seen[0].std().item() == pytest.approx(0.5, abs=0.01)
    assert seen[0].mean().item() == pytest.approx(0, abs=0.01)


# FiLM and the convolutional CVAE


def test_modulate_by_hand():
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])     # 1×2×1×2
    told = torch.tensor([[1.0, -1.0, 0.0, 0.5]])            # gains 1 and −1, shifts 0 and 0.5
    found = modulate(maps, nn.Identity(), told)
    assert torch.equal(found, torch.tensor([[[[2.0, 4.0]], [[0.5, 0.5]]]]))
    assert modulate(maps, None, told) is maps


def test_modulate_treats_each_row_of_a_batch_by_its_own_condition():
    film = build(nn.Linear, in_features=4, out_features=6)
    maps = torch.randn(5, 3, 7, 7, generator=seeded())
    condition = torch.randn(5, 4, generator=seeded(1))
    together = modulate(maps, film, condition)
    for i in range(5):
        alone = modulate(maps[i : i + 1], film, condition[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


@pytest.mark.parametrize("film", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_conv_cvae_shapes(film, n):
    model = build(ConvCVAE, film=film).train()
    pictures = torch.rand(n, 1, 28, 28, generator=seeded())
    logits, mean, log_variance = model(pictures, embed(n), seeded())
    assert logits.shape == (n, 1, 28, 28)
    assert mean.shape == log_variance.shape == (n, 20)
    assert sum(elbo_terms(logits, pictures, mean, log_variance)).isfinite()
    drawn = model.draw(embed(n), torch.zeros(n, 20))
    assert drawn.shape == (n, 1, 28, 28) and 0 <= drawn.min() and drawn.max() <= 1


def test_conv_cvae_trail():
    """The stages that notebook 7's diagram shows."""
    model, trail = build(ConvCVAE, condition=10, film=False), []
    for part in (model.convolutions, model.posterior, model.expand, [model.up1, model.up2]):
        for layer in part:
            if not isinstance(layer, nn.SiLU):
                layer.register_forward_hook(lambda *call: trail.append(tuple(call[2].shape[1:])))
    condition = torch.eye(10)[:2]
    mean, _ = model.encode(torch.zeros(2, 1, 28, 28), condition)
    model.decode(mean, condition)
    assert trail == [
        (32, 14, 14), (64, 7, 7), (3136,), (512,), (40,),
        (512,), (3136,), (64, 7, 7), (32, 14, 14), (1, 28, 28),
    ]  # fmt: skip
    assert model.posterior[0].in_features == 3146 and model.expand[0].in_features == 30


@pytest.mark.parametrize("film", [True, False])
def test_conv_cvae_hears_prompt_and_code(film):
    model = build(ConvCVAE, film=film)
    z, embeddings = torch.randn(4, 20, generator=seeded()), embed(4)
    model.head.fit_scale(embed(500))
    drawn = model.draw(embeddings, z[:1].expand(4, -1))
    assert (drawn[0] - drawn[1]).abs().max() > 1e-4
    varied = model.draw(embeddings[:1].expand(4, -1), z)
    assert (varied[0] - varied[1]).abs().max() > 1e-4
    pictures = torch.rand(1, 1, 28, 28, generator=seeded()).expand(4, -1, -1, -1)
    means, _ = model.encode(pictures, model.head(embeddings))
    assert (means[0] - means[1]).abs().max() > 1e-4, "the encoder sees the condition too"


def test_film_is_a_second_way_in():
    """With z and condition cut off from the first layer, only FiLM can tell prompts apart."""
    for film in (True, False):
        model = build(ConvCVAE, film=film)
        nn.init.zeros_(model.expand[0].weight)
        with torch.no_grad():
            drawn = model.decode(torch.zeros(2, 20), model.head(embed(2)))
        assert torch.equal(drawn[0], drawn[1]) is not film


def test_every_weight_learns():
    model = build(ConvCVAE).train()
    pictures, embeddings = torch.rand(4, 1, 28, 28, generator=seeded()), embed(4)
    sum(elbo_terms(*_reordered(model, pictures, embeddings))).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == ["head.digit.weight", "head.digit.bias"]  # train_head's


def _reordered(model, pictures, embeddings):
    logits, mean, log_variance = model(pictures, embeddings, seeded())
    return logits, pictures, mean, log_variance


@pytest.mark.parametrize("kind, inputs", [(ShapesCVAE, TOKENS[:3]), (ConvCVAE, embed(3))])
def test_reconstruction_draws_from_the_posterior(kind, inputs):
    """A model that decodes its mean would give the same logits for every seed."""
    model, pictures = build(kind), torch.rand(3, 1, 28, 28, generator=seeded())
    first, again, other = (model(pictures, inputs, seeded(s))[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_same_seed_same_weights():
    for kind in (ShapesCVAE, ConvCVAE, PromptHead, StyleCVAE, Ruler):
        first, again = build(kind, 3).state_dict(), build(kind, 3).state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_signature_is_what_checkpoints_keep():
    assert list(inspect.signature(ConvCVAE).parameters) == ["latent", "condition", "film"]
    assert ConvCVAE.reads == "sentences" and ShapesCVAE.reads == "characters"
    assert build(ConvCVAE, latent=3).draw(embed(2), torch.zeros(2, 3)).shape == (2, 1, 28, 28)


# what notebook 11 adds


def test_sentence_layers():
    layers, embeddings = build(SentenceLayers, hidden=12, output=5, noise=0.5), embed(500)
    layers.fit_scale(embeddings)
    x = (embeddings - layers.centre) * layers.scale
    assert torch.allclose(x.mean(0), torch.zeros(384), atol=1e-4)
    assert x.square().mean().item() == pytest.approx(1, abs=1e-4)
    assert {"centre", "scale"} <= set(layers.state_dict())
    assert layers(embeddings[:3]).shape == (3, 5)
    assert torch.equal(layers(embeddings[:3]), layers(embeddings[:3], seeded(1)))
    layers.train()
    first, again, other = (layers(embeddings[:3], seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    layers.noise = 0.0
    assert torch.equal(layers(embeddings[:3]), layers.eval()(embeddings[:3]))


@pytest.mark.parametrize("n", [1, 4])
def test_style_head_gives_probabilities(n):
    head, embeddings = build(StyleHead), embed(n)
    condition = head(embeddings)
    assert condition.shape == (n, 34) and condition.min() >= 0
    digit, levels = head.digit(condition), head.levels(condition)
    assert digit.shape == (n, 10) and levels.shape == (n, 4, 6)
    assert torch.allclose(digit.sum(1), torch.ones(n), atol=1e-5)
    assert torch.allclose(levels.sum(2), torch.ones(n, 4), atol=1e-5)
    digit_logits, level_logits = head.logits(embeddings)
    assert torch.allclose(digit_logits.softmax(1), digit, atol=1e-6)
    assert torch.allclose(level_logits.softmax(2), levels, atol=1e-6)
    assert torch.equal(head(embeddings), condition), "no noise in evaluation"
    head.train()
    assert not torch.equal(head(embeddings, seeded()), head(embeddings, seeded(1)))


def test_style_cvae_shapes():
    model = build(StyleCVAE).train()
    pictures, embeddings = torch.rand(3, 1, 28, 28, generator=seeded()), embed(3)
    logits, mean, log_variance = model(pictures, embeddings, seeded())
    assert logits.shape == (3, 1, 28, 28) and mean.shape == log_variance.shape == (3, 20)
    assert model.reads == "sentences" and model.latent == 20
    drawn = model.draw(embeddings, torch.randn(3, 20, generator=seeded()))
    assert drawn.shape == (3, 1, 28, 28) and 0 <= drawn.min() and drawn.max() <= 1
    assert list(inspect.signature(StyleCVAE).parameters) == ["latent"]
    assert build(StyleCVAE, latent=3).draw(embed(2), torch.zeros(2, 3)).shape == (2, 1, 28, 28)


def test_style_cvae_hears_every_part_of_the_condition():
    model, z = build(StyleCVAE), torch.zeros(1, 20)
    plain = torch.full((1, 34), 0.1)
    with torch.no_grad():
        before = model.decode(z, plain)
        for place in range(34):
            condition = plain.clone()
            condition[0, place] = 1
            assert (model.decode(z, condition) - before).abs().max() > 1e-4, place


def test_style_cvae_moves_the_codes_as_the_condition_says():
    model, z, embeddings = build(StyleCVAE), torch.randn(2, 20, generator=seeded()), embed(2)
    condition = model.head(embeddings)
    assert torch.equal(model.place(z, condition), z), "at first it changes nothing"
    with torch.no_grad():
        model.prior[-1].bias[:20] = 1.0
        model.prior[-1].bias[20:] = math.log(0.5)
    moved = model.place(z, condition)
    assert torch.allclose(moved, 1 + 0.5 * z, atol=1e-6)
    drawn = model.draw(embeddings, z)
    assert torch.allclose(drawn, model.decode(moved, condition).sigmoid(), atol=1e-5)
    assert not torch.allclose(drawn, model.decode(z, condition).sigmoid(), atol=1e-3)


def test_ruler_gives_ranks_with_gradients():
    ruler = build(Ruler)
    pictures = torch.rand(3, 1, 28, 28, generator=seeded(), requires_grad=True)
    ranks = ruler(pictures)
    assert ranks.shape == (3, 4) and 0 < ranks.min() and ranks.max() < 1
    ranks.sum().backward()
    assert pictures.grad.ne(0).any(), "it has gradients, unlike the measures"
