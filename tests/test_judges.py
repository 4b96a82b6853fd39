"""The judges: what they know, who they are, and that no way leads from a generator to them."""

import ast
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import metrics, models
from helpers.metrics import (
    JUDGE_SHA256,
    DigitJudge,
    FeatureJudge,
    ShapeJudge,
    load_judge,
    name_digits,
    train_shape_judge,
)
from helpers.mnist import load_mnist, to_float
from helpers.shapes import draw_all_shapes

HELPERS = Path(metrics.__file__).parent
DRAWING = ("__init__", "models", "flow", "training", "steering", "captions", "text", "shapes",
           "mnist", "strokes", "checkpoints", "generator")


def test_both_judges_pass_the_exam_and_stumble_over_different_pictures():
    """On the harder half; two judges of one mind would be one: few errors are shared."""
    images, labels = (part[:5000] for part in load_mnist(train=False))
    wrong = [name_digits(load_judge(name), to_float(images)) != labels for name in JUDGE_SHA256]
    assert all(errors.float().mean() <= 0.01 for errors in wrong)
    assert 0 < (wrong[0] & wrong[1]).sum() < (wrong[0] | wrong[1]).sum() / 2


def test_what_a_judge_says_does_not_depend_on_the_batch():
    few = to_float(load_mnist(train=False)[0][:50])
    for judge in map(load_judge, ("digits", "features")):
        assert torch.equal(name_digits(judge, few), name_digits(judge, few, batch=7))
    features = judge.describe(few, 7)
    assert features.shape == (50, 96) and features.dtype == torch.float64
    assert torch.allclose(features, judge.describe(few), atol=1e-5) and not features.requires_grad
    assert torch.allclose(judge[-1](features.float()), judge(few), atol=1e-4)


def test_a_damaged_missing_or_swapped_judge_is_refused(tmp_path, monkeypatch):
    packed = [(metrics.JUDGES / f"{name}.safetensors").read_bytes() for name in JUDGE_SHA256]
    monkeypatch.setattr(metrics, "JUDGES", tmp_path)
    for name, own, other in zip(JUDGE_SHA256, packed, packed[::-1], strict=True):
        path = tmp_path / f"{name}.safetensors"
        for wrong in (None, own[:-1], bytes(len(own)), other):
            if wrong is not None:
                path.write_bytes(wrong)
            with pytest.raises(ValueError, match=r"is not the released judge: restore it .*\.$"):
                load_judge(name)
        path.write_bytes(own)
        assert not load_judge(name).training


def test_the_judge_of_shapes_knows_fresh_drawings():
    judge = train_shape_judge(steps=150)
    drawn, prompt_ids = draw_all_shapes(50, torch.Generator().manual_seed(5))
    assert (name_digits(judge, drawn[:, None].round()) == prompt_ids).float().mean() > 0.95


def weights_of(kind):
    """The sizes of all weights, without biases."""
    return {tuple(p.shape) for p in kind().parameters() if p.dim() > 1}


def test_no_judge_is_built_like_the_other_or_like_a_classifier_that_helps_a_generator():
    """`ShapeJudge` and `Ruler` may share a layer: one sees shapes, the other digits."""
    helping = [kind for kind in vars(models).values() if isinstance(kind, type)
               and issubclass(kind, nn.Sequential) and kind.__module__ == "helpers.models"]
    assert {models.Proofreader, models.Ruler} <= set(helping)
    pairs = {*itertools.product(helping, (DigitJudge, FeatureJudge, ShapeJudge)),
             (DigitJudge, FeatureJudge)} - {(models.Ruler, ShapeJudge)}
    assert not [pair for pair in pairs if weights_of(pair[0]) & weights_of(pair[1])]


def reached_from(module):
    """Follow the imports within helpers, inside functions too: the files that come with one."""
    reached, waiting = set(), {module}
    while waiting:
        reached.add(here := waiting.pop())
        for node in ast.walk(ast.parse((HELPERS / f"{here}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                names = [f"{start}{alias.name}.".split(".") for alias in node.names]
                found = {name[1] for name in names if name[0] == "helpers"}
                waiting |= {n for n in found if (HELPERS / f"{n}.py").is_file()} - reached
    return reached


def test_no_way_leads_from_a_generator_to_a_judge():
    assert {"training", "models", "mnist"} <= reached_from("metrics"), "imports are followed"
    assert not [module for module in DRAWING if "metrics" in reached_from(module)]
