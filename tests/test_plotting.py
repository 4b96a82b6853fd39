"""Grids, curves and animations: known pixels, labels that fit, nothing half-written."""

import io
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.plotting import as_frame, does_it_hold, show_curves, show_gif, show_grid, tile


@pytest.fixture(autouse=True)
def _no_window(monkeypatch):
    plt.switch_backend("Agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


def shown():
    figure = plt.gcf()
    figure.canvas.draw()
    return figure, figure.axes[0]


def test_tile_has_known_pixels_for_every_kind_of_picture():
    pictures = torch.tensor([[[0.0, 1.0]], [[0.5, 2.0]], [[-1.0, 1.0]]])  # 1 high, 2 wide
    paper, white = tile(pictures, columns=2), [255] * 6
    assert paper.dtype == np.uint8 and paper.shape == (4, 6)
    assert paper.tolist() == [[255, 0, 255, 255, 128, 0], white, white, [255, 0, *white[2:]]]
    ink = torch.eye(3, dtype=torch.bool).expand(2, 3, 3)
    for same in (ink, ink[:, None].float().requires_grad_(), ink.byte() * 255, ink.float().numpy()):
        assert tile(same, 2)[1].tolist() == [255, 0, 255, 255, 255, 255, 0, 255]


def test_a_readers_text_is_no_markup():
    """Drawing would fail at these dollars; the ticks of a log axis are markup."""
    labels = ["a seven for $_$", "between $3 and $5"]
    show_grid(torch.rand(2, 28, 28), labels, 1, "$^", column_labels=["$x"])
    assert [text.get_text() for text in shown()[1].get_yticklabels()] == labels
    show_curves({"$_$": [1, 2], "b$": [1, 100]}, "$_x", "y$_", "$$_", log=True)
    axes = shown()[1]
    assert axes.get_yticklabels()[1].get_parse_math() and not axes.title.get_parse_math()


def test_what_cannot_be_shown_is_refused():
    for words, action in {
        r"\(n, h, w\) or \(n, 1, h, w\), not \(28, 28\)": lambda: tile(torch.zeros(28, 28), 1),
        r"not \(2, 3, 28, 28\)": lambda: tile(torch.zeros(2, 3, 28, 28), 1),
        r"not \(0, 28, 28\)": lambda: tile(torch.zeros(0, 28, 28), 1),
        "ask for one to 1,000 pictures in a row": lambda: tile(torch.zeros(2, 4, 4), 0),
        "3 labels do not fit 4 rows of 2": lambda: show_grid(torch.rand(7, 28, 28), "abc"),
        "at least one frame": lambda: show_gif([]),
    }.items():
        with pytest.raises(ValueError, match=words):
            action()


def test_grid_shows_the_pictures_where_its_labels_stand():
    pictures = torch.zeros(6, 28, 28)
    pictures[2:4] = 1  # the second row is all ink
    title = "A title that is a good deal longer than the narrow grid of pictures below it is wide"
    labels, above = ["white", '"two vertical lines"', "x"], ["two", "one"]
    show_grid(pictures, labels, None, title, column_labels=above)
    figure, ax = shown()
    assert [t.get_text() for t in ax.get_yticklabels()] == labels
    assert [t.get_text() for t in ax.get_xticklabels()] == above
    left, right, bottom, top = ax.images[0].get_extent()
    dots = ax.images[0].get_array()
    for ink, y in zip((255, 0, 255), ax.get_yticks(), strict=True):
        row = int((y - top) / (bottom - top) * dots.shape[0])
        columns = [int((x - left) / (right - left) * dots.shape[1]) for x in ax.get_xticks()]
        assert [*dots[row, columns]] == [ink, ink]
    for text in [*ax.get_yticklabels(), *ax.get_xticklabels(), figure._suptitle]:
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1, text.get_text()
        assert box.y0 >= -1 and box.y1 <= figure.bbox.height + 1, text.get_text()
    for n, columns, (rows, across) in ((8, None, (1, 8)), (7, 4, (2, 4))):  # without labels
        show_grid(torch.rand(n, 1, 28, 28), columns=columns)
        height, width = shown()[1].images[0].get_array().shape
        assert height / width == (rows * 30 - 2) / (across * 30 - 2)


def test_curves_have_their_numbers_names_and_colours():
    curves = {"training": [3.0, 2.0, 1.0], "validation": ([1, 3], [4.0, 2.0])}
    show_curves(curves, "epoch", "loss", "A fall", log=True, colors={"validation": "#e6862a"})
    _, ax = shown()
    first, second = ax.lines
    assert [*first.get_xdata()] == [1, 2, 3] and [*first.get_ydata()] == [3, 2, 1]
    assert [*second.get_xdata()] == [1, 3] and second.get_color() == "#e6862a"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["training", "validation"]
    shows = ax.get_xlabel(), ax.get_ylabel(), ax.get_title(), ax.get_yscale()
    assert shows == ("epoch", "loss", "A fall", "log")
    show_curves({"loss": [2.0, 1.0]}, "epoch", "loss")
    assert shown()[1].get_legend() is None and shown()[1].get_yscale() == "linear"


def test_gif_frames_sizes_and_times():
    frames = [torch.full((4, 28, 28), value) for value in (0.0, 0.5, 1.0)]
    fig, _ = plt.subplots(figsize=(1.16, 1.16), facecolor="red")
    shown = show_gif([*frames, as_frame(fig)], columns=2, seconds=0.2, zoom=2)
    assert not plt.get_fignums() and shown.format == "png", "closed; and what nbconvert shows"
    times, greys = [], []
    with Image.open(io.BytesIO(shown.data)) as gif:
        assert gif.format == "GIF" and gif.n_frames == 4 and gif.size == (58 * 2, 58 * 2)
        for k in range(4):
            gif.seek(k)
            times.append(gif.info["duration"])
            greys.append(gif.convert("L").getpixel((10, 10)))
    assert times == [200, 200, 200, 1000] and greys == [255, 128, 0, 76]


INSIDE = {"on both": (2, 2, 2), "a share": (0.95, 0.9, 1.0), "one-sided": (1e9, 0.5, math.inf),
          "at most": (torch.tensor(-3.0), -math.inf, 0.1)}
OUTSIDE = {"below": (0.899, 0.9, 1.0), "above": (1.001, 0.9, 1.0), "NaN": (math.nan, 0, 1),
           "too few": (0.4, 0.5, math.inf), "too much": (0.2, -math.inf, 0.1)}


def test_what_holds_is_printed_and_passes(capsys):
    does_it_hold(INSIDE)
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "on both 2 2 to 2 ok", "a share 0.95 0.9 to 1 ok", "one-sided 1e+09 at least 0.5 ok",
        "at most -3 at most 0.1 ok",
    ]
    assert len({line.index("ok") for line in lines}) == 1, "a table"


def test_what_does_not_hold_is_named(capsys):
    for name, row in OUTSIDE.items():
        with pytest.raises(AssertionError, match=rf": {name}\.$"):
            does_it_hold(INSIDE | {name: row})
        verdicts = [line.endswith("NOT OK") for line in capsys.readouterr().out.splitlines()]
        assert verdicts == [False] * 4 + [True]
