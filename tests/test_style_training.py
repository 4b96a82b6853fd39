"""What mnist-style is trained with: the ruler, the style head, the prior, the familiarity."""

import pytest
import torch
import torch.nn.functional as F

from helpers import style_training
from helpers.mnist import load_mnist, to_float
from helpers.models import Proofreader, Ruler, SentenceLayers, StyleCVAE, StyleHead
from helpers.strokes import measure_strokes, measure_styles
from helpers.style_training import (
    HIGH,
    LOW,
    draw_and_measure,
    fit,
    miss,
    pair_batches,
    recalibrate,
    train_familiarity,
    train_prior,
    train_ruler,
    train_style_head,
)
from helpers.styles import UNSAID, level_of, rank_within_digit


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", name="pictures")
def fixture_pictures():
    """Eight hundred real pictures, their digits and the ranks of their styles."""
    images, digits = load_mnist(train=False)
    pictures, digits = to_float(images[:800]), digits[:800]
    measures = measure_styles(measure_strokes(pictures))
    return pictures, digits, measures, rank_within_digit(measures, digits, measures, digits)


def toy_captions(n, seed=0):
    """Embeddings (n, 384) that spell out a digit and four levels, with both as tensors."""
    generator = seeded(seed)
    digits = torch.randint(10, (n,), generator=generator)
    said = torch.randint(6, (n, 4), generator=generator) - 2
    x = 0.1 * torch.randn(n, 384, generator=generator)
    x[:, :10] += F.one_hot(digits, 10)
    x[:, 10:34] += F.one_hot(said + 2, 6).flatten(1)
    return F.normalize(x, dim=1), digits, said


@pytest.fixture(scope="module", name="head")
def fixture_head():
    """The weights of a head that reads toy captions, and the losses of its training."""
    embeddings, digits, said = toy_captions(3000)
    torch.manual_seed(0)
    head = StyleHead()
    losses = train_style_head(head, embeddings, digits, said, steps=250, batch=200)
    return head, losses


# miss


def test_nothing_is_missed_inside_the_ranges():
    levels = torch.tensor([-2, -1, 0, 1, 2])[:, None].expand(5, 4)
    for ranks in (LOW, HIGH, (LOW + HIGH) / 2):
        assert miss(ranks[:, None].expand(5, 4), levels) == 0


def test_a_named_level_is_missed_by_its_distance():
    levels = torch.tensor([[1, -2, 0, 2]])
    assert miss(torch.tensor([[0.6, 0.4, 0.5, 0.95]]), levels).item() == pytest.approx(0.1 + 0.3)
    assert miss(torch.tensor([[1.0, 0.0, 0.7, 0.0]]), levels).item() == pytest.approx(1.1)
    two = torch.tensor([[0.6, 0.4, 0.5, 0.95], [0.8, 0.05, 0.5, 0.95]])
    assert miss(two, levels.expand(2, 4)).item() == pytest.approx(0.4 / 2), "averaged over pictures"


def test_the_ranges_lie_inside_their_levels():
    assert level_of((LOW + HIGH) / 2).tolist() == [-2, -1, 0, 1, 2]
    assert (LOW < HIGH).all() and (LOW[1:] >= HIGH[:-1]).all()
    thirds = torch.tensor([[0, 1 / 3], [0, 1 / 3], [1 / 3, 2 / 3], [2 / 3, 1], [2 / 3, 1]])
    assert (LOW >= thirds[:, 0] - 1e-6).all() and (HIGH <= thirds[:, 1] + 1e-6).all()


def test_unnamed_ranks_should_be_spread_evenly():
    silent = torch.full((200, 4), UNSAID)
    even = (torch.arange(200) + 0.5) / 200
    shuffled = torch.stack([even[torch.randperm(200, generator=seeded(k))] for k in range(4)], 1)
    assert miss(shuffled, silent, silence=1.0).item() == pytest.approx(0, abs=1e-5)
    uniform = torch.rand(200, 4, generator=seeded())
    assert miss(uniform, silent, silence=1.0).item() < 4 * 0.06
    collapsed = torch.full((200, 4), 0.5)
    assert miss(collapsed, silent, silence=1.0).item() == pytest.approx(4 * 0.25, abs=0.01)
    assert miss(torch.zeros(200, 4), silent, silence=1.0).item() == pytest.approx(2, abs=0.01)
    assert miss(collapsed, silent, silence=0.3).item() == pytest.approx(0.3, abs=0.01)
    assert miss(collapsed, silent) > 0.05, "by itself it counts too"


def test_named_and_unnamed_are_kept_apart():
    """The columns do not mix, and a silent picture is not asked for level 2."""
    levels = torch.tensor([[UNSAID, 2, 0, 0], [0, 2, 0, 0]])
    ranks = torch.tensor([[0.5, 1.0, 0.5, 0.5], [0.5, 1.0, 0.5, 0.5]])
    assert miss(ranks, levels, silence=1.0).item() == 0, "alone: the middle"
    ranks = ranks.clone()
    ranks[0, 0] = 0.1
    assert miss(ranks, levels, silence=1.0).item() == pytest.approx(0.4 / 2)
    for one in (torch.full((1, 4), UNSAID), torch.zeros(1, 4, dtype=torch.long)):
        assert miss(torch.full((1, 4), 0.5), one).item() == pytest.approx(0)


def test_miss_has_gradients_in_the_right_direction():
    ranks = torch.tensor([[0.2, 0.9, 0.5, 0.5]], requires_grad=True)
    miss(ranks, torch.tensor([[1, -1, 0, 0]])).backward()
    assert ranks.grad.tolist() == [[-1, 1, 0, 0]]
    ranks = torch.full((40, 4), 0.2) + 0.1 * torch.rand(40, 4, generator=seeded())
    ranks.requires_grad_()
    miss(ranks, torch.full((40, 4), UNSAID)).backward()
    assert ranks.grad.ne(0).any() and ranks.grad.isfinite().all()


# fit, batches


def test_fit_minimises():
    x = torch.nn.Parameter(torch.tensor([5.0, -3.0]))
    losses = fit([x], lambda: (x - torch.tensor([1.0, 2.0])).square().sum(), 300, 0.1)
    assert len(losses) == 300 and losses[-1] < 1e-3 < losses[0]
    assert x.tolist() == pytest.approx([1, 2], abs=0.05)


def test_pair_batches_pair_each_picture_with_its_caption():
    images = torch.arange(25, dtype=torch.uint8)[:, None, None].expand(25, 28, 28)
    embeddings = torch.arange(40.0)[:, None].expand(40, 384)
    batches = list(pair_batches(images, embeddings, 10, seeded()))
    assert len(batches) == 2, "an incomplete last batch is left out"
    seen = []
    for pictures, inputs in batches:
        assert pictures.shape == (10, 1, 28, 28) and inputs.shape == (10, 384)
        assert pictures.dtype == torch.float32
        numbers = (pictures[:, 0, 0, 0] * 255).round()
        assert torch.equal(numbers, inputs[:, 0])
        seen += numbers.tolist()
    assert len(set(seen)) == 20 and seen != sorted(seen)
    again = list(pair_batches(images, embeddings, 10, seeded()))
    assert torch.equal(again[0][1], batches[0][1])
    other = list(pair_batches(images, embeddings, 10, seeded(1)))
    assert not torch.equal(other[0][1], batches[0][1])


# the ruler


def test_the_ruler_learns_and_freezes(pictures):
    real, _, _, ranks = pictures
    torch.manual_seed(0)
    ruler = Ruler()
    losses = train_ruler(ruler, real[:600], ranks[:600], steps=50)
    assert len(losses) == 50 and not any(p.requires_grad for p in ruler.parameters())
    assert all(p.grad is None or not p.grad.any() for p in ruler.parameters())
    with torch.no_grad():
        wrong = (ruler(real[600:]) - ranks[600:]).square().mean(0)
    assert wrong[:2].max() < 0.05, "a constant is wrong by 1/12; thickness and slant are easy"
    more = train_ruler(ruler, real[:600], ranks[:600], steps=5, rate=1e-4)
    assert sum(more) / 5 < losses[0], "it learns on from where it was"
    assert not any(p.requires_grad for p in ruler.parameters())


# the style head


def test_the_style_head_learns_to_read_and_freezes(head):
    head, losses = head
    assert len(losses) == 250 and losses[-1] < losses[0] / 2
    assert not any(p.requires_grad for p in head.parameters())
    assert head.read.centre.any() and head.read.scale != 1
    test, digits, said = toy_captions(500, seed=1)
    digit, levels = head.eval().logits(test)
    assert (digit.argmax(1) == digits).float().mean() > 0.95
    assert (levels.argmax(2) - 2 == said).float().mean() > 0.9


# the drawings


def reading_model(seed=0):
    """A `StyleCVAE` whose head has learned nothing and is frozen, as in training."""
    torch.manual_seed(seed)
    model = StyleCVAE()
    model.head.requires_grad_(False)
    return model


def test_draw_and_measure(pictures):
    _, digits, measures, _ = pictures
    embeddings, model = toy_captions(len(digits))[0], reading_model().eval()
    found = [draw_and_measure(model, embeddings, digits, measures, n=60, seed=s) for s in (0, 0, 1)]
    drawn, ranks = found[0]
    assert drawn.shape == (60, 1, 28, 28) and 0 <= drawn.min() and drawn.max() <= 1
    assert ranks.shape == (60, 4) and 0 <= ranks.min() and ranks.max() <= 1
    assert not drawn.requires_grad and not ranks.requires_grad
    assert torch.equal(drawn, found[1][0]) and torch.equal(ranks, found[1][1])
    assert not torch.equal(drawn, found[2][0])


def test_draw_and_measure_ranks_within_the_digit_of_the_caption(pictures):
    """A model that returns the real picture of each caption measures its rank."""
    real, digits, measures, ranks = pictures

    class Returns:
        latent = 1

        def draw(self, embeddings, z):
            return real[embeddings[:, 0].long()]

    names = torch.arange(800.0)[:, None].expand(-1, 384)
    drawn, found = draw_and_measure(Returns(), names, digits, measures, n=70, seed=3)
    rows = torch.randint(800, (70,), generator=seeded(3))
    assert torch.equal(drawn, real[rows])
    assert torch.allclose(found, ranks[rows], atol=0.02)


# the ruler goes on learning


def test_recalibrate_shows_drawings_and_real_pictures(monkeypatch):
    shown = []
    monkeypatch.setattr(
        style_training, "train_ruler", lambda *data, **how: shown.append((data, how))
    )
    drawn = [(torch.full((n, 1, 28, 28), n / 10), torch.full((n, 4), n / 10)) for n in (2, 3)]
    ruler, real = Ruler(), (torch.zeros(4, 1, 28, 28), torch.zeros(4, 4))
    recalibrate(ruler, drawn, real, seed=5)
    ((learner, pictures, ranks), how) = shown[0]
    assert len(shown) == 1 and learner is ruler and how["seed"] == 5
    assert pictures.shape == (9, 1, 28, 28) and ranks.shape == (9, 4)
    assert torch.equal(pictures[:, 0, 0, 0], ranks[:, 0]), "each picture keeps its ranks"
    assert sorted(ranks[:, 0].tolist()) == pytest.approx([0] * 4 + [0.2] * 2 + [0.3] * 3)


def cut_short(monkeypatch, most):
    """Let rulers learn for a few steps only, also where the helpers say how many."""
    teach = style_training.train_ruler

    def teach_briefly(ruler, pictures, ranks, steps=most, **how):
        return teach(ruler, pictures, ranks, steps=min(steps, most), **how)

    monkeypatch.setattr(style_training, "train_ruler", teach_briefly)


def test_recalibrate_teaches_what_drawings_measure(pictures, monkeypatch):
    """Pictures that the ruler has never seen the like of, here: white ink on black paper."""
    real, _, _, ranks = pictures
    torch.manual_seed(0)
    ruler = Ruler()
    train_ruler(ruler, real[:500], ranks[:500], steps=20)
    cut_short(monkeypatch, 25)
    drawn = 1 - real[:400], ranks[:400]

    def wrong():
        with torch.no_grad():
            return F.mse_loss(ruler(1 - real[400:500]), ranks[400:500]).item()

    before = wrong()
    recalibrate(ruler, [drawn], (real[:100], ranks[:100]), seed=0)
    assert wrong() < 0.8 * before
    assert not any(p.requires_grad for p in ruler.parameters())


# the prior


class Pixels(torch.nn.Module):
    """A ruler that reads the four ranks from the first pixels."""

    def forward(self, pictures):
        return pictures[:, 0, 0, :4]


class Spelling(StyleCVAE):
    """A decoder that writes the first components of its code there, spread evenly at first."""

    def decode(self, z, condition):
        return F.pad(1.7 * z[:, None, None, :4], (0, 24, 0, 27))


def blind(pictures):
    """A proofreader that sees nothing."""
    return torch.zeros(len(pictures), 10)


def with_head(kind, head):
    """Build a model with that head."""
    torch.manual_seed(0)
    model = kind()
    model.head.load_state_dict(head.state_dict())
    return model.eval()


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before, model):
    """Name the parts of a model whose weights are not what they were."""
    return {n.split(".")[0] for n, t in model.state_dict().items() if not torch.equal(before[n], t)}


@pytest.fixture(name="rounds")
def fixture_rounds(monkeypatch):
    """Measure nothing, teach no ruler; return the (seeds of drawings, lengths, real) shown."""
    drawn, shown = [], []

    def draw(model, embeddings, digits, measures, seed):
        drawn.append(seed)
        return torch.full((2, 1, 28, 28), float(seed)), torch.zeros(2, 4)

    def show(ruler, pairs, real, seed):
        shown.append(([pictures[0, 0, 0, 0].item() for pictures, _ in pairs], len(real[0]), seed))

    monkeypatch.setattr(style_training, "Ruler", Pixels)
    monkeypatch.setattr(style_training, "train_ruler", lambda *data, **how: [])
    monkeypatch.setattr(style_training, "draw_and_measure", draw)
    monkeypatch.setattr(style_training, "recalibrate", show)
    return drawn, shown


def train_spelling(head, steps, seed=0):
    model, (embeddings, digits, _) = with_head(Spelling, head), toy_captions(800)
    images = torch.zeros(300, 28, 28, dtype=torch.uint8)
    nothing = torch.zeros(300, 4)
    history = train_prior(
        model, embeddings, images, digits[:300], nothing, nothing, blind, steps=steps, seed=seed
    )
    return model, history


def test_the_prior_learns_where_the_levels_lie(head, rounds):
    """Known answer: the code itself is what is measured."""
    model, history = train_spelling(head[0], 250)
    history = torch.tensor(history)
    assert history.shape == (250, 3) and history.isfinite().all()
    first, last = history[:10, 0].mean(), history[-10:, 0].mean()
    assert first > 0.5 and last < first / 4, "it misses what is asked, and then hardly"
    assert history[0, 2] == 0 < history[-1, 2], "moved away from N(0, I)"
    assert torch.allclose(history[:, 1], torch.tensor(10.0).log()), "nothing to read here"
    embeddings, _, said = toy_captions(600, seed=1)
    with torch.no_grad():
        condition = model.head(embeddings)
        mean, log_scale = model.prior(condition).chunk(2, dim=1)
    said = model.head.levels(condition).argmax(2) - 2
    for k in range(4):
        means = [mean[said[:, k] == level, k].mean().item() for level in range(-2, 3)]
        assert means == sorted(means) and means[0] < -1 and means[-1] > 1, means
        silent = said[:, k] == UNSAID
        assert abs(mean[silent, k].mean()) < 0.3, "where nothing is said the codes stay"
        narrow = log_scale[said[:, k] == 0, k].exp().mean()
        assert narrow < 0.8 * log_scale[silent, k].exp().mean(), "medium is narrow"
    assert mean[:, 4:].abs().mean() < 0.1, "what is not measured stays where it was"


def test_the_ruler_sees_fresh_drawings_every_150_steps(head, rounds, monkeypatch):
    drawn, shown = rounds

    @torch.no_grad()
    def only_look(parameters, loss_of, steps, rate):
        return [loss_of() for _ in range(steps)]

    monkeypatch.setattr(style_training, "fit", only_look)
    train_spelling(head[0], 601)
    assert drawn == [0, 1, 2, 3, 4], "another seed each time"
    windows = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4]]
    assert shown == [(window, 300, seed) for seed, window in enumerate(windows)]


def test_same_seed_same_prior(head, rounds):
    runs = [train_spelling(head[0], 3, seed) for seed in (0, 0, 1)]
    assert runs[0][1] == runs[1][1] != runs[2][1]
    weights = [model.prior[-1].weight for model, _ in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_nothing_but_the_prior_is_trained(head, pictures, monkeypatch):
    """The real decoder, ruler and measures, for a few steps and on a few pictures."""
    real, digits, measures, ranks = pictures
    measure = style_training.draw_and_measure
    cut_short(monkeypatch, 6)
    monkeypatch.setattr(
        style_training, "draw_and_measure", lambda *data, seed: measure(*data, n=40, seed=seed)
    )
    model, embeddings = with_head(StyleCVAE, head[0]).train(), toy_captions(1200)[0]
    proofreader = Proofreader().requires_grad_(False)
    before, read = weights_of(model), weights_of(proofreader)
    images = (real[:, 0] * 255).round().to(torch.uint8)
    history = train_prior(
        model, embeddings, images, digits, measures, ranks, proofreader, steps=6
    )
    assert len(history) == 6 and torch.tensor(history).isfinite().all()
    assert changed(before, model) == {"prior"} and not changed(read, proofreader)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("prior"))
    z, condition = torch.randn(5, 20, generator=seeded()), model.head(embeddings[:5])
    assert not torch.equal(model.place(z, condition), z)


# familiarity


def test_familiarity_separates_digits_from_others():
    def clusters(n, seed):
        generator = seeded(seed)
        digits = torch.randint(10, (n,), generator=generator)
        noise = 0.1 * torch.randn(2, n, 384, generator=generator)
        kinds = torch.randint(20, 40, (n,), generator=generator)
        known = noise[0] + torch.eye(384)[digits]
        others = noise[1] + torch.eye(384)[kinds]
        return F.normalize(known, dim=1), digits, F.normalize(others, dim=1)

    known, digits, others = clusters(1500, 0)
    net = train_familiarity(known, digits, others, steps=120)
    assert isinstance(net, SentenceLayers) and not net.training
    assert not any(p.requires_grad for p in net.parameters())
    known, digits, others = clusters(300, 1)
    inside, outside = net(known).softmax(1), net(others).softmax(1)
    assert inside.shape == (300, 11)
    assert (inside[:, :10].argmax(1) == digits).float().mean() > 0.97
    assert (inside[:, :10].max(1).values > 0.5).float().mean() > 0.95
    assert (outside[:, 10] > 0.5).float().mean() > 0.95
    again = train_familiarity(*clusters(1500, 0), steps=3)
    assert torch.equal(
        again(known), train_familiarity(*clusters(1500, 0), steps=3)(known)
    ), "same seed, same network"
