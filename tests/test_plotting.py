"""Grids, curves and animations: known pixels, labels that fit, nothing half-written."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.plotting import save_gif, show_curves, show_grid, tile


@pytest.fixture(autouse=True)
def _no_window(monkeypatch):
    plt.switch_backend("Agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


# ---- tile --------------------------------------------------------------------------------------


def test_tile_known_pixels():
    pictures = torch.tensor([[[0.0, 1.0]], [[0.5, 2.0]], [[-1.0, 1.0]]])  # 1 high, 2 wide
    paper = tile(pictures, columns=2, gap=1)
    assert paper.dtype == np.uint8
    assert paper.tolist() == [
        [255, 0, 255, 128, 0],
        [255, 255, 255, 255, 255],
        [255, 0, 255, 255, 255],
    ]


def test_tile_reads_every_kind_of_picture():
    ink = torch.zeros(2, 3, 3, dtype=torch.bool)
    ink[0, 1, 1] = ink[1, 2, 2] = True
    plain = tile(ink.float(), 2)
    assert np.array_equal(tile(ink, 2), plain)
    assert np.array_equal(tile(ink[:, None].float().requires_grad_(), 2), plain)
    assert np.array_equal(tile(ink.to(torch.uint8) * 255, 2), plain)  # as MNIST has it
    assert np.array_equal(tile(ink.float().numpy(), 2), plain)


@pytest.mark.parametrize("shape", [(28, 28), (2, 3, 28, 28), (0, 28, 28), (28,)])
def test_tile_refuses_what_is_no_stack_of_pictures(shape):
    with pytest.raises(ValueError, match=r"Pictures have shape \(n, h, w\) or \(n, 1, h, w\), not"):
        tile(torch.zeros(shape), 1)


def test_tile_needs_a_column():
    with pytest.raises(ValueError, match="at least one picture in a row"):
        tile(torch.zeros(2, 4, 4), 0)


# ---- show_grid ---------------------------------------------------------------------------------


def shown():
    figure = plt.gcf()
    figure.canvas.draw()
    return figure, figure.axes[0]


def test_grid_shows_the_pictures_where_its_labels_stand():
    pictures = torch.zeros(6, 28, 28)
    pictures[2:4] = 1  # the second row is all ink
    show_grid(pictures, ['"white"', '"ink"', '"again"'], column_labels=["one", "two"])
    _, ax = shown()
    assert [t.get_text() for t in ax.get_yticklabels()] == ['"white"', '"ink"', '"again"']
    assert [t.get_text() for t in ax.get_xticklabels()] == ["one", "two"]
    image = ax.images[0]
    left, right, bottom, top = image.get_extent()
    dots = image.get_array()
    for label, y in zip(("white", "ink", "again"), ax.get_yticks(), strict=True):
        for x in ax.get_xticks():
            row = int((y - top) / (bottom - top) * dots.shape[0])
            column = int((x - left) / (right - left) * dots.shape[1])
            assert dots[row, column] == (0 if label == "ink" else 255)


def test_grid_labels_and_titles_fit_the_figure():
    title = "A title that is a good deal longer than the narrow grid of pictures below it is wide"
    show_grid(torch.rand(4, 28, 28), ['"two vertical lines"', "x"], 2, title)
    figure, ax = shown()
    texts = [*ax.get_yticklabels(), figure._suptitle]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1, text.get_text()
        assert box.y0 >= -1 and box.y1 <= figure.bbox.height + 1, text.get_text()


def test_grid_without_labels_is_one_row_or_as_many_columns_as_asked():
    show_grid(torch.rand(8, 1, 28, 28))
    _, ax = shown()
    assert ax.images[0].get_array().shape == (28 * 4, (8 * 30 - 2) * 4)
    plt.close("all")
    show_grid(torch.rand(7, 28, 28), columns=4)
    _, ax = shown()
    assert ax.images[0].get_array().shape == (58 * 4, 118 * 4)


def test_grid_refuses_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="3 labels do not fit 4 rows of 2 pictures"):
        show_grid(torch.rand(7, 28, 28), ["a", "b", "c"])


# ---- show_curves -------------------------------------------------------------------------------


def test_curves_have_their_numbers_names_and_colours():
    curves = {"training": [3.0, 2.0, 1.0], "validation": ([1, 3], [4.0, 2.0])}
    show_curves(curves, "epoch", "loss", "A fall", log=True, colors={"validation": "#e6862a"})
    _, ax = shown()
    first, second = ax.lines
    assert list(first.get_xdata()) == [1, 2, 3] and list(first.get_ydata()) == [3, 2, 1]
    assert list(second.get_xdata()) == [1, 3] and second.get_color() == "#e6862a"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["training", "validation"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("epoch", "loss", "A fall")
    assert ax.get_yscale() == "log"


def test_a_single_curve_needs_no_legend():
    show_curves({"loss": [2.0, 1.0]}, "epoch", "loss")
    assert shown()[1].get_legend() is None


# ---- save_gif ----------------------------------------------------------------------------------


def test_gif_frames_sizes_and_times(tmp_path):
    frames = [torch.full((4, 28, 28), value) for value in (0.0, 0.5, 1.0)]
    path = save_gif(frames, tmp_path / "new" / "a.gif", columns=2, seconds=0.2, zoom=2)
    with Image.open(path) as gif:
        assert gif.n_frames == 3 and gif.size == (58 * 2, 58 * 2)
        times, greys = [], []
        for k in range(3):
            gif.seek(k)
            times.append(gif.info["duration"])
            greys.append(gif.convert("L").getpixel((10, 10)))
    assert times == [200, 200, 1000]
    assert greys == [255, 128, 0]
    assert [p.name for p in path.parent.iterdir()] == ["a.gif"]


def test_gif_without_frames(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        save_gif([], tmp_path / "a.gif", columns=1)


def test_gif_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(self, file, *args, **kwargs):
        file.write_bytes(b"GIF8")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_gif([torch.zeros(1, 4, 4)], tmp_path / "a.gif", columns=1)
    assert list(tmp_path.iterdir()) == []
