"""What the recipes measure: by hand, and on models that are made to obey, to forget, or to miss."""

import math
from types import SimpleNamespace

import compare_flows
import compare_styles
import familiarity
import measuring
import mnist_cvae
import mnist_style
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import wasserstein_distance

from helpers import captions, metrics
from helpers.captions import HELD_OUT_CELLS, HELD_OUT_PHRASINGS, STYLES, UNSAID, WORDS, load_prompts
from helpers.metrics import MIDDLES
from helpers.mnist import load_mnist, to_float
from helpers.models import Proofreader, Ruler, StyleCVAE


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# A world of ten digits, whose judges can read what is written into the first pixels


def write_pixels(*columns):
    """Write columns (n,) or (n, k) into the first pixels of blank pictures (n, 1, 28, 28)."""
    columns = torch.cat([c[:, None].float() if c.dim() == 1 else c for c in columns], 1)
    return F.pad(columns, (0, 784 - columns.shape[1])).view(-1, 1, 28, 28)


class ReadDigit(torch.nn.Module):
    def forward(self, pictures):
        return F.one_hot(pictures[:, 0, 0, 0].long(), 11)


read_digit = ReadDigit()


RANKS = SimpleNamespace(rank=lambda pictures, digits: pictures[:, 0, 0, 1:5])


class Drawing:
    """Draws the digit that is asked for and the ranks that `place` makes of levels and codes."""

    latent = 4

    def __init__(self, place=None):
        self.place = place or (lambda inputs, z: torch.tensor([*MIDDLES, 0.5])[inputs[:, 1:] + 2])

    def draw(self, inputs, z):
        return write_pixels(inputs[:, 0], self.place(inputs, z))


@pytest.fixture
def reader(monkeypatch):
    """Stand in for MiniLM: prompts that were written for digits and levels come back as these."""
    asked = {}

    def write(digit, levels, rng, frames):
        assert set(frames) <= set(HELD_OUT_PHRASINGS), "measured on phrasings that are held out"
        prompt = captions.write_styled(digit, levels, rng, frames)
        asked[prompt] = [digit, *levels]
        return prompt

    def encode(prompts):
        return torch.tensor([asked.get(p, [10] + 4 * [UNSAID]) for p in prompts])

    monkeypatch.setattr(metrics, "sentence_encoder", lambda: SimpleNamespace(encode=encode))
    monkeypatch.setattr(metrics, "check_pictures", lambda pictures: None)
    monkeypatch.setattr(mnist_style, "write_styled", write)
    return asked


def test_slopes_are_those_of_a_straight_line_and_its_share_of_the_variance(reader):
    """Ranks at half the distance with noise of 0.1: R² is 0.0261 / 0.0361, and R would be 0.85."""
    def place(inputs, z):
        return 0.2 + 0.5 * torch.tensor([*MIDDLES, 0.5])[inputs[:, 1:] + 2] + 0.1 * z

    found = mnist_style.measure_slopes(Drawing(place), RANKS, n=20)
    spread = 0.25 * torch.tensor(MIDDLES).var(correction=0).item()
    for row in found.values():
        assert row["slope"] == pytest.approx(0.5, abs=0.03)
        assert row["R²"] == pytest.approx(spread / (spread + 0.01), abs=0.03)
    assert list(found) == list(STYLES)


def test_cells_that_no_caption_named_are_held_against_the_others(reader):
    """This one forgets the slant in the held-out cells."""
    def place(inputs, z):
        levels = inputs[:, 1:].clone()
        held = [tuple(row[:3]) in HELD_OUT_CELLS for row in inputs.tolist()]
        levels[held, 1] *= -1
        return torch.tensor([*MIDDLES, 0.5])[levels + 2]

    found = mnist_style.measure_cells(Drawing(place), RANKS, read_digit, n=1)
    held = len(HELD_OUT_CELLS)
    obeys = {"thickness": 1, "slant": 1, "both": 1, "digit": 1, "cells": 40 - held}
    assert found == {"named in training": obeys,
                     "held out": obeys | {"slant": 0, "both": 0, "cells": held}}


def test_readers_are_asked_what_people_type_and_counted_kind_by_kind(reader):
    """This one reads the messy prompts, and of the misspelt words those that stand alone."""
    for prompt in (*load_prompts("messy"), *load_prompts("typos")):
        reader[prompt.text] = [int(prompt.answer)] + 4 * [UNSAID]
    found = mnist_style.measure_readers(Drawing(), read_digit, n=1)
    for name, share in (("messy", 1), ("typos", 1), ("indirect", 0)):
        kinds = {"all"} | {prompt.kind for prompt in load_prompts(name)}
        assert found[name] == dict.fromkeys(kinds, share)
    assert found["typos in sentences"] < 0.1
    sentences, digits = mnist_style.misspelled_sentences(each=3)
    typos = [typo for typo in load_prompts("typos") for _ in range(3)]
    for sentence, digit, typo in zip(sentences, digits, typos, strict=True):
        assert digit == int(typo.answer) and typo.text in sentence and "{" not in sentence
        assert WORDS[digit] not in sentence.replace("one of those", "").split()


def test_what_no_prompt_names_is_compared_with_the_test_set(monkeypatch):
    """Training ranks are even; every test picture is thick: they are 0.4 apart, in thickness."""
    even = torch.stack([torch.rand(1000, generator=seeded(k)) for k in range(4)], 1)
    digits, test = torch.arange(1000) % 10, even[:200].clone()
    test[:, 0] = 0.9
    monkeypatch.setattr(mnist_style, "load_strokes", lambda train=True: even if train else test)
    monkeypatch.setattr(mnist_style, "measure_styles", lambda strokes: strokes)
    reference = SimpleNamespace(rank=RANKS.rank, measures=even, digits=digits)
    drawn = torch.full((300, 4), 0.9), torch.arange(300) % 10
    yardstick = SimpleNamespace(
        prompts={"held-out": (None, torch.arange(10))}, test_labels=digits[:200],
        draw=lambda model, inputs, digits: (write_pixels(drawn[1], drawn[0]), None, drawn[1]),
    )
    found = mnist_style.measure_unnamed(None, yardstick, reference)
    assert found["thickness"]["real"] == pytest.approx(0.41, abs=0.03)
    assert found["thickness"]["drawn"] < 0.05 and found["slant"]["drawn"] > 0.35
    assert all(found[style]["real"] < 0.05 for style in STYLES[1:])
    for a, b in ((even[:, 0], test[:, 1]), (even[:70, 1], torch.zeros(3))):
        ours = mnist_style.distance_in_ranks(a, b)
        assert ours == pytest.approx(wasserstein_distance(a, b), abs=5e-3)


def test_the_corpus_fits_together_and_tells_what_is_measured(monkeypatch):
    def encode(sentences):
        return torch.tensor([[float(len(s)), *map(ord, f"{s} "[:2])] for s in sentences])

    measures = torch.rand(300, 4, generator=seeded())
    found = captions.caption_pictures(torch.randint(5, (300, 4)) - 2, torch.arange(300) % 10)
    monkeypatch.setattr(mnist_style, "caption_styles", lambda _: (*found, measures, measures))
    monkeypatch.setattr(mnist_style, "sentence_encoder", lambda: SimpleNamespace(encode=encode))
    corpus = mnist_style.write_corpus(torch.arange(300) % 10, more=50)
    n = 350 + len(captions.known_captions())
    assert [len(part) for part in corpus[:4]] == [n, n, n, n - 350]
    assert torch.equal(corpus.embeddings[:300], encode(found[0]))
    assert torch.equal(corpus.embeddings[350:], corpus.known)
    assert torch.equal(corpus.named[:300], found[1]) and (corpus.named[350:5730] == UNSAID).all()
    assert torch.equal(corpus.digits[:300], torch.arange(300) % 10)


def test_familiarity_is_trusted_above_one_half(monkeypatch):
    """Held-out captions score 0.6, messy ones 0.9, what is far 0.4, what is near 0.1 or 0.95."""
    sets = {name: {p.text for p in load_prompts(name)} for name in ("messy", "far", "near")}

    def score(sentence):
        near = 0.1 if len(sentence) % 2 else 0.95
        return ((sentence in sets["messy"] and 0.9) or (sentence in sets["far"] and 0.4)
                or (sentence in sets["near"] and near) or 0.6)

    def encode(sentences):
        return torch.tensor([score(sentence) for sentence in sentences])[:, None]

    def net(x):
        return torch.cat([x, torch.full((len(x), 9), 1e-9), 1 - x], 1).log()

    monkeypatch.setattr(familiarity, "sentence_encoder", lambda: SimpleNamespace(encode=encode))
    found = familiarity.measure(net)
    assert found["AUROC, held-out against far"] == found["AUROC, messy against far"] == 1
    low = sum(len(text) % 2 for text in sets["near"]) / len(sets["near"])
    assert found["AUROC, messy against near"] == pytest.approx(low, abs=1e-3)
    trusted = found["trusted"]
    assert trusted["held-out"] == 1 and set(trusted["messy"].values()) == {1}
    assert set(trusted["far"].values()) == {0} and 0 < max(trusted["near"].values())


# The yardstick, and what it measures


@pytest.fixture
def yardstick(monkeypatch):
    """One of 200 pictures; captions are encoded as digit and kind: training 0, held-out 1."""
    def encode(sentences):
        kind = len(sentences) == 20 * len(HELD_OUT_PHRASINGS)
        digits = captions.all_captions(
            HELD_OUT_PHRASINGS if kind else captions.TRAINING_PHRASINGS)[1]
        return torch.stack([digits, torch.full_like(digits, kind)], 1)

    images, labels = load_mnist(train=False)
    splits = {"train": (images[:500], labels[:500]), "test": (images[-200:], labels[-200:])}
    for name, value in {
        "PICTURES": 200, "load_splits": lambda: splits, "kernel_distance": lambda a, b: 0.0,
        "sentence_encoder": lambda: SimpleNamespace(encode=encode),
    }.items():
        monkeypatch.setattr(measuring, name, value)
    return measuring.Yardstick()


class Copyist:
    """Draws real pictures of the digit for held-out captions, and of the next one for others."""

    latent = 1

    def __init__(self):
        images, labels = load_mnist(train=False)
        self.shelf = [to_float(images[labels == digit][:30]) for digit in range(10)]

    def draw(self, inputs, z):
        digits = ((inputs[:, 0] + 1 - inputs[:, 1]) % 10).tolist()
        places = (z[:, 0].abs() * 1000).long() % 30
        return torch.stack([self.shelf[d][k] for d, k in zip(digits, places, strict=True)])


def test_the_yardstick_is_made_of_real_pictures_and_both_kinds_of_captions(yardstick):
    images, _ = load_mnist(train=False)
    assert torch.equal(yardstick.test_images, images[-200:]), "held against the test set"
    features = yardstick.describe(to_float(images[-200:]))
    assert torch.equal(yardstick.test_features, features)
    assert torch.equal(yardstick.real_digits, torch.arange(10).repeat_interleave(20))
    assert yardstick.floor == metrics.frechet_distance(features, yardstick.describe(yardstick.real))
    assert [len(digits) for _, digits in yardstick.prompts.values()] == [5380, 960]
    real = measuring.measure_real(yardstick)
    assert real["prompt accuracy, held-out"] > 0.98 and real["worst digit, training"] > 0.8
    assert real["Fréchet distance"] == yardstick.floor


def test_a_seed_draws_and_trains_anew_and_captions_are_told_apart(yardstick):
    once, again, other = (measuring.draw_and_measure(Copyist(), yardstick, s) for s in (1, 1, 2))
    assert once[0] == again[0] and torch.equal(once[2], again[2])
    assert once[0]["Fréchet distance"] != other[0]["Fréchet distance"]
    assert once[0]["prompt accuracy, held-out"] > 0.98
    assert once[0]["prompt accuracy, training"] < 0.1
    pictures, digits = yardstick.real, yardstick.real_digits
    students = {yardstick.measure(pictures, digits, s)["train on these, test on real"]
                for s in range(3)}
    assert len(students) > 1, "the student starts anew"
    snapshots = measuring.Snapshots()
    snapshots(Copyist(), 1)
    snapshots.start -= 100
    snapshots(Copyist(), 2)
    curve = measuring.measure_curve(snapshots)
    assert curve[0]["prompt accuracy, held-out"] > 0.98, "of held-out captions"
    assert curve[0]["seconds"] < 10 and curve[1]["seconds"] >= 100


def test_a_row_has_its_columns_over_the_floor_and_the_rest_is_median_and_mean(yardstick):
    columns = {"prompt accuracy, training": 4, "prompt accuracy, held-out": 4, "Fréchet ratio": 3,
               "worst digit, held-out": 4, "coverage": 2, "seconds for 10,000": 1}
    row = measuring.measure_row(Copyist(), yardstick, columns)
    assert list(row) == list(columns) and row["prompt accuracy, training"] < 0.1
    pictures, _, _ = yardstick.draw(Copyist(), *yardstick.prompts["held-out"])
    distance = metrics.frechet_distance(yardstick.test_features, yardstick.describe(pictures))
    assert row["Fréchet ratio"] == round(distance / yardstick.floor, 3)
    moved = to_float(yardstick.images[:3])
    moved[0, 0, 0, 0], moved[1, 0, 0, 0], moved[2, 0, :9, :9] = 0.1, 0.3, 1
    assert yardstick.distance_to_training(moved) == pytest.approx(0.3, abs=1e-4), "the median"
    rows = [{"Fréchet distance": value} for value in (1.0, 2.0, 6.0)]
    assert measuring.summarise(rows, {"Fréchet distance": 0.5}) == {
        "Fréchet distance": {"mean": 3.0, "spread": 5.0, "real": 0.5},
        "Fréchet ratio": {"mean": 6.0, "spread": 10.0, "real": 1.0},
    }


def test_failures_are_counted_by_digit_and_by_phrasing():
    """One seed in which every caption is drawn once, and the zeros of one phrasing all fail."""
    order = torch.arange(960).view(48, 10, 2).transpose(0, 1).flatten()  # digit by digit
    right = torch.ones(960)
    right[(order // 20 == 7) & (order % 20 < 2)] = 0  # phrasing 7, zero as word and numeral
    found = measuring.by_digit_and_phrasing([(right, order)])
    assert found["by digit, held-out"] == [round(94 / 96, 5)] + [1.0] * 9
    first, *rest = found["by phrasing, held-out"].items()
    assert first == (HELD_OUT_PHRASINGS[7], 0.9) and {share for _, share in rest} == {1.0}
    low, high = found["interval, held-out"]
    assert low < 958 / 960 < high < 1
    assert measuring.accuracies(right, "x") == {
        "prompt accuracy, x": pytest.approx(958 / 960), "worst digit, x": pytest.approx(94 / 96)}


def test_the_speed_is_that_of_one_picture(monkeypatch):
    """A batch of 256 takes 0.256 seconds, and once three: one picture takes a millisecond."""
    clock, takes = [0.0], iter([3.0] + 9 * [0.256])
    model = SimpleNamespace(latent=3)
    model.draw = lambda inputs, z: clock.append(clock[-1] + next(takes))
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: clock[-1]))
    assert measuring.measure_speed(model) == 1.0


class OneGrey:
    """Every pixel is ink with logit c, the caption's first number; the posterior is the prior."""

    def __init__(self):
        self.decoded = []

    def head(self, inputs):
        return inputs[:, :1]

    def encode(self, pictures, condition):
        return torch.zeros_like(condition), torch.zeros_like(condition)

    def decode(self, z, condition):
        self.decoded.append(len(z))
        return condition[:, :, None, None].expand(-1, 1, 28, 28)


def test_the_likelihood_of_each_picture_is_told_by_its_own_label(monkeypatch):
    """Ten captions from -3 to 3, of which none is lost, though few deserve a second look."""
    monkeypatch.setattr(mnist_cvae, "PICTURES", 60)
    images, labels = load_mnist(train=False)
    images = (images[:60] > 127).to(torch.uint8) * 255
    logits = torch.linspace(-3, 3, 10)[torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])]
    yardstick = SimpleNamespace(
        prompts={"held-out": (logits[:, None].repeat(1, 3), torch.arange(10))},
        test_images=images, test_labels=labels[:60],
    )
    ink, c = (images / 255.0).sum((1, 2)).double()[:, None], logits.double()
    known = ink * F.logsigmoid(c) + (784 - ink) * F.logsigmoid(-c)     # 60×10
    own = known[torch.arange(60), labels[:60]].mean().item()
    marginal = known.logsumexp(1) - math.log(10)
    found = mnist_cvae.measure_likelihood(OneGrey(), yardstick, subset=60, samples=4)
    assert found == {
        "pictures": 60, "samples": 4,
        "negative ELBO, conditional, all test pictures": pytest.approx(-own, abs=0.02),
        "negative ELBO, conditional": pytest.approx(-own, abs=0.02),
        "IWAE, conditional": pytest.approx(-own, abs=0.02),
        "IWAE, marginal": pytest.approx(-marginal.mean().item(), abs=0.02),
        "standard error": pytest.approx(marginal.std().item() / math.sqrt(60), abs=0.02),
    }
    ours = measuring.negative_elbo(OneGrey(), yardstick)
    assert ours == pytest.approx(-own, abs=0.02)
    model, likely = OneGrey(), (known[0] > known[0].max() - 60).sum().item()
    bounds = mnist_cvae.bounds_by_digit(model, to_float(images)[0], logits[:, None], 40, seeded(),
                                        glance=7, margin=60)
    assert 1 < likely < 10 and model.decoded == [70, 40 * likely]
    assert torch.allclose(bounds.double(), known[0], atol=0.01)


# The comparisons of styles and of flows


def test_a_gaussian_for_each_digit_has_its_mean_and_covariance_and_a_mixture_its_parts():
    labels = torch.arange(6000) % 10
    roots = torch.randn(10, 3, 3, generator=seeded()).tril() + 2 * torch.eye(3)
    noise = torch.randn(6000, 3, 1, generator=seeded(1))
    codes = 10 * torch.randn(10, 3, generator=seeded(2))[labels] + (roots[labels] @ noise)[..., 0]
    place = compare_flows.fit_by_digit(codes, labels, 1)
    z = torch.randn(20_000, 3, generator=seeded(3))
    z = (z - z.mean(0)) @ torch.linalg.cholesky(z.T.cov()).inverse().T  # exactly N(0, I)
    for digit in (0, 7):
        own, moved = codes[labels == digit], place(z, torch.eye(34)[[digit]].expand(20_000, -1))
        assert torch.allclose(moved.mean(0), own.mean(0), atol=1e-3)
        assert torch.allclose(moved.T.cov(), own.T.cov(), rtol=0.01, atol=0.03)
    right = (torch.arange(4000) // 10) % 4 == 0  # of every digit a quarter
    codes = 0.1 * torch.randn(4000, 2, generator=seeded()) + 5.0 * right[:, None]
    place = compare_flows.fit_by_digit(codes, labels[:4000], 2)
    moved = place(z[:4000, :2], torch.eye(34)[[3]].expand(4000, -1))[:, 0]
    assert (moved > 2.5).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert ((moved.abs() < 0.6) | ((moved - 5).abs() < 0.6)).all(), "nothing in between"


def test_rebuilt_pictures_are_measured_where_ink_ends_at_one():
    real = torch.rand(600, 1, 28, 28, generator=seeded()) / 2

    def describe(pictures):
        return pictures.flatten(1)[:, :3].double()

    yardstick = SimpleNamespace(
        real=real, describe=describe, test_features=describe(real), floor=0.01)
    for by, error, ratio in ((0, 0, 0), (0.1, 0.01, 3), (9, (1 - real).square().mean().item(), 0)):
        painter = SimpleNamespace(encode=lambda x: (x, None), decode=lambda x, by=by: x + by)
        found = compare_flows.measure_rebuilt(SimpleNamespace(autoencoder=painter), yardstick)
        assert found["rebuilt, squared error"] == pytest.approx(error, abs=1e-4)
        assert by == 9 or found["rebuilt, Fréchet ratio"] == pytest.approx(ratio, rel=0.01)


def test_features_are_matched_in_proportion_and_weighed_in_nats():
    torch.manual_seed(0)
    network = Proofreader().requires_grad_(False)
    painted, pictures = (torch.rand(3, 1, 28, 28, generator=seeded(k)) for k in range(2))
    seen = [[torch.nn.Sequential(*network)[:k](x) for k in (2, 4)] for x in (painted, pictures)]
    known = sum((a - b).square().mean() / b.square().mean() for a, b in zip(*seen, strict=True))
    found = compare_flows.feature_penalty(network, 100.0)(painted.requires_grad_(), pictures)
    assert found.item() == pytest.approx(100 * known.log().item(), rel=1e-4)
    found.backward()
    assert painted.grad.any()


def test_without_its_prior_a_model_draws_from_standard_normal_codes_and_others_from_theirs():
    torch.manual_seed(0)
    model, x, z = StyleCVAE().eval(), torch.randn(3, 384), torch.randn(3, 20)
    for parameter in model.prior.parameters():
        parameter.data += 0.1
    with torch.no_grad():
        condition = model.read(x)
        moved = compare_flows.with_prior(model, lambda z, condition: z + 1).draw(x, z)
        assert torch.equal(moved, model.decode(z + 1, condition).sigmoid())
        assert not torch.equal(model.place(z, condition), z)
        compare_styles.undo_prior(model)
        assert torch.equal(model.place(z, condition), z)


def test_a_ruler_that_reads_along_teaches_only_what_draws(monkeypatch):
    torch.manual_seed(1)
    shown, ruler = [], []
    for name, stand_in in {
        "train_proofreader": lambda images, labels: Proofreader().requires_grad_(False),
        "train_ruler": lambda *given: ruler.append(given[0].requires_grad_(False)),
        "draw_and_measure": lambda *given, seed: (given, seed),
        "recalibrate": lambda *given, seed: shown.append((*given, seed)),
    }.items():
        monkeypatch.setattr(compare_styles, name, stand_in)
    images, ranks = torch.zeros(300, 28, 28, dtype=torch.uint8), torch.rand(300, 4)
    penalty, after = compare_styles.ruler_for_decoder(
        images, torch.arange(300) % 10, "embeddings", "measures", ranks)
    model, inputs = StyleCVAE().train(), torch.randn(200, 384)
    found = penalty(model, inputs, seeded())
    assert found > 8, "untrained, it misreads by about 2.3 nats, eightfold"
    found.backward()
    learns = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert {"expand", "up1", "up2"} <= learns
    assert not learns & {"convolutions", "posterior", "prior"}
    after(model, 3)
    (whose, ((given, drawn_seed),), real, seed), = shown
    assert whose is ruler[0] and isinstance(whose, Ruler) and given[0] is model
    assert drawn_seed == seed == 3 and len(real[0]) == len(real[1])
