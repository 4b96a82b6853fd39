"""Pictures and curves in one house style: dark ink on white paper, labels that fit."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from helpers.files import write_whole

REAL, GENERATED, HELD_OUT = "black", "#1f77b4", "#e6862a"  # one colour for one thing

plt.rcParams.update(
    {
        "figure.dpi": 100,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        # what has no colour of its own gets one that means nothing else
        "axes.prop_cycle": plt.cycler(color=[GENERATED, "#2a9d5c", "#8a63b8", "#7f7f7f"]),
        "grid.alpha": 0.25,
        "legend.frameon": False,
    }
)


def tile(pictures, columns, gap=2):
    """Lay n pictures of one size out on white paper, row by row, dark ink.

    Args:
        pictures: tensor (n, h, w) or (n, 1, h, w), 1 is ink: bool or float in [0, 1], or uint8
            from 0 to 255 as MNIST has it.
        columns: pictures in a row, at least 1.
        gap: white pixels between pictures.

    Returns:
        uint8 array (rows, columns of pixels), 255 is paper.

    Raises:
        ValueError: the tensor does not hold pictures, or columns is below 1.
    """
    pictures = torch.as_tensor(pictures).detach().cpu()
    pictures = pictures / 255 if pictures.dtype == torch.uint8 else pictures.float()
    if pictures.dim() == 4 and pictures.shape[1] == 1:
        pictures = pictures[:, 0]
    if pictures.dim() != 3 or not len(pictures):
        raise ValueError(
            f"Pictures have shape (n, h, w) or (n, 1, h, w), not {tuple(pictures.shape)}."
        )
    if columns < 1:
        raise ValueError(f"columns is {columns}: ask for at least one picture in a row.")
    n, height, width = pictures.shape
    rows = -(-n // columns)
    paper = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), 255, np.uint8)
    ink = ((1 - pictures.clamp(0, 1)) * 255).round().to(torch.uint8).numpy()
    for i, picture in enumerate(ink):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        paper[top : top + height, left : left + width] = picture
    return paper


def show_grid(pictures, labels=(), columns=None, title=None, *, column_labels=(), size=0.75):
    """Show pictures as a grid with a label beside each row.

    Args:
        pictures: tensor (n, h, w) or (n, 1, h, w) with values in [0, 1], sorted row by row.
        labels: one text for each row; without them there is one row unless `columns` is given.
        columns: pictures in a row; by default n divided by the number of labels.
        title: a line above the grid.
        column_labels: one short text above each column.
        size: inches from one picture to the next.

    Raises:
        ValueError: the pictures do not fill one row for each label.
    """
    pictures = torch.as_tensor(pictures)
    columns = columns or len(pictures) // max(len(labels), 1)
    paper = tile(pictures, columns)
    rows = -(-len(pictures) // columns)
    if len(labels) not in (0, rows):
        raise ValueError(f"{len(labels)} labels do not fit {rows} rows of {columns} pictures.")
    # labels and title get their own inches, so that the pictures keep theirs
    width = columns * size + 0.09 * max((len(label) for label in labels), default=0)
    lines = textwrap.wrap(title or "", max(int(width / 0.095), 24))
    height = rows * size + 0.25 * bool(column_labels) + 0.25 * len(lines)
    fig, ax = plt.subplots(figsize=(width, height), layout="constrained")
    # four dots per pixel before the screen resamples, so that every stroke keeps its weight
    bottom, end = paper.shape[0] - 0.5, paper.shape[1] - 0.5
    sharp = paper.repeat(4, 0).repeat(4, 1)
    ax.imshow(sharp, cmap="gray", vmin=0, vmax=255, extent=(-0.5, end, bottom, -0.5))
    down, right = (side + 2 for side in pictures.shape[-2:])  # from one picture to the next
    frame = {"color": "0.85", "linewidth": 0.8, "clip_on": False}  # where each paper ends
    ax.hlines([i * down - 1.5 for i in range(rows + 1)], -1.5, end + 1, **frame)
    ax.vlines([i * right - 1.5 for i in range(columns + 1)], -1.5, bottom + 1, **frame)
    ax.set(xlim=(-1.5, end + 1), ylim=(bottom + 1, -1.5))
    ax.set_yticks([(i + 0.5) * down - 1.5 for i in range(len(labels))], labels)
    ax.set_xticks([(i + 0.5) * right - 1.5 for i in range(len(column_labels))], column_labels)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    fig.suptitle("\n".join(lines), fontsize=12)
    plt.show()


def show_curves(curves, xlabel, ylabel, title=None, *, log=False, colors=None):
    """Draw named curves over one axis.

    Args:
        curves: a dict from name to a sequence of y values, or to a pair (x values, y values).
        xlabel, ylabel: what the axes show, with units.
        title: a line above.
        log: whether the y axis is logarithmic.
        colors: a dict from name to colour, for those that mean something.
    """
    _, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    for name, curve in curves.items():
        x, y = curve if isinstance(curve, tuple) else (range(1, len(curve) + 1), curve)
        ax.plot(x, y, label=name, color=(colors or {}).get(name))
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale="log" if log else "linear")
    if len(curves) > 1:
        ax.legend()
    plt.show()


def save_gif(frames, path, columns, seconds=0.4, zoom=3):
    """Write an animation, one grid of pictures per frame; the last frame stays longest.

    Args:
        frames: a list of tensors (n, h, w) or (n, 1, h, w) with values in [0, 1].
        path: where to write; the file appears only when it is complete.
        columns: pictures in a row.
        seconds: how long a frame stays.
        zoom: pixels on the screen per pixel of a picture.

    Returns:
        The path.

    Raises:
        ValueError: there is no frame, or a frame does not hold pictures.
    """
    if not len(frames):
        raise ValueError("An animation needs at least one frame.")
    images = [Image.fromarray(tile(frame, columns)) for frame in frames]
    images = [i.resize((i.width * zoom, i.height * zoom), Image.NEAREST) for i in images]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    durations = [int(seconds * 1000)] * (len(images) - 1) + [int(seconds * 5000)]
    rest = {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
    write_whole(path, lambda beside: images[0].save(beside, "GIF", **rest))
    return path
