"""The first generator, its training, and the collapse that notebook 3 is about."""

import pytest
import torch

from helpers.characters import CharacterTokenizer
from helpers.models import FirstGenerator
from helpers.shapes import PROMPTS, draw_all_shapes
from helpers.training import shape_batches, train_first_generator

TOKENS = CharacterTokenizer().encode(PROMPTS)


def build(seed=0, **options):
    torch.manual_seed(seed)
    return FirstGenerator(**options)


@pytest.fixture(scope="module")
def trained():
    model = build()
    return model, train_first_generator(model, epochs=8, per_prompt=500, seed=0)


def draw(model, n, seed=0):
    noise = torch.randn(9 * n, model.latent, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model.draw(TOKENS.repeat_interleave(n, 0), noise).view(9, n, 28, 28)


def test_size_and_shapes():
    model = build().eval()
    assert sum(p.numel() for p in model.parameters()) == 573_520
    for n in (1, 2, 9):
        pictures = model.draw(TOKENS[:n], torch.zeros(n, 32))
        assert pictures.shape == (n, 1, 28, 28)
        assert 0 <= pictures.min() and pictures.max() <= 1
    assert build(latent=0).eval().draw(TOKENS, torch.zeros(9, 0)).shape == (9, 1, 28, 28)


def test_batch_of_one_needs_eval_mode():
    model = build()
    with pytest.raises(ValueError, match="more than 1 value"):
        model.train().draw(TOKENS[:1], torch.zeros(1, 32))
    alone = model.eval().draw(TOKENS[:1], torch.ones(1, 32))
    together = model.draw(TOKENS, torch.ones(9, 32))
    assert torch.allclose(alone[0], together[0], atol=1e-6)


def test_shape_batches_are_complete_fresh_and_labelled():
    generator = torch.Generator().manual_seed(0)
    first = list(shape_batches(TOKENS, 20, 16, generator))
    second = list(shape_batches(TOKENS, 20, 16, generator))
    assert len(first) == 180 // 16
    pictures, asked = first[0]
    assert pictures.shape == (16, 1, 28, 28) and asked.shape == (16, 32)
    assert not torch.equal(first[0][0], second[0][0])
    # each picture belongs to its prompt: crosses have the ink of a plus, 2 * (2 * arm + 1) - 1
    cross = TOKENS[PROMPTS.index("cross")]
    for pictures, asked in first:
        ink = pictures[(asked == cross).all(1)].sum((1, 2, 3))
        assert set(ink.tolist()) <= {4.0 * arm + 1 for arm in range(6, 10)}


def test_training_reaches_the_floor_and_ignores_the_noise(trained):
    model, losses = trained
    real = draw_all_shapes(2000, torch.Generator().manual_seed(5))[0].view(9, 2000, 28, 28)
    variances = real.var(1, correction=0).mean((1, 2))
    assert len(losses) == 8 and losses[-1] < losses[0]
    assert 0.97 < losses[-1] / variances.mean() < 1.06
    drawn = draw(model, 200)
    assert (drawn.var(1).mean((1, 2)) / variances).max() < 0.01
    # every prompt's drawing is nearest to its own mean picture
    gaps = torch.cdist(drawn[:, 0].flatten(1), real.mean(1).flatten(1))
    assert torch.equal(gaps.argmin(1), torch.arange(9))


def test_training_leaves_the_model_ready_to_draw(trained):
    model, _ = trained
    assert not model.training
    assert draw(model, 1).shape == (9, 1, 28, 28)


def test_same_seed_same_weights():
    runs = []
    for seed in (3, 3, 4):
        model = build()
        losses = train_first_generator(model, epochs=1, per_prompt=30, seed=seed)
        runs.append((losses, model.net[0].weight.detach().clone()))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_too_few_pictures_for_a_batch():
    with pytest.raises(ValueError, match="9 pictures do not fill a batch of 64: draw more"):
        train_first_generator(build(), epochs=1, per_prompt=1)
