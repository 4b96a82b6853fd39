"""The nine programs: which pictures each can draw, and that each is as likely as it should be."""

import collections
import itertools
import math

import numpy as np
import pytest
import torch

from helpers.shapes import PROMPTS, draw_all_shapes, draw_shapes

N = 40_000
LINE = [(5, 22), (0, 1), (0, 4), (22, 26)]


def paint(pixels):
    """Make one picture from (row, column) pairs; what falls beside the paper is lost."""
    picture = np.zeros((28, 28), bool)
    rows, columns = np.array([p for p in pixels if min(p) >= 0 and max(p) < 28]).T
    picture[rows, columns] = True
    return picture


def box(top, bottom, left, right):
    return [(r, c) for r in range(top, bottom + 1) for c in range(left, right + 1)]


def diagonal_line(shift, mirrored):
    pixels = [(r, r + shift + extra) for r in range(28) for extra in (0, 1)]
    return [(r, 27 - c if mirrored else c) for r, c in pixels]


def circle(y, x, radius):
    near = box(-radius - 1, radius + 1, -radius - 1, radius + 1)
    return [(y + dy, x + dx) for dy, dx in near if abs(math.hypot(dy, dx) - radius) < 0.5]


def square(side, top, left):
    edges = [e for i in range(side) for e in ((0, i), (side - 1, i), (i, 0), (i, side - 1))]
    return [(top + dy, left + dx) for dy, dx in edges]


# The pixels of one picture from the numbers that describe it, and their ranges, both ends included.
PROGRAMS = {
    "horizontal line": (lambda y, extra, *ends: box(y, y + extra, *ends), LINE),
    "vertical line": (lambda x, extra, *ends: box(*ends, x, x + extra), LINE),
    "two vertical lines": (
        lambda x, z, *ends: box(*ends, x, x) + box(*ends, z, z),
        [(4, 9), (18, 23), (2, 5), (21, 24)],
    ),
    "diagonal line": (diagonal_line, [(-3, 3), (0, 1)]),
    "cross": (
        lambda y, x, arm: box(y, y, x - arm, x + arm) + box(y - arm, y + arm, x, x),
        [(11, 17), (11, 17), (6, 9)],
    ),
    "circle": (circle, [(10, 18), (10, 18), (5, 10)]),
    "square": (square, None),  # where its corner may lie depends on its side
}


def every_picture(prompt):
    """List every picture a prompt can mean with its probability."""
    program, ranges = PROGRAMS[prompt]
    if ranges:
        numbers = [*itertools.product(*(range(low, high + 1) for low, high in ranges))]
        return [(paint(program(*row)), 1 / len(numbers)) for row in numbers]
    places = [(side, range(2, 27 - side)) for side in range(8, 16)]  # a margin of two
    return [(paint(program(side, top, left)), 1 / 8 / len(corners) ** 2)
            for side, corners in places for top in corners for left in corners]


def keys(pictures):
    return [row.tobytes() for row in np.packbits(pictures.reshape(-1, 784), axis=1)]


def excess(observed, expected):
    """How many standard deviations chi square lies above its mean."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    statistic = ((observed - expected) ** 2 / expected).sum()
    return (statistic - len(observed) + 1) / math.sqrt(2 * (len(observed) - 1))


@pytest.mark.parametrize("prompt", PROGRAMS)
def test_exactly_the_possible_pictures_and_equally_often(prompt):
    expected = collections.Counter()
    for picture, probability in every_picture(prompt):
        expected[keys(picture)[0]] += probability
    pictures = draw_shapes(prompt, N, seed=2)
    assert ((pictures == 0) | (pictures == 1)).all()
    counts = collections.Counter(keys(pictures.numpy().astype(bool)))
    assert set(counts) == set(expected), "none else, and every end of every range is reached"
    assert abs(excess([counts[k] for k in expected], [N * p for p in expected.values()])) < 5


def test_dense_center_is_a_bell_of_every_centre_and_width():
    pictures = draw_shapes("dense center", N // 4, seed=1).double()
    places = pictures.flatten(1).argmax(1)
    rows, columns = places // 28, places % 28
    assert rows.unique().tolist() == columns.unique().tolist() == [12, 13, 14, 15, 16]
    assert abs(excess(torch.bincount((rows - 12) * 5 + columns - 12), [N / 100] * 25)) < 5
    beside = pictures[torch.arange(len(pictures)), rows, columns + 5]
    sigma = (-25 / (2 * beside.log())).sqrt()
    assert 3 - 1e-4 < sigma.min() < 3.01 and 5.99 < sigma.max() < 6 + 1e-4
    assert (sigma.sort().values - torch.linspace(3, 6, len(sigma))).abs().max() < 0.05, "uniform"
    line = torch.arange(28)
    away = (line[:, None] - rows[:, None, None]) ** 2 + (line - columns[:, None, None]) ** 2
    assert torch.allclose(pictures, (-away / (2 * sigma[:, None, None] ** 2)).exp(), atol=1e-5)


def test_sparse_dots_are_five_to_fifteen_anywhere():
    pictures = draw_shapes("sparse dots", N // 2, seed=1)
    assert ((pictures == 0) | (pictures == 1)).all()
    numbers = pictures.sum((1, 2)).long()
    assert numbers.unique().tolist() == list(range(5, 16))
    assert abs(excess(torch.bincount(numbers)[5:], [N / 22] * 11)) < 5
    assert abs(excess(pictures.sum(0).flatten(), [5 * N / 784] * 784)) < 5


def test_pictures_are_what_the_notebooks_promise():
    assert set(PROMPTS) == {*PROGRAMS, "dense center", "sparse dots"} and len(PROMPTS) == 9
    for prompt in PROMPTS:
        pictures = draw_shapes(prompt, 64, seed=0)
        assert pictures.shape == (64, 28, 28) and pictures.dtype == torch.float32
        assert pictures.min() >= 0 and pictures.max() == 1
        assert torch.equal(pictures, draw_shapes(prompt, 64, seed=0))
        assert not torch.equal(pictures, draw_shapes(prompt, 64, seed=1))
        assert draw_shapes(prompt).shape == (1, 28, 28)
    pictures, prompt_ids = draw_all_shapes(3, torch.Generator().manual_seed(0))
    assert prompt_ids.tolist() == [i for i in range(9) for _ in range(3)]
    assert torch.equal(pictures[:3], draw_shapes(PROMPTS[0], 3, 0)) and len(pictures) == 27
    assert not torch.equal(pictures[3:6].transpose(1, 2), pictures[:3]), "the generator goes on"
    with pytest.raises(ValueError, match=r"^'triangle' is not one of the prompts: horiz.*dots\.$"):
        draw_shapes("triangle")
    no_numbers = [2.0, "3", None, True, np.True_, torch.tensor(True)]
    for pair in [(n, 0) for n in (*no_numbers, 0, -1)] + [(1, seed) for seed in no_numbers]:
        with pytest.raises(ValueError, match=r"^(n|The seed) is .*: give a whole number.*\.$"):
            draw_shapes("circle", *pair)
    for kind in (np.int64, np.uint8, torch.tensor, type("Own", (int,), {})):
        assert torch.equal(draw_shapes("circle", kind(4), kind(3)), draw_shapes("circle", 4, 3))
    assert torch.equal(draw_shapes("circle", 4, -1), draw_shapes("circle", 4, 2**64 - 1))
