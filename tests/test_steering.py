"""What teaches a model to obey words of style: its error, head, ruler and prior; familiarity."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from familiarity import train_familiarity
from torch import nn

from helpers import steering, training
from helpers.captions import UNSAID
from helpers.mnist import load_mnist, to_float
from helpers.models import Proofreader, StyleCVAE, StyleHead
from helpers.strokes import level_of, measure_strokes, measure_styles, rank_within_digit


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", name="pictures")
def fixture_pictures():
    """Real pictures, their digits, the measures and the ranks of their styles."""
    images, digits = load_mnist(train=False)
    pictures, digits = to_float(images[:600]), digits[:600]
    measures = measure_styles(measure_strokes(pictures))
    return pictures, digits, measures, rank_within_digit(measures, digits, measures, digits)


def toy_captions(n, seed=0):
    """Embeddings (n, 384) that spell out a digit and four levels, with both as tensors."""
    generator = seeded(seed)
    digits = torch.randint(10, (n,), generator=generator)
    named = torch.randint(6, (n, 4), generator=generator) - 2
    x = 0.1 * torch.randn(n, 384, generator=generator)
    x[:, :34] += steering.write_conditions(digits, named)
    return F.normalize(x, dim=1), digits, named


def test_conditions_are_written_as_a_head_writes_them():
    digits, named = torch.tensor([0, 1, 9]), torch.tensor([[3, 3, 3, 3], [-2, -1, 0, 2], [1] * 4])
    conditions, head = steering.write_conditions(digits, named), StyleHead()
    assert torch.equal(head.digit(conditions).argmax(1), digits)
    assert torch.equal(head.levels(conditions).argmax(2) - 2, named) and conditions.shape[1] == 34
    places = [[0, 15, 21, 27, 33], [1, 10, 17, 24, 32], [9, 13, 19, 25, 31]]
    assert [row.nonzero()[:, 0].tolist() for row in conditions] == places and conditions.max() == 1


def test_a_caption_names_levels_that_its_picture_has(monkeypatch):
    strokes, labels = torch.rand(900, 4, generator=seeded()) + 1, torch.arange(800) % 10
    monkeypatch.setattr(steering, "load_strokes", lambda: strokes)
    captions, named, measures, ranks = steering.caption_styles(labels)
    assert len(captions) == 800 and torch.equal(measures, measure_styles(strokes[:800]))
    assert torch.equal(ranks, rank_within_digit(measures, labels, measures, labels))
    said = named != UNSAID
    assert 0.05 < said.float().mean() < 0.8 and torch.equal(named[said], level_of(ranks)[said])
    assert torch.equal(steering.conditions_of(labels), steering.write_conditions(labels, named))


def test_pair_batches_pair_each_picture_with_its_caption():
    images = to_float(torch.arange(25, dtype=torch.uint8)[:, None, None].expand(25, 28, 28))
    embeddings = torch.arange(40.0)[:, None].expand(40, 384)
    batches = list(training.pair_batches(images, embeddings, 10, seeded()))
    pictures, inputs = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert pictures.shape == (20, 1, 28, 28), "an incomplete last batch is left out"
    assert torch.equal((pictures[:, 0, 0, 0] * 255).round(), inputs[:, 0])
    assert len(inputs[:, 0].unique()) == 20 and (inputs[:, 0].diff() < 0).any()


def test_a_named_level_is_missed_by_its_distance():
    levels = torch.tensor([-2, -1, 0, 1, 2])[:, None].expand(5, 4)
    middle = (steering.LOW + steering.HIGH) / 2
    for ranks in (steering.LOW, steering.HIGH, middle):
        assert steering.style_error(ranks[:, None].expand(5, 4), levels) == 0
    assert level_of(middle).tolist() == [-2, -1, 0, 1, 2] and (steering.LOW < steering.HIGH).all()
    levels = torch.tensor([[1, -2, 0, 2]])
    cases = [([[0.6, 0.4, 0.5, 0.95]], 0.1 + 0.3), ([[1.0, 0.0, 0.7, 0.0]], 1.1),
             ([[0.6, 0.4, 0.5, 0.95], [0.8, 0.05, 0.5, 0.95]], 0.4 / 2)]  # averaged over pictures
    for ranks, error in cases:
        found = steering.style_error(torch.tensor(ranks), levels.expand(len(ranks), 4))
        assert found.item() == pytest.approx(error), ranks


def test_unnamed_ranks_should_be_spread_evenly():
    unnamed, even = torch.full((200, 4), UNSAID), (torch.arange(200) + 0.5) / 200
    shuffled = torch.stack([even[torch.randperm(200, generator=seeded(k))] for k in range(4)], 1)
    half, error = torch.full((200, 4), 0.5), steering.style_error
    for ranks, silence, far in ((shuffled, 1, 0), (half, 1, 1), (0 * half, 1, 2), (half, 0.3, 0.3)):
        assert error(ranks, unnamed, silence=silence).item() == pytest.approx(far, abs=0.01), far
    assert error(half, unnamed) > 0.05, "by itself it counts too"
    levels = torch.tensor([[UNSAID, 2, 0, 0], [0, 2, 0, 0]])
    ranks = torch.tensor([[0.5, 1.0, 0.5, 0.5], [0.5, 1.0, 0.5, 0.5]])
    assert error(ranks, levels, silence=1).item() == 0, "alone: the middle"
    ranks[0, 0] = 0.1
    assert error(ranks, levels, silence=1).item() == pytest.approx(0.4 / 2)


@pytest.fixture(scope="module", name="head")
def fixture_head():
    """A head that has learned to read toy captions."""
    torch.manual_seed(0)
    steering.train_style_head(head := StyleHead(), *toy_captions(3000), steps=150, batch=200)
    return head.eval()


def test_a_style_head_learns_to_read_and_freezes(head):
    assert not any(p.requires_grad for p in head.parameters())
    assert torch.allclose(head.read.centre, toy_captions(3000)[0].mean(0), atol=1e-6)
    embeddings, digits, named = toy_captions(500, seed=1)
    digit, levels = head.logits(embeddings)
    right = (levels.argmax(2) - 2 == named).float()
    assert (digit.argmax(1) == digits).float().mean() > 0.95
    assert right.mean() > 0.9 and right[named == UNSAID].mean() > 0.9


def test_a_ruler_learns_and_goes_on_with_drawings_without_forgetting_real_pictures(pictures):
    """Drawings that it has never seen the like of, here: white ink on black paper."""
    real, _, _, ranks = pictures
    torch.manual_seed(0)
    ruler = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.SiLU(), nn.Linear(64, 4))

    def wrong():
        assert not any(p.requires_grad for p in ruler.parameters())
        return [F.mse_loss(ruler(x)[:, :2], ranks[450:, :2]) for x in (real[450:], 1 - real[450:])]

    losses = steering.train_ruler(ruler, real[:450], ranks[:450], steps=100)
    before = wrong()
    assert len(losses) == 100 and before[0] < 0.05, "a constant is wrong by 1/12"
    drawn = [(1 - real[part], ranks[part]) for part in (slice(200), slice(200, 450))]
    steering.recalibrate(ruler, drawn, (real[:450], ranks[:450]), seed=0)
    after = wrong()
    assert after[0] < 1.3 * before[0] and after[1] < 0.5 * before[1]


def test_drawings_are_ranked_within_the_digit_of_their_caption(pictures):
    """A model that returns the real picture of each caption, and keeps its codes."""
    real, digits, measures, ranks = pictures
    codes, names = [], torch.arange(600.0)[:, None].expand(-1, 384)
    model = SimpleNamespace(latent=3, draw=lambda x, z: (codes.append(z), real[x[:, 0].long()])[1])
    drawn, found = steering.draw_and_measure(model, names, digits, measures, n=560, seed=3)
    rows = torch.randint(600, (560,), generator=seeded(3))
    assert torch.equal(drawn, real[rows]) and torch.allclose(found, ranks[rows], atol=0.02)
    codes = torch.cat(codes)
    assert codes.shape == (560, 3) and len(codes.unique(dim=0)) == 560, "each has its own code"
    assert codes.std().item() == pytest.approx(1, abs=0.1)


def build(kind, head):
    torch.manual_seed(0)
    model = kind()
    model.head = head
    return model


class Spelling(StyleCVAE):
    """A decoder that writes the first components of its code there, spread evenly at first."""

    def decode(self, z, condition):
        return F.pad(1.7 * z[:, None, None, :4], (0, 24, 0, 27))


def test_the_prior_learns_where_the_levels_lie(head, monkeypatch):
    """Known answer: the code itself is what is measured."""
    class Pixels(torch.nn.Module):
        def forward(self, pictures):
            return pictures[:, 0, 0, :4] if self is ruler else torch.zeros(len(pictures), 10)

    ruler = Pixels()
    monkeypatch.setattr(steering, "Ruler", lambda: ruler)
    for name in ("train_ruler", "draw_and_measure", "recalibrate"):
        monkeypatch.setattr(steering, name, lambda *data, **how: [])
    model, (embeddings, digits, _) = build(Spelling, head), toy_captions(800)
    images, ranks = torch.zeros(300, 28, 28, dtype=torch.uint8), torch.zeros(300, 4)
    history = torch.tensor(steering.train_prior(
        model, embeddings, images, digits[:300], (None, ranks), Pixels(), steps=200,
    ))
    assert history.shape == (200, 3) and history.isfinite().all()
    first, last = history[:10, 0].mean(), history[-10:, 0].mean()
    assert first > 0.5 and last < first / 3, "it misses what is asked, and then hardly"
    assert history[0, 2] == 0 < history[-1, 2], "moved away from N(0, I)"
    assert torch.allclose(history[:, 1], torch.tensor(10.0).log()), "nothing to read here"
    condition = model.head(toy_captions(600, seed=1)[0])
    mean, log_scale = model.prior(condition).chunk(2, dim=1)
    named = model.head.levels(condition).argmax(2) - 2
    for k in range(4):
        means = [mean[named[:, k] == level, k].mean().item() for level in range(-2, 3)]
        assert means == sorted(means) and means[0] < -1 and means[-1] > 1, means
        silent = named[:, k] == UNSAID
        assert abs(mean[silent, k].mean()) < 0.3, "where nothing is named the codes stay"
        narrow = log_scale[named[:, k] == 0, k].exp().mean()
        assert narrow < 0.8 * log_scale[silent, k].exp().mean(), "medium is narrow"
    assert mean[:, 4:].abs().mean() < 0.1, "what is not measured stays where it was"


def test_nothing_but_the_prior_is_trained(head, pictures, monkeypatch):
    """The real decoder, ruler and measures, for a few steps and on a few pictures."""
    real, digits, measures, ranks = pictures
    measure, teach = steering.draw_and_measure, steering.train_ruler
    monkeypatch.setattr(steering, "draw_and_measure", lambda *x, seed: measure(*x, n=40, seed=seed))
    monkeypatch.setattr(steering, "train_ruler", lambda *x, **how: teach(*x, **how | {"steps": 6}))
    nets = build(StyleCVAE, head).train(), Proofreader().requires_grad_(False)
    before = [{name: x.clone() for name, x in net.state_dict().items()} for net in nets]
    images = (real[:, 0] * 255).round().to(torch.uint8)
    embeddings, styles = toy_captions(1200)[0], (measures, ranks)
    history = steering.train_prior(nets[0], embeddings, images, digits, styles, nets[1], steps=6)
    assert len(history) == 6 and torch.tensor(history).isfinite().all()
    moved = {name for net, old in zip(nets, before, strict=True)
             for name, x in net.state_dict().items() if not torch.equal(x, old[name])}
    assert {name.split(".")[0] for name in moved} == {"prior"}
    assert not nets[0].training and not any(p.requires_grad for p in nets[0].parameters())


def test_familiarity_separates_digits_from_others():
    def clusters(n, seed):
        generator = seeded(seed)
        digits = torch.randint(10, (n,), generator=generator)
        noise = 0.1 * torch.randn(2, n, 384, generator=generator)
        kinds = torch.randint(20, 40, (n,), generator=generator)
        known, others = noise[0] + torch.eye(384)[digits], noise[1] + torch.eye(384)[kinds]
        return F.normalize(known, dim=1), digits, F.normalize(others, dim=1)

    net = train_familiarity(*clusters(1500, 0), steps=120)
    known, digits, others = clusters(300, 1)
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    inside, outside = net(known).softmax(1), net(others).softmax(1)
    assert (inside[:, :10].argmax(1) == digits).float().mean() > 0.97
    assert (inside[:, :10].max(1).values > 0.5).float().mean() > 0.95
    assert (outside[:, 10] > 0.5).float().mean() > 0.95
