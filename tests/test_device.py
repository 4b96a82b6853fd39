"""Training on a device that is not the CPU: `meta`, which computes shapes alone."""

import functools

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import doors, flow, metrics, steering, training
from helpers.models import ConvCVAE, FirstGenerator, Proofreader, Ruler, ShapesCVAE, StyleCVAE
from helpers.shapes import PROMPTS
from helpers.text import CharacterTokenizer

META = torch.device("meta")
PICTURES, VECTORS = torch.rand(60, 1, 28, 28), torch.randn(60, 384)
DIGITS = torch.arange(60) % 10
WEIGHED = ("addmm", "convolution", "mm", "bmm", "native_batch_norm", "_fused_adam", "lerp")


class Values(TorchFunctionMode):
    """Answer what `meta` cannot know, such as the value of a loss, as if it were one."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if args and torch.is_tensor(args[0]) and args[0].device == META:
            name = getattr(function, "__name__", "")
            if name in ("item", "__bool__", "__float__"):
                return 1.0
            if name == "tolist":
                return torch.ones(args[0].shape).tolist()
            if name == "to" and torch.device("cpu") in args:
                return torch.ones(args[0].shape, dtype=args[0].dtype)
            if name == "cpu":
                return torch.ones(args[0].shape, dtype=args[0].dtype)
        return function(*args, **(kwargs or {}))


class Watch(TorchDispatchMode):
    """Collect the operations with weights that compute on the CPU."""

    def __init__(self):
        super().__init__()
        self.here, self.there = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in WEIGHED:
            devices = {x.device for x in args if torch.is_tensor(x)}
            self.here += [name] if devices != {META} else []
            self.there += devices == {META}
        return function(*args, **(kwargs or {}))


def cvae():
    proofreader = Proofreader().requires_grad_(False)
    training.train_cvae(
        ConvCVAE(4), lambda g: training.pair_batches(PICTURES, VECTORS, 20, g), 1, 3,
        validation=[(PICTURES, VECTORS)], device=META, after_epoch=lambda average, n: None,
        penalty=functools.partial(training.proofread, proofreader=proofreader),
    )


def shapes():
    tokens = CharacterTokenizer().encode(PROMPTS)
    training.train_cvae(
        ShapesCVAE(4), lambda g: training.shape_batches(tokens, 4, 12, g), 1, 3, device=META
    )
    training.train_first_generator(FirstGenerator(4), 1, 4, 12, device=META)


def readers():
    training.train_head(ConvCVAE().head, VECTORS, DIGITS, steps=2, device=META)
    named = torch.zeros(60, 4, dtype=torch.long)
    steering.train_style_head(StyleCVAE().head, VECTORS, DIGITS, named, steps=2, device=META)


def judges():
    bytes_ = (PICTURES[:, 0] * 255).byte()
    training.train_classifier(metrics.DigitJudge(), bytes_, DIGITS, 1, batch=20, device=META)
    steering.train_ruler(Ruler(), PICTURES, torch.rand(60, 4), steps=2, device=META)


def flows():
    codes = torch.randn(60, 24)
    velocity = flow.Velocity()
    flow.train_velocity(velocity, codes, codes.exp(), torch.rand(60, 34), steps=2, device=META)


@pytest.mark.parametrize("train", [cvae, shapes, readers, judges, flows])
def test_nothing_computes_on_the_cpu_when_another_device_is_asked_for(train, monkeypatch):
    monkeypatch.setattr(doors, "choose_device", lambda name=None: torch.device(name or "cpu"))
    with Values(), Watch() as watch:
        train()
    assert watch.there > 5 and not watch.here
