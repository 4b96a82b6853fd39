"""Nine prompts and the programs that draw them, a whole batch at once (01_drawing_shapes)."""

import torch

SIDE = 28
ROWS, COLUMNS = torch.arange(SIDE)[None, :, None], torch.arange(SIDE)[None, None]  # 1×28×1, 1×1×28


def integers(low, high, n, generator):
    """Draw n uniform integers from low to high, both included: int64 tensor (n, 1, 1)."""
    return torch.randint(low, high + 1, (n, 1, 1), generator=generator)


def between(low, values, high):
    """Mark where low <= values <= high: bool tensor of the broadcast shape."""
    return (low <= values) & (values <= high)


def draw_horizontal_line(n, generator):
    """Row 5-22, 1-2 rows thick, from column 0-4 to column 22-26: bool tensor (n, 28, 28)."""
    row, extra = integers(5, 22, n, generator), integers(0, 1, n, generator)
    start, end = integers(0, 4, n, generator), integers(22, 26, n, generator)
    return between(row, ROWS, row + extra) & between(start, COLUMNS, end)


def draw_vertical_line(n, generator):
    """Turn the horizontal line: bool tensor (n, 28, 28)."""
    return draw_horizontal_line(n, generator).transpose(1, 2)


def draw_two_vertical_lines(n, generator):
    """Columns 4-9 and 18-23, both from row 2-5 to row 21-24: bool tensor (n, 28, 28)."""
    left, right = integers(4, 9, n, generator), integers(18, 23, n, generator)
    top, bottom = integers(2, 5, n, generator), integers(21, 24, n, generator)
    return ((COLUMNS == left) | (COLUMNS == right)) & between(top, ROWS, bottom)


def draw_diagonal_line(n, generator):
    """Corner to corner in either direction, two wide, shifted by -3 to 3: bool (n, 28, 28)."""
    shift, mirrored = integers(-3, 3, n, generator), integers(0, 1, n, generator)
    columns = torch.where(mirrored == 1, SIDE - 1 - COLUMNS, COLUMNS)
    return between(0, columns - ROWS - shift, 1)


def draw_cross(n, generator):
    """Draw an upright plus: centre 14±3 in x and y, arms of 6-9. Bool tensor (n, 28, 28)."""
    y, x = integers(11, 17, n, generator), integers(11, 17, n, generator)
    arm = integers(6, 9, n, generator)
    upright = (COLUMNS == x) & between(y - arm, ROWS, y + arm)
    level = (ROWS == y) & between(x - arm, COLUMNS, x + arm)
    return upright | level


def draw_circle(n, generator):
    """Draw an outline: centre 14±4 in x and y, radius 5-10. Bool tensor (n, 28, 28)."""
    y, x = integers(10, 18, n, generator), integers(10, 18, n, generator)
    radius = integers(5, 10, n, generator)
    return ((ROWS - y) ** 2 + (COLUMNS - x) ** 2).sqrt().round() == radius


def draw_square(n, generator):
    """Draw an outline: side 8-15, wholly inside a margin of 2. Bool tensor (n, 28, 28)."""
    side = integers(8, 15, n, generator)
    room = SIDE - 2 * 2 - side + 1  # how many places the upper left corner can take
    top, left = 2 + (torch.rand(2, n, 1, 1, generator=generator) * room).long()
    bottom, right = top + side - 1, left + side - 1
    filled = between(top, ROWS, bottom) & between(left, COLUMNS, right)
    hole = between(top + 1, ROWS, bottom - 1) & between(left + 1, COLUMNS, right - 1)
    return filled & ~hole


def draw_dense_center(n, generator):
    """Draw a Gaussian blob: centre 14±2, sigma 3-6, maximum 1. Float tensor (n, 28, 28)."""
    y, x = integers(12, 16, n, generator), integers(12, 16, n, generator)
    sigma = 3 + 3 * torch.rand(n, 1, 1, generator=generator)
    return torch.exp(-((ROWS - y) ** 2 + (COLUMNS - x) ** 2) / (2 * sigma**2))


def draw_sparse_dots(n, generator):
    """Light 5-15 different pixels anywhere: bool tensor (n, 28, 28)."""
    lit = integers(5, 15, n, generator).view(n, 1)
    places = torch.rand(n, SIDE * SIDE, generator=generator).topk(15).indices  # 15 different ones
    pictures = torch.zeros(n, SIDE * SIDE, dtype=torch.bool)
    return pictures.scatter(1, places, torch.arange(15) < lit).view(n, SIDE, SIDE)


DRAW = {
    "horizontal line": draw_horizontal_line, "vertical line": draw_vertical_line,
    "two vertical lines": draw_two_vertical_lines, "diagonal line": draw_diagonal_line,
    "cross": draw_cross, "circle": draw_circle, "square": draw_square,
    "dense center": draw_dense_center, "sparse dots": draw_sparse_dots,
}
PROMPTS = tuple(DRAW)


def whole(number, name, positive=False):
    """Read an integer of any type as an int; ValueError for all else, a truth value included."""
    truth = "bool" in str(getattr(number, "dtype", type(number)))
    if truth or not hasattr(number, "__index__") or (positive and number.__index__() < 1):
        raise ValueError(f"{name} is {number!r}: give a whole number{' from 1 on' * positive}.")
    return number.__index__()


def draw_shapes(prompt, n=1, seed=0):
    """Draw n pictures of a prompt of `PROMPTS`, by a seed or `torch.Generator`: (n, 28, 28)."""
    if prompt not in DRAW:
        raise ValueError(f"{prompt!r} is not one of the prompts: {', '.join(PROMPTS)}.")
    if not isinstance(seed, torch.Generator):
        seed = torch.Generator().manual_seed(whole(seed, "The seed") % 2**64)
    return DRAW[prompt](whole(n, "n", positive=True), seed).float()


def draw_all_shapes(per_prompt, generator):
    """Draw pictures of every prompt, sorted: (n, 28, 28), and their places in `PROMPTS` (n,)."""
    pictures = torch.cat([draw_shapes(prompt, per_prompt, generator) for prompt in PROMPTS])
    return pictures, torch.arange(len(PROMPTS)).repeat_interleave(per_prompt)
