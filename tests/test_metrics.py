"""The judges, and measures on cases whose answer is known."""

import pytest
import torch

from helpers.metrics import (
    JUDGE,
    load_digit_judge,
    name_digits,
    prompt_accuracy,
    shape_accuracy_and_variety,
    train_digit_judge,
    train_shape_judge,
)
from helpers.mnist import load_mnist, to_float
from helpers.shapes import PROMPTS, draw_all_shapes, draw_shapes


@pytest.fixture(scope="module")
def judge():
    return load_digit_judge()


@pytest.fixture(scope="module")
def shape_judge():
    return train_shape_judge(steps=400)


class Copyist:
    """Draws real test pictures of the digit that its input names, or of the next one."""

    latent = 1

    def __init__(self, off_by=0):
        images, labels = load_mnist(train=False)
        self.pictures = [to_float(images[labels == d][:800]) for d in range(10)]
        self.off_by = off_by

    def draw(self, digits, z):
        chosen = [(d + self.off_by) % 10 for d in digits.tolist()]
        return torch.stack([self.pictures[d][k % 800] for k, d in enumerate(chosen)])


def test_the_judge_passes_its_own_exam(judge):
    images, labels = load_mnist(train=False)
    assert (name_digits(judge, to_float(images)) == labels).float().mean() >= 0.993


def test_a_picture_is_named_the_same_in_any_batch(judge):
    pictures = to_float(load_mnist(train=False)[0][:50])
    assert torch.equal(name_digits(judge, pictures), name_digits(judge, pictures, batch=7))


def test_a_damaged_or_missing_judge_is_refused(tmp_path):
    copy = tmp_path / "judge.safetensors"
    with pytest.raises(ValueError, match="missing: restore it"):
        load_digit_judge(copy)
    copy.write_bytes(JUDGE.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not the released judge: restore it"):
        load_digit_judge(copy)


def test_training_a_judge_learns():
    images, labels = load_mnist(train=False)
    judge = train_digit_judge(images[:3000], labels[:3000], epochs=3)
    named = name_digits(judge, to_float(images[5000:6000]))
    assert (named == labels[5000:6000]).float().mean() > 0.85


def test_prompt_accuracy_of_real_pictures_is_the_judges_own(judge):
    digits = torch.arange(10)
    accuracy, per_digit = prompt_accuracy(Copyist(), digits, digits, judge, n=1000)
    assert accuracy > 0.98 and per_digit.shape == (10,)
    assert accuracy == pytest.approx(per_digit.mean().item())


def test_prompt_accuracy_of_the_wrong_digit_is_nothing(judge):
    digits = torch.arange(10)
    assert prompt_accuracy(Copyist(off_by=1), digits, digits, judge, n=1000)[0] < 0.02


def test_prompt_accuracy_of_shuffled_captions_is_chance(judge):
    digits = torch.arange(10).repeat(100)
    shuffled = digits[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    assert 0.05 < prompt_accuracy(Copyist(), shuffled, digits, judge, n=1000)[0] < 0.15


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
