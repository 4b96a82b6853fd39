"""The nine programs, against plain loops that draw one picture at a time."""

import collections
import math
import random
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from helpers import shapes
from helpers.shapes import PROMPTS, ShapesDataset, draw_all_shapes, draw_shapes

N = 20_000
BINARY = tuple(p for p in PROMPTS if p != "dense center")


# ---- the reference: one picture at a time, from the numbers that describe it -------------------


def paint(pixels):
    """Make one picture from (row, column) pairs; what falls beside the paper is lost."""
    picture = np.zeros((28, 28), np.float32)
    for row, column in pixels:
        if 0 <= row < 28 and 0 <= column < 28:
            picture[row, column] = 1
    return picture


def horizontal_line(row, extra, start, end):
    return paint((r, c) for r in range(row, row + extra + 1) for c in range(start, end + 1))


def vertical_line(column, extra, start, end):
    return paint((r, c) for c in range(column, column + extra + 1) for r in range(start, end + 1))


def two_vertical_lines(left, right, top, bottom):
    return paint((r, c) for r in range(top, bottom + 1) for c in (left, right))


def diagonal_line(shift, mirrored):
    pixels = [(r, r + shift + extra) for r in range(28) for extra in (0, 1)]
    return paint((r, 27 - c if mirrored else c) for r, c in pixels)


def cross(y, x, arm):
    return paint([p for d in range(-arm, arm + 1) for p in ((y + d, x), (y, x + d))])


def circle(y, x, radius):
    reach = range(-radius - 1, radius + 2)
    on = [(dy, dx) for dy in reach for dx in reach if abs(math.hypot(dy, dx) - radius) < 0.5]
    return paint((y + dy, x + dx) for dy, dx in on)


def square(side, top, left):
    along = range(side)
    edges = [e for i in along for e in ((0, i), (side - 1, i), (i, 0), (i, side - 1))]
    return paint((top + dy, left + dx) for dy, dx in edges)


def dense_center(y, x, sigma):
    squares = [[(row - y) ** 2 + (column - x) ** 2 for column in range(28)] for row in range(28)]
    return np.array([[math.exp(-d / (2 * sigma**2)) for d in row] for row in squares], np.float32)


def sparse_dots(places):
    return paint(divmod(place, 28) for place in places)


def throw(prompt, dice):
    """Throw the dice of issue 2 for one picture."""
    die = dice.randint  # both ends included
    if prompt == "square":
        side = die(8, 15)
        return square(side, die(2, 26 - side), die(2, 26 - side))
    if prompt == "dense center":
        return dense_center(die(12, 16), die(12, 16), dice.uniform(3, 6))
    if prompt == "sparse dots":
        return sparse_dots(dice.sample(range(784), die(5, 15)))
    drawing, ranges = REFERENCE[prompt]
    return drawing(*(die(low, high) for low, high in ranges))


REFERENCE = {
    "horizontal line": (horizontal_line, [(5, 22), (0, 1), (0, 4), (22, 26)]),
    "vertical line": (vertical_line, [(5, 22), (0, 1), (0, 4), (22, 26)]),
    "two vertical lines": (two_vertical_lines, [(4, 9), (18, 23), (2, 5), (21, 24)]),
    "diagonal line": (diagonal_line, [(-3, 3), (0, 1)]),
    "cross": (cross, [(11, 17), (11, 17), (6, 9)]),
    "circle": (circle, [(10, 18), (10, 18), (5, 10)]),
}


def every_picture(prompt):
    """List every picture a prompt can mean with its probability, by enumeration."""
    if prompt == "square":
        for side in range(8, 16):
            corners = range(2, 27 - side)
            for top in corners:
                for left in corners:
                    yield square(side, top, left), 1 / 8 / len(corners) ** 2
        return
    drawing, ranges = REFERENCE[prompt]
    numbers = np.stack(np.meshgrid(*(range(a, b + 1) for a, b in ranges)), -1)
    numbers = numbers.reshape(-1, len(ranges)).tolist()
    for row in numbers:
        yield drawing(*row), 1 / len(numbers)


def key(picture):
    return np.packbits(np.asarray(picture, bool)).tobytes()


def chi_square(observed, expected):
    """How many standard deviations the statistic lies above its mean."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    freedom = len(observed) - 1
    statistic = ((observed - expected) ** 2 / expected).sum()
    return (statistic - freedom) / math.sqrt(2 * freedom)


def kolmogorov(a, b):
    """Return the largest gap between two empirical distributions."""
    a, b = np.sort(a), np.sort(b)
    places = np.concatenate([a, b])
    below = [np.searchsorted(x, places, side="right") / len(x) for x in (a, b)]
    return np.abs(below[0] - below[1]).max()


@pytest.fixture(scope="module")
def drawn():
    generator = torch.Generator().manual_seed(1)
    return {prompt: draw_shapes(prompt, N, generator) for prompt in PROMPTS}


# ---- the same distribution ---------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [*REFERENCE, "square"])
def test_exactly_the_possible_pictures_and_equally_often(prompt):
    expected = collections.Counter()
    for picture, probability in every_picture(prompt):
        expected[key(picture)] += probability
    assert abs(sum(expected.values()) - 1) < 1e-9
    n = 2 * N
    counts = collections.Counter(map(key, draw_shapes(prompt, n, seed=2).numpy()))
    assert set(counts) == set(expected)  # none else, and every end of every range is reached
    z = chi_square([counts[k] for k in expected], [n * p for p in expected.values()])
    assert abs(z) < 5


@pytest.mark.parametrize("prompt", PROMPTS)
def test_like_a_loop_that_draws_one_picture_at_a_time(prompt, drawn):
    n = 2_000 if prompt == "dense center" else N  # the loop needs 784 exponentials a picture
    dice = random.Random(0)
    loop = np.stack([throw(prompt, dice) for _ in range(n)])
    fast = drawn[prompt][:n].numpy()
    gap = fast.mean(0) - loop.mean(0)
    error = np.sqrt((fast.var(0) + loop.var(0)) / n)
    assert np.all(np.abs(gap) <= 5 * error + 1e-6)
    assert kolmogorov(fast.sum((1, 2)), loop.sum((1, 2))) < 1.95 * math.sqrt(2 / n)
    assert abs(fast.var(0).mean() / loop.var(0).mean() - 1) < 0.05


@pytest.mark.parametrize("prompt", BINARY)
def test_pixels_are_paper_or_ink(prompt, drawn):
    pictures = drawn[prompt]
    assert ((pictures == 0) | (pictures == 1)).all()


def test_two_vertical_lines_share_top_and_bottom(drawn):
    pictures = drawn["two vertical lines"]
    left, right = pictures[:, :, :14].sum(2), pictures[:, :, 14:].sum(2)
    assert torch.equal(left, right)
    assert left.max() == 1  # each one pixel wide


def test_square_keeps_its_margin(drawn):
    pictures = drawn["square"]
    inside = pictures[:, 2:26, 2:26]
    assert pictures.sum() == inside.sum()
    touched = inside.sum(0) > 0
    assert touched[0].any() and touched[-1].any() and touched[:, 0].any() and touched[:, -1].any()


def test_dense_center_range_of_centre_and_width(drawn):
    pictures = drawn["dense center"]
    assert (pictures.amax((1, 2)) == 1).all()
    places = pictures.view(N, -1).argmax(1)
    rows, columns = places // 28, places % 28
    assert rows.unique().tolist() == columns.unique().tolist() == [12, 13, 14, 15, 16]
    pairs = torch.bincount((rows - 12) * 5 + columns - 12)
    assert abs(chi_square(pairs, [N / 25] * 25)) < 5
    beside = pictures[torch.arange(N), rows, columns + 5].double()
    sigma = (-25 / (2 * beside.log())).sqrt().numpy()
    assert 3 - 1e-4 < sigma.min() < 3.01 and 5.99 < sigma.max() < 6 + 1e-4
    assert kolmogorov(sigma, np.linspace(3, 6, N)) < 0.015


def test_sparse_dots_number_and_places(drawn):
    pictures = drawn["sparse dots"]
    numbers = pictures.sum((1, 2)).long()
    assert numbers.unique().tolist() == list(range(5, 16))
    assert abs(chi_square(torch.bincount(numbers)[5:], [N / 11] * 11)) < 5
    assert abs(chi_square(pictures.sum(0).flatten(), [10 * N / 784] * 784)) < 5


@pytest.mark.parametrize("prompt", PROMPTS)
def test_ten_thousand_pictures_in_two_seconds_on_one_core(prompt):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(3):
            clock = time.perf_counter()
            draw_shapes(prompt, 10_000)
            times.append(time.perf_counter() - clock)
    finally:
        torch.set_num_threads(threads)
    assert min(times) < 2


# ---- the doors ---------------------------------------------------------------------------------


def test_integers_and_between():
    generator = torch.Generator().manual_seed(0)
    dice = shapes.integers(-3, 3, 1000, generator)
    assert dice.shape == (1000, 1, 1)
    assert dice.unique().tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert shapes.between(1, torch.arange(5), 3).tolist() == [False, True, True, True, False]


def test_the_nine_prompts():
    assert PROMPTS == (
        "horizontal line", "vertical line", "two vertical lines", "diagonal line", "cross",
        "circle", "square", "dense center", "sparse dots",
    )


@pytest.mark.parametrize("prompt", PROMPTS)
def test_draw_shapes_gives_what_it_promises(prompt):
    pictures = draw_shapes(prompt, 64, seed=0)
    assert pictures.shape == (64, 28, 28) and pictures.dtype == torch.float32
    assert pictures.min() >= 0 and pictures.max() == 1
    assert torch.equal(pictures, draw_shapes(prompt, 64, seed=0))
    assert not torch.equal(pictures, draw_shapes(prompt, 64, seed=1))
    assert draw_shapes(prompt).shape == (1, 28, 28)


def test_a_generator_is_used_up_further():
    generator = torch.Generator().manual_seed(0)
    first, second = draw_shapes("cross", 4, generator), draw_shapes("cross", 4, generator)
    assert torch.equal(first, draw_shapes("cross", 4, 0))
    assert not torch.equal(first, second)


def test_unknown_prompt_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"^'triangle' is not one of the nine.*: horiz.*dots\.$"):
        draw_shapes("triangle")


@pytest.mark.parametrize("n", [0, -1, 2.0, "3", None, True])
def test_not_a_number_of_pictures(n):
    with pytest.raises(ValueError, match="whole number of pictures, at least 1"):
        draw_shapes("circle", n)


def test_draw_all_shapes_is_sorted_by_prompt():
    pictures, prompt_ids = draw_all_shapes(3, torch.Generator().manual_seed(0))
    assert pictures.shape == (27, 28, 28) and pictures.dtype == torch.float32
    assert prompt_ids.tolist() == [i for i in range(9) for _ in range(3)]
    assert torch.equal(pictures[:3], draw_shapes("horizontal line", 3, 0))
    assert pictures[prompt_ids == 8].sum((1, 2)).max() <= 15


def test_dataset_items():
    dataset = ShapesDataset(per_prompt=5)
    assert len(dataset) == 45
    items = [dataset[i] for i in range(45)]
    assert [prompt for _, prompt in items] == [p for p in PROMPTS for _ in range(5)]
    assert all(picture.shape == (28, 28) and picture.dtype == torch.float32 for picture, _ in items)
    assert torch.equal(dataset[7][0], items[7][0])
    other = ShapesDataset(per_prompt=5, seed=1)
    assert not torch.equal(other[22][0], items[22][0])
    assert len(list(dataset)) == 45  # a for loop ends


def test_dataset_draws_the_same_distribution(drawn):
    dataset = ShapesDataset(per_prompt=600, seed=3)
    for i, prompt in enumerate(PROMPTS):
        items = torch.stack([dataset[k][0] for k in range(600 * i, 600 * (i + 1))])
        many = drawn[prompt]
        error = (many.var(0) / 600 + many.var(0) / N).sqrt()
        # a pixel so rare that 600 pictures may lack it has no meaningful standard error
        assert ((items.mean(0) - many.mean(0)).abs() <= 5 * error + 0.003).all()
        assert abs(items.var(0).mean() / many.var(0).mean() - 1) < 0.08


@pytest.mark.parametrize("i", [45, 1000, -1])
def test_dataset_item_that_is_not_there(i):
    with pytest.raises(IndexError, match="the items are 0 to 44"):
        ShapesDataset(per_prompt=5)[i]


def test_data_loader_stacks_pictures_and_lists_prompts():
    pictures, prompts = next(iter(DataLoader(ShapesDataset(per_prompt=5), batch_size=8)))
    assert pictures.shape == (8, 28, 28)
    assert list(prompts) == ["horizontal line"] * 5 + ["vertical line"] * 3
