"""What training is fed with, and the training loop, by hand on a model of one number."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import training
from helpers.flow import Velocity, train_velocity
from helpers.mnist import load_mnist, to_float
from helpers.models import ConvCVAE, FirstGenerator, PromptHead, Proofreader, ShapesCVAE
from helpers.shapes import PROMPTS, draw_all_shapes
from helpers.text import CharacterTokenizer
from helpers.training import train_cvae, validate

TOKENS = CharacterTokenizer().encode(PROMPTS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_shape_batches_are_complete_fresh_and_labelled():
    generator = seeded()
    first, second = (list(training.shape_batches(TOKENS, 20, 16, generator)) for _ in range(2))
    assert len(first) == 180 // 16 and not torch.equal(first[0][0], second[0][0])
    pictures, asked = (torch.cat(parts) for parts in zip(*first, strict=True))
    ink = pictures[(asked == TOKENS[PROMPTS.index("cross")]).all(1)].sum((1, 2, 3))
    assert set(ink.tolist()) == {25, 29, 33, 37}, "2 (2 arm + 1) - 1 for arms from 6 to 9"


def test_caption_batches_show_every_picture_once_with_a_caption_of_its_digit():
    images = torch.arange(230, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28)
    labels = torch.randint(10, (230,), generator=seeded(1))
    digit, caption = torch.meshgrid(torch.arange(10), torch.arange(7), indexing="ij")
    table = torch.stack([digit, caption], dim=2).float()  # says which digit and which caption
    generator, runs = seeded(), []
    for given in (generator, generator, seeded()):
        batches = training.caption_batches(images, labels, table, 50, given)
        seen, heard = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert seen.shape == (200, 1, 28, 28), "the last 30 pictures do not fill a batch"
        rows = (seen[:, 0, 0, 0] * 255).round().long()
        assert len(rows.unique()) == 200 and seen.max() <= 1
        assert torch.equal(heard[:, 0].long(), labels[rows]), "a caption for the wrong digit"
        assert heard[:, 1].long().bincount(minlength=7).min() > 10, "every caption comes up"
        runs.append((rows.tolist(), heard.tolist()))
    assert runs[0] == runs[2] != runs[1], "the next epoch has another order"


def test_pixels_are_tossed_one_by_one_as_often_white_as_they_are_grey():
    levels = [0.0, 0.25, 0.5, 0.5, 0.9, 1.0]
    given = [(torch.full((400, 1, 28, 28), level), object()) for level in levels]
    tossed = list(training.toss_pixels(given, seeded()))
    for (x, inputs), (grey, theirs), level in zip(tossed, given, levels, strict=True):
        assert inputs is theirs and (grey == level).all() and x.shape == grey.shape
        assert set(x.unique().tolist()) <= {0, 1}
        assert x.mean().item() == pytest.approx(level, abs=0.004 if level % 1 else 0)
    (one, _), (other, _) = tossed[2:4]
    neighbours = torch.stack([one[..., 1:].flatten(), one[..., :-1].flatten()])
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.02 and one.mean(0).max() < 0.7
    assert not torch.equal(one, other), "anew each time"
    assert torch.equal(one, list(training.toss_pixels(given, seeded()))[2][0])


def test_fit_stops_at_the_step_whose_loss_is_no_number():
    x, seen = nn.Parameter(torch.ones(3)), []
    x.register_hook(lambda _: seen.append(x.tolist()))
    said = r"^The loss is inf at step 2: lower the learning rate\.$"
    with pytest.raises(FloatingPointError, match=said):
        training.fit([x], lambda step: x.sum() * (math.inf if step == 2 else 1), 4, 0.1)
    assert len(seen) == 2 and x.isfinite().all() and x.tolist() != seen[-1], "two steps are taken"


def test_a_learning_rate_goes_up_and_down_or_stays():
    """With a gradient of 1, each move of a weight is about as long as the rate."""
    rates = []
    for schedule in (training.constant, training.one_cycle):
        x, places = nn.Parameter(torch.zeros(1, dtype=torch.float64)), []
        x.register_hook(lambda _, x=x, places=places: places.append(x.item()))
        training.fit([x], lambda step, x=x: x.sum(), 40, 0.25, schedule=schedule)
        rates.append(-torch.tensor([*places, x.item()]).diff())
    assert torch.allclose(rates[0], torch.full((40,), 0.25), rtol=1e-3)
    top = rates[1].argmax().item()
    assert 0.2 < rates[1].max() < 0.26 and 5 < top < 20
    assert (rates[1][: top + 1].diff() > 0).all() and (rates[1][top:].diff() < 0).all()
    assert rates[1][0] < 0.03 and rates[1][-1] < 0.001


class OneNumber(nn.Module):
    """A CVAE whose posterior has one mean for all: its KL is theta² / 2, the rest is constant."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(1.0))

    def forward(self, pictures, inputs, generator):
        mean = self.theta.expand(len(pictures), 1)
        return inputs[:, None, None, None].expand_as(pictures), mean, torch.zeros_like(mean)


def five_batches(generator):
    for k in range(5):
        yield torch.zeros(2, 1, 28, 28), torch.tensor([k, k]) - 2.0


def train_number(epochs=4, steps=5, batches=five_batches, **settings):
    """Train `OneNumber`: the model, its average, history, theta before each step and its pulls."""
    model, thetas, pulls = OneNumber(), [], []
    model.theta.register_hook(lambda pull: pulls.append(pull.item()))
    penalty = settings.pop("penalty", lambda *_: 0)

    def note(model, inputs, generator):
        thetas.append(model.theta.item())
        return penalty(model, inputs, generator)

    settings = {"beta": 2.0, "share": 0, "rate": 0.1, "penalty": note} | settings
    return model, *train_cvae(model, batches, epochs, steps, **settings), thetas, pulls


def test_the_weight_of_the_kl_rises_in_a_straight_line_over_the_whole_training():
    assert [training.warm_up(p, 4.0, 0.5) for p in (0, 0.25, 0.5, 1)] == [0.0, 2.0, 4.0, 4.0]
    assert training.warm_up(0.0, 4.0, 0) == 4.0
    *_, history, _, pulls = train_number(share=0.5, rate=1e-12)  # theta stays 1
    expected = [2 * min(1, step / 10) for step in range(20)]
    assert pulls == pytest.approx(expected, abs=1e-6)
    assert [row["beta"] for row in history] == pytest.approx(expected[4::5])


def test_averaged_weights_are_returned_and_validated():
    found = []
    model, average, history, thetas, _ = train_number(
        validation=list(five_batches(None)),
        after_epoch=lambda average, done: found.append((average.theta.item(), done)),
    )
    mean, means = 1.0, []
    for step, theta in enumerate([*thetas[1:], model.theta.item()]):
        keep = (1 + step) / (10 + step)
        mean = keep * mean + (1 - keep) * theta
        means.append(mean)
    assert abs(mean - model.theta.item()) > 0.01, "average and weights differ"
    assert average.theta.item() == pytest.approx(mean, abs=1e-5) and not average.training
    assert found == [(pytest.approx(means[5 * k + 4], abs=1e-5), k + 1) for k in range(4)]
    kl = [theta**2 / 2 for theta, _ in found]
    assert [row["validation kl"] for row in history] == pytest.approx(kl, abs=1e-5)


def test_a_history_says_what_an_epoch_was():
    _, _, history, thetas, _ = train_number(epochs=3, rate=0.05)
    kl = torch.tensor(thetas).square().view(3, 5).mean(1) / 2
    nats = 784 * F.softplus(torch.arange(5) - 2.0).mean().item()
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["kl"] for row in history] == pytest.approx(kl.tolist(), abs=1e-5)
    assert [row["reconstruction"] for row in history] == pytest.approx([nats] * 3, rel=1e-5)
    assert history[-1]["learning rate"] < 1e-4 < history[0]["learning rate"]
    history = train_number(epochs=2, schedule=training.constant)[2]
    assert [row["learning rate"] for row in history] == pytest.approx([0.1, 0.1])


def test_validation_is_the_mean_over_batches_pinned_and_leaves_the_mode_alone():
    torch.manual_seed(0)
    model, validate = ShapesCVAE(latent=4).train(), training.validate
    batches = list(training.shape_batches(TOKENS, 20, 45, seeded(9)))
    assert validate(model, batches) == validate(model, batches), "the noise is pinned"
    with torch.no_grad():
        model.encoder[-1].weight.zero_()  # no noise: batches can be put together
        model.encoder[-1].bias.copy_(torch.tensor([0.5] * 4 + [-40.0] * 4))
    found = validate(model, batches)
    together = validate(model, [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))])
    assert found == pytest.approx(together, rel=1e-5) and model.training
    assert found["validation kl"] == pytest.approx(4 * (0.125 + 19.5), rel=1e-3)
    assert found["validation loss"] == pytest.approx(sum([*found.values()][:2]))


def test_a_penalty_pulls_and_stays_out_of_the_history():
    met = []

    def penalty(model, inputs, generator):
        assert model.training and isinstance(generator, torch.Generator)
        met.append(inputs[0].item())
        return 3 * model.theta + 100

    *_, history, _, pulls = train_number(epochs=2, rate=1e-12, penalty=penalty)
    assert pulls == pytest.approx([5.0] * 10, abs=1e-6)
    assert met == [-2, -1, 0, 1, 2] * 2, "the inputs of each batch"
    for row, other in zip(history, train_number(epochs=2, rate=1e-12)[2], strict=True):
        assert row == pytest.approx(other | {"seconds": row["seconds"]})


def test_training_learns_and_depends_on_its_seed():
    shapes, runs = (lambda generator: training.shape_batches(TOKENS, 20, 60, generator)), []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        model, history = train_cvae(ShapesCVAE(4), shapes, 8, 3, beta=2.0, seed=seed)
        runs.append(weights(model))
        assert history[-1]["reconstruction"] < 0.85 * history[0]["reconstruction"]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_another_number_of_batches_than_steps_is_refused():
    for steps, batches, n in ((2, five_batches, 5), (6, five_batches, 5), (5, lambda _: [], 0)):
        with pytest.raises(ValueError, match=f"^{n} batches are no epoch of {steps}: `steps` must"):
            train_number(steps=steps, batches=batches)


def test_a_loss_that_is_no_number_keeps_weights_and_files_as_before_it(tmp_path):
    def spoilt(generator):
        for k, (pictures, inputs) in enumerate(five_batches(generator)):
            yield pictures, inputs * (3e38 if k == 3 else 1)

    thetas = []
    with pytest.raises(FloatingPointError, match=r"^The loss is inf at step 3: lower the"):
        train_cvae(model := OneNumber(), spoilt, 2, 5, rate=0.1, share=0,
                   penalty=lambda model, *_: thetas.append(model.theta.item()) or 0)
    assert model.theta.item() == thetas[3] != thetas[2], "three steps, and no fourth"
    with pytest.raises(FloatingPointError, match=r"^The loss is inf at step 5: lower the"):
        train_number(validation=list(spoilt(None)))
    assert not list(tmp_path.iterdir())


def test_what_no_model_learns_from_is_refused():
    """At the doors: pictures outside [0, 1] or of another kind, numbers that are not finite."""
    grey, vectors, digits = torch.rand(20, 1, 28, 28), torch.randn(20, 384), torch.arange(20) % 10
    spoilt = vectors.clone()
    spoilt[7, 3] = math.nan
    for pictures, inputs, words in (
        (grey * 255, vectors, "values from 0"), ((grey - 0.3) / 0.3, vectors, "values from 0"),
        (grey / 0, vectors, "values from 0"), (grey[:, 0], vectors, "floats (n, 1, h, w)"),
        ((grey * 255).byte(), vectors, "floats (n, 1, h, w), not torch.uint8"),
        (grey, spoilt, "one row of finite inputs"), (grey, vectors[:9], "one row of finite inputs"),
    ):
        given = pictures, inputs
        for validation, batch in (((), given), ([given], (grey, vectors))):
            with pytest.raises(ValueError, match=re.escape(words)):
                train_cvae(ConvCVAE(4), lambda _, b=batch: [b], 1, 1, validation=validation)
    for train in (lambda: training.train_head(PromptHead(), spoilt, digits),
                  lambda: train_velocity(Velocity(384), spoilt, vectors, torch.zeros(20, 34))):
        with pytest.raises(ValueError, match="was given NaN or infinity: mend your data"):
            train()
    with pytest.raises(FloatingPointError, match="The loss is nan at step 1: lower the"):
        training.train_head(PromptHead(), vectors, digits, rate=1e38)


def test_averages_cover_the_whole_state_and_validation_counts_pictures():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = copy.deepcopy(model)
    model(torch.randn(9, 2) + 5)
    training.update_average(average, model, step=1000)
    assert torch.equal(average[1].running_mean, model[1].running_mean)
    logits = torch.tensor([0.0, 0.0, 0.0, 3.0])
    batches = [(torch.zeros(len(x), 1, 28, 28), x) for x in logits.split([3, 1])]
    cost = 784 * F.softplus(logits).mean().item()
    assert validate(OneNumber(), batches)["validation reconstruction"] == pytest.approx(cost)


@pytest.fixture(name="model")
def fixture_model():
    """A model whose head reads a three in every sentence."""
    torch.manual_seed(0)
    model = ConvCVAE()
    model.head.requires_grad_(False)
    model.head.digit.weight.zero_()
    model.head.digit.bias.copy_(torch.eye(10)[3])
    return model.train()


def test_proofreading_costs_what_the_digit_that_the_head_reads_is_misread(model):
    for digit, surety, cost in ((0, 0.0, math.log(10)), (3, 20.0, 0), (4, 20.0, 20)):
        reader = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).requires_grad_(False)
        reader[1].weight.zero_()
        reader[1].bias.copy_(surety * torch.eye(10)[digit])
        given = model, torch.randn(99, 384), seeded(), reader
        assert training.proofread(*given).item() == pytest.approx(5 * cost, abs=1e-3)
        half = training.proofread(*given, n=7, strictness=0.5)
        assert half.item() == pytest.approx(0.5 * cost, abs=1e-3)


def test_a_proofreader_is_shown_the_prior_and_teaches_the_decoder_alone(model):
    reader, codes = Proofreader().eval().requires_grad_(False), []
    model.expand.register_forward_pre_hook(lambda _, given: codes.append(given[0][:, :20]))
    for _ in range(2):
        training.proofread(model, torch.randn(1000, 384), seeded(), reader, n=1000).backward()
    assert torch.equal(*codes), "the codes come from the generator"
    assert codes[0].mean().abs() < 0.03 and codes[0].std().item() == pytest.approx(1, abs=0.03)
    assert all(p.grad is None for p in reader.parameters()), "the proofreader is frozen"
    reached = {name.split(".")[0] for name, p in model.named_parameters()
               if p.grad is not None and p.grad.any()}
    assert reached == {"expand", "film1", "up1", "film2", "up2"}


def test_a_classifier_is_shown_every_picture_once_an_epoch_and_shifted():
    images, shown = torch.zeros(23, 28, 28, dtype=torch.uint8), []
    images[:, 14, 14] = torch.arange(1, 24)
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    classifier.register_forward_pre_hook(lambda _, given: shown.append(given[0].clone()))
    training.train_classifier(classifier, images, torch.zeros(23).long(), epochs=40, batch=4)
    assert len(shown) == 40 * 5, "the last three pictures do not fill a batch"
    for epoch in range(40):
        pictures = torch.cat(shown[5 * epoch : 5 * epoch + 5])
        assert len((pictures.amax((1, 2, 3)) * 255).round().unique()) == 20
    places = [pictures[:, 0].nonzero()[:, 1:].unique(dim=0) - 14 for pictures in shown]
    assert all(len(place) == 1 for place in places), "a batch is shifted as a whole"
    assert set(torch.cat(places).flatten().tolist()) == {-2, -1, 0, 1, 2}


def test_a_proofreader_learns_freezes_and_repeats_itself_whatever_came_before():
    images, labels = load_mnist(train=False)
    with pytest.raises(ValueError, match="20 pictures do not fill a batch of 250: give more"):
        training.train_proofreader(images[:20], labels[:20])
    reader = training.train_proofreader(images[:3000], labels[:3000], epochs=4)
    right = reader(to_float(images[5000:6000])).argmax(1) == labels[5000:6000]
    assert right.float().mean() > 0.75 and not reader.training
    assert not any(p.requires_grad for p in reader.parameters())
    readers = [weights(training.train_proofreader(images[:500], labels[:500], 1, seed))
               for seed in (77, 77, 78)]
    assert torch.equal(readers[0], readers[1]) and not torch.equal(readers[0], readers[2])


def make_sentences(per_digit, seed):
    """Ten directions for the digits, other directions for the phrasing, all of length 1."""
    towards = torch.randn(10, 384, generator=seeded(99))
    digits = torch.arange(10).repeat(per_digit)
    phrasing = torch.randn(len(digits), 384, generator=seeded(seed))
    return F.normalize(towards[digits] + 0.7 * phrasing, dim=1), digits


def test_a_prompt_head_learns_the_digit_forgets_the_phrasing_and_is_frozen():
    torch.manual_seed(0)
    head, sentences, places = PromptHead(), make_sentences(40, 1), []
    head.net[0].register_forward_pre_hook(lambda *_: places.append(weights(head.net)))
    losses = training.train_head(head, *sentences, steps=150, rate=2e-3)
    moves = torch.stack([*places, weights(head.net)]).diff(dim=0).abs().amax(1)
    assert moves[0].item() == pytest.approx(2e-3, rel=0.01), "with Adam, the learning rate"
    assert moves[-1] < 0.03 * moves[0], "it has fallen to nothing"
    assert len(losses) == 150 and sum(losses[-10:]) < 0.2 * sum(losses[:10])
    assert torch.allclose(head.centre, sentences[0].mean(0), atol=1e-6)
    assert not any(p.requires_grad for p in head.parameters())
    embeddings, digits = make_sentences(20, 2)  # phrasings that training did not see
    condition = head.eval()(embeddings)
    assert head.digit(condition).argmax(1).eq(digits).all()
    grouped = training.group_by_digit(condition, digits)  # 10×20×16
    within = (grouped - grouped.mean(1, keepdim=True)).norm(dim=2).mean()
    assert within < 0.04 * torch.pdist(grouped.mean(1)).mean(), "without the pull it is 0.05"


def test_the_first_generator_reaches_its_floor_and_ignores_the_noise():
    with pytest.raises(ValueError, match="9 pictures do not fill a batch of 64: draw more"):
        training.train_first_generator(FirstGenerator(), epochs=1, per_prompt=1)
    torch.manual_seed(0)
    losses = training.train_first_generator(model := FirstGenerator(), epochs=8, per_prompt=500)
    real = draw_all_shapes(2000, seeded(5))[0].view(9, 2000, 28, 28)
    variances = real.var(1, correction=0).mean((1, 2))
    assert len(losses) == 8 and 0.97 < losses[-1] / variances.mean() < 1.06 and not model.training
    noise = torch.randn(9 * 50, model.latent, generator=seeded())
    drawn = model.draw(TOKENS.repeat_interleave(50, 0), noise).detach().view(9, 50, 28, 28)
    assert (drawn.var(1).mean((1, 2)) / variances).max() < 0.01
    gaps = torch.cdist(drawn[:, 0].flatten(1), real.mean(1).flatten(1))
    assert torch.equal(gaps.argmin(1), torch.arange(9)), "each is nearest to its own mean picture"
