"""Pictures, curves and tables in one house style: dark ink on white paper, labels that fit."""

import io
import math
import textwrap

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import Image as Picture
from PIL import Image

GAP = 2  # white pixels between pictures
REAL, GENERATED, HELD_OUT = "black", "#1f77b4", "#e6862a"  # one colour for one thing
DIGITS = plt.colormaps["tab10"].colors                      # one for each digit

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


def tile(pictures, columns):
    """Lay pictures out on white paper, dark ink: uint8 array (rows, columns of pixels).

    They are (n, h, w) or (n, 1, h, w), 1 is ink: bool or float in [0, 1], or uint8 as in MNIST.
    """
    pictures = torch.as_tensor(pictures).detach().cpu()
    pictures = pictures / 255 if pictures.dtype == torch.uint8 else pictures.float()
    if pictures.dim() == 4 and pictures.shape[1] == 1:
        pictures = pictures[:, 0]
    if pictures.dim() != 3 or not len(pictures):
        shape = tuple(pictures.shape)
        raise ValueError(f"Pictures have shape (n, h, w) or (n, 1, h, w), not {shape}.")
    if not 1 <= columns <= 1000:
        raise ValueError(f"columns is {columns}: ask for one to 1,000 pictures in a row.")
    rows = -(-len(pictures) // columns)
    blank = pictures.new_zeros(rows * columns - len(pictures), *pictures.shape[1:])
    sheet = F.pad(torch.cat([pictures.clamp(0, 1), blank]), (0, GAP, 0, GAP))
    sheet = sheet.unflatten(0, (rows, columns)).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    return ((1 - sheet[:-GAP, :-GAP]) * 255).round().to(torch.uint8).numpy()


def show_grid(pictures, labels=(), columns=None, title=None, *, column_labels=(), size=0.75):
    """Show pictures (see `tile`), sorted row by row, as a grid with a label beside each row.

    Without labels there is one row unless `columns` is given; `size` is the inches of a picture.
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
    down, right = (side + GAP for side in pictures.shape[-2:])  # from one picture to the next
    frame = {"color": "0.85", "linewidth": 0.8, "clip_on": False}  # where each paper ends
    ax.hlines([i * down - 1.5 for i in range(rows + 1)], -1.5, end + 1, **frame)
    ax.vlines([i * right - 1.5 for i in range(columns + 1)], -1.5, bottom + 1, **frame)
    ax.set(xlim=(-1.5, end + 1), ylim=(bottom + 1, -1.5))
    plain = {"parse_math": False}  # a reader's dollar is a dollar
    ax.set_yticks([(i + 0.5) * down - 1.5 for i in range(len(labels))], labels, **plain)
    places = [(i + 0.5) * right - 1.5 for i in range(len(column_labels))]
    ax.set_xticks(places, column_labels, **plain)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    fig.suptitle("\n".join(lines), fontsize=12, **plain)
    plt.show()


def show_curves(curves, xlabel, ylabel, title=None, *, log=False, colors=None):
    """Draw a dict from name to y values, or to a pair (x values, y values), over one axis."""
    _, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    for name, curve in curves.items():
        x, y = curve if isinstance(curve, tuple) else (range(1, len(curve) + 1), curve)
        ax.plot(x, y, label=name, color=(colors or {}).get(name))
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale="log" if log else "linear")
    names = ax.legend().get_texts() if len(curves) > 1 else []
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *names):
        text.set_parse_math(False)
    plt.show()


def as_frame(fig):
    """Turn a matplotlib figure into a picture for `show_gif`, and close it."""
    fig.canvas.draw()
    image = Image.frombuffer("RGBA", fig.canvas.get_width_height(), fig.canvas.buffer_rgba())
    plt.close(fig)
    return image.convert("RGB")


def show_gif(frames, columns=1, seconds=0.4, zoom=3):
    """Show an animation, the last frame of which stays longest: Pillow pictures, or see `tile`."""
    if not len(frames) or not 1 <= zoom <= 64:
        raise ValueError("An animation needs at least one frame, and a zoom from 1 to 64.")
    images = [frame if isinstance(frame, Image.Image) else Image.fromarray(tile(frame, columns))
              for frame in frames]
    images = [image.quantize(64) if image.mode == "RGB" else
              image.resize([side * zoom for side in image.size], Image.NEAREST) for image in images]
    durations = [int(seconds * 1000)] * (len(images) - 1) + [int(seconds * 5000)]
    rest = {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
    gif = io.BytesIO()
    images[0].save(gif, "GIF", **rest)
    # named PNG, because nbconvert knows no GIF; browsers look at the bytes, not at the name
    return Picture(gif.getvalue(), format="png")


def does_it_hold(rows):
    """Print a table of name: (value, low, high); AssertionError names the values outside."""
    outside = [name for name, (value, low, high) in rows.items() if not low <= value <= high]
    width = max(map(len, rows))
    for name, (value, low, high) in rows.items():
        within = f"{low:.4g} to {high:.4g}" if high < math.inf else f"at least {low:.4g}"
        within = within if low > -math.inf else f"at most {high:.4g}"
        verdict = "NOT OK" if name in outside else "ok"
        print(f"{name:{width}}  {float(value):>9.4g}   {within:22}  {verdict}")
    if outside:
        raise AssertionError(f"Another machine, or a change, shows in: {', '.join(outside)}.")
