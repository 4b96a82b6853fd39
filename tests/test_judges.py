"""The judges: what they know, who they are, and that no generator is trained with their help."""

import ast
import functools
import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import metrics, models, release
from helpers.metrics import (
    JUDGES,
    DigitJudge,
    FeatureJudge,
    ShapeJudge,
    load_digit_judge,
    load_feature_judge,
    name_digits,
    shape_accuracy_and_variety,
    train_digit_judge,
    train_feature_judge,
    train_shape_judge,
)
from helpers.mnist import load_mnist, to_float
from helpers.shapes import PROMPTS, draw_all_shapes, draw_shapes

HELPERS = Path(metrics.__file__).parent
LOADERS = {"digits": load_digit_judge, "features": load_feature_judge}


@pytest.fixture(scope="module")
def judges():
    return {name: load() for name, load in LOADERS.items()}


@pytest.fixture(scope="module")
def named(judges):
    pictures = to_float(load_mnist(train=False)[0])
    return {name: name_digits(judge, pictures) for name, judge in judges.items()}


@pytest.mark.parametrize("name", LOADERS)
def test_a_judge_passes_its_own_exam(named, name):
    assert (named[name] == load_mnist(train=False)[1]).float().mean() >= 0.993


def test_the_judges_stumble_over_different_pictures(named):
    """Two judges of one mind would be one judge: at most half of all errors are shared."""
    labels = load_mnist(train=False)[1]
    a, b = named["digits"] != labels, named["features"] != labels
    assert 0 < (a & b).sum() < (a | b).sum() / 2


@pytest.mark.parametrize("name", LOADERS)
def test_a_picture_is_named_the_same_in_any_batch(judges, name):
    pictures = to_float(load_mnist(train=False)[0][:50])
    judge = judges[name]
    assert torch.equal(name_digits(judge, pictures), name_digits(judge, pictures, batch=7))


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_missing_or_swapped_judge_is_refused(tmp_path, name):
    copy, load = tmp_path / "judge.safetensors", LOADERS[name]
    with pytest.raises(ValueError, match=r"is missing: restore it with 'git checkout") as refusal:
        load(copy)
    assert "\n" not in str(refusal.value)
    packed = (JUDGES / f"{name}.safetensors").read_bytes()
    (other,) = set(LOADERS) - {name}
    for wrong in (packed[:-1], bytes(len(packed)), (JUDGES / f"{other}.safetensors").read_bytes()):
        copy.write_bytes(wrong)
        with pytest.raises(ValueError, match="is not the released judge: restore it") as refusal:
            load(copy)
        assert "\n" not in str(refusal.value)
    copy.write_bytes(packed)
    assert not load(copy).training


def kinds(judge):
    return {type(layer) for layer in judge if not isinstance(layer, nn.ReLU | nn.Flatten)}


def weights_of(module):
    """The sizes of all weights, without biases."""
    return {tuple(p.shape) for p in module.parameters() if p.dim() > 1}


def test_the_two_judges_are_built_differently():
    a, b = DigitJudge(), FeatureJudge()
    assert kinds(a) & kinds(b) == {nn.Conv2d, nn.Linear}
    assert nn.BatchNorm2d in kinds(b) and nn.MaxPool2d in kinds(a)
    windows = [{layer.kernel_size for layer in judge if isinstance(layer, nn.Conv2d)}
               for judge in (a, b)]
    assert windows == [{(5, 5)}, {(3, 3)}]
    assert not weights_of(a) & weights_of(b)


def test_features_are_96_numbers_in_double_and_do_not_depend_on_the_batch(judges):
    judge, pictures = judges["features"], to_float(load_mnist(train=False)[0][:60])
    features = judge.describe(pictures)
    assert features.shape == (60, 96) and features.dtype == torch.float64
    assert not features.requires_grad and features.var() > 0
    for batch in (1, 7, 60):
        assert torch.allclose(features, judge.describe(pictures, batch), atol=1e-5)


def test_features_are_what_the_last_layer_reads(judges):
    judge, pictures = judges["features"], to_float(load_mnist(train=False)[0][:60])
    logits = judge[-1](judge.describe(pictures).float())
    assert torch.allclose(logits, judge(pictures), atol=1e-4)


def test_training_judge_a_learns():
    images, labels = load_mnist(train=False)
    judge = train_digit_judge(images[:3000], labels[:3000], epochs=2)
    named = name_digits(judge, to_float(images[5000:6000]))
    assert not judge.training
    assert (named == labels[5000:6000]).float().mean() > 0.85


def test_training_judge_b_learns():
    """In 22 steps the running averages of batch norm do not settle: the batch's own are used."""
    images, labels = load_mnist(train=False)
    judge = train_feature_judge(images[:1500], labels[:1500], epochs=2)
    assert not judge.training
    named = name_digits(judge.train(), to_float(images[5000:6000]))
    assert (named == labels[5000:6000]).float().mean() > 0.4


def test_the_same_seed_trains_the_same_judge():
    images, labels = load_mnist(train=False)
    once, again, other = (
        train_feature_judge(images[:256], labels[:256], epochs=1, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(once[-1].weight, again[-1].weight)
    assert not torch.equal(once[-1].weight, other[-1].weight)


# ---- the judge of shapes -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def shape_judge():
    return train_shape_judge(steps=400)


def test_the_judge_of_shapes_knows_fresh_drawings(shape_judge):
    generator = torch.Generator().manual_seed(5)
    pictures, prompt_ids = draw_all_shapes(200, generator)
    tossed = pictures.bernoulli(generator=generator)[:, None]
    assert (name_digits(shape_judge, tossed) == prompt_ids).float().mean() > 0.99


class Program:
    """Draws what the program draws, or always the same of it."""

    latent = 1

    def __init__(self, collapsed):
        self.collapsed, self.next = collapsed, iter(PROMPTS)

    def draw(self, tokens, z):
        pictures = draw_shapes(next(self.next), len(tokens), seed=77)[:, None]
        return pictures[:1].expand_as(pictures) if self.collapsed else pictures


def test_the_programs_own_drawings_are_correct_and_varied(shape_judge):
    accuracies, ratios = shape_accuracy_and_variety(Program(collapsed=False), shape_judge)
    assert accuracies.min() > 0.98
    assert ((ratios > 0.85) & (ratios < 1.15)).all()


def test_one_drawing_repeated_is_correct_and_not_varied(shape_judge):
    accuracies, ratios = shape_accuracy_and_variety(Program(collapsed=True), shape_judge)
    assert accuracies[:7].mean() > 0.95
    assert ratios.max() < 1e-6


# ---- no judge takes part in training a generator -----------------------------------------------


def imported_by(file):
    """Yield the names that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} imports with dots: write 'from helpers.'"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached_from(module):
    """Follow the imports within helpers: the files that come with one file of them."""
    reached, waiting = set(), {module}
    while waiting:
        reached.add(here := waiting.pop())
        parts = [f"{name}.".split(".") for name in imported_by(HELPERS / f"{here}.py")]
        found = {part[1] for part in parts if part[0] == "helpers"}
        waiting |= {name for name in found if (HELPERS / f"{name}.py").is_file()} - reached
    return reached


@pytest.mark.parametrize("module", ["__init__", "models", "training", "checkpoints", "generator"])
def test_no_way_leads_from_a_generator_to_a_judge(module):
    assert "metrics" not in reached_from(module)


def test_imports_are_followed_through_other_files():
    assert {"metrics", "training", "models", "mnist"} <= reached_from("release")


def test_no_classifier_that_helps_a_generator_is_built_like_a_judge():
    """Proofreader and ruler read along in training; they share no layer of weights with a judge.

    But for one pair: `ShapeJudge` reads shapes, the ruler digits, and both have a layer from 1568
    to 64.
    """
    helpers_to_be = [c for c in vars(models).values()
                     if isinstance(c, type) and issubclass(c, nn.Sequential)]
    for helper, judge in itertools.product(helpers_to_be, (DigitJudge, FeatureJudge, ShapeJudge)):
        if (helper, judge) == (models.Ruler, ShapeJudge):
            continue
        assert not weights_of(helper()) & weights_of(judge()), f"{helper}, {judge}"


class Consulted(Exception):
    """A judge was built, loaded, trained or asked."""


def refuse(*_, **__):
    raise Consulted


@pytest.fixture
def no_judges(monkeypatch):
    """Let every use of a judge fail, whichever file of helpers asks for it."""
    for judge in (DigitJudge, FeatureJudge, ShapeJudge):
        for method in ("__init__", "__call__", "forward"):
            monkeypatch.setattr(judge, method, refuse)
    monkeypatch.setattr(FeatureJudge, "describe", refuse)
    files = [module for name, module in sys.modules.items() if name.startswith("helpers.")]
    for module in files:
        for name, value in list(vars(module).items()):
            from_metrics = getattr(value, "__module__", "") == "helpers.metrics"
            if from_metrics and not isinstance(value, type):
                monkeypatch.setattr(module, name, refuse)


class ToyEncoder:
    """Reads a sentence as 384 numbers that depend on its letters."""

    def encode(self, sentences):
        size = torch.tensor([[len(s), sum(map(ord, s))] for s in sentences]).float()
        return (size @ torch.arange(1.0, 769).view(2, 384)).sin() / 14


@pytest.fixture
def tiny(monkeypatch):
    """Shrink every recipe of `helpers.release` to a few steps; catch what would be released."""
    saved = {}
    cvae, head, first = release.train_cvae, release.train_head, release.train_first_generator

    def train_cvae(model, batches, **recipe):
        few = {"epochs": 2, "steps": 3}
        return cvae(model, lambda g: itertools.islice(batches(g), 3), **recipe | few)

    replaced = {
        "train_cvae": train_cvae,
        "train_head": lambda *given, **_: head(*given, steps=3),
        **{
            name: functools.partial(getattr(release, name), steps=3)
            for name in ("train_style_head", "train_prior", "train_autoencoder", "train_flow")
        },
        "train_first_generator": lambda model, **_: first(model, epochs=1, per_prompt=22),
        "sentence_encoder": ToyEncoder,
        "save_checkpoint": lambda name, model, *_: saved.update({name: model}),
        "evaluate_released": lambda name: None,  # what follows the training may ask judges
        "measure_curve": lambda snapshots: None,
    }
    if hasattr(release, "train_proofreader"):
        proofreader = release.train_proofreader
        replaced["train_proofreader"] = lambda x, y, **_: proofreader(x[:500], y[:500], epochs=1)
    for name, value in replaced.items():
        monkeypatch.setattr(release, name, value, raising=False)
    return saved


@pytest.mark.parametrize("name", release.TRAINERS)
def test_a_generator_is_trained_without_a_judge(name, tiny, no_judges):
    release.train_released(name)
    assert not isinstance(tiny[name], DigitJudge | FeatureJudge | ShapeJudge)
    assert all(p.isfinite().all() for p in tiny[name].parameters())


LOADED_BEFORE = FeatureJudge().eval()
ATTEMPTS = {
    "it loads judge A": metrics.load_digit_judge,
    "it loads judge B": metrics.load_feature_judge,
    "it trains a judge": lambda: train_shape_judge(steps=1),  # imported before it was forbidden
    "it builds a judge": DigitJudge,
    "it measures its accuracy": lambda: metrics.prompt_accuracy(None, None, None, None),
    "it asks a judge": lambda: LOADED_BEFORE(torch.zeros(1, 1, 28, 28)),
    "it looks at features": lambda: LOADED_BEFORE.describe(torch.zeros(1, 1, 28, 28)),
}


@pytest.mark.parametrize("what", ATTEMPTS)
def test_a_training_that_consults_a_judge_fails(what, tiny, no_judges, monkeypatch):
    """The test above can fail: whatever a trainer might do with a judge is caught."""
    whole = release.train_first_generator

    def helped(model, **options):
        whole(model, **options)
        ATTEMPTS[what]()

    monkeypatch.setattr(release, "train_first_generator", helped)
    with pytest.raises(Consulted):
        release.train_released("shapes-mlp")
    assert not tiny
