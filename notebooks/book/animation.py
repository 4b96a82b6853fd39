"""Write the animation at the top of the README: the models of the series, one after the other.

    python notebooks/book/animation.py

Every picture is the first that its model draws with seed 0; none is chosen. Run it again when a
released checkpoint has changed.
"""

import io
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from helpers import TextToImage, write_whole
from helpers.flow import guide
from helpers.plotting import tile
from helpers.shapes import draw_shapes

TARGET = Path(__file__).resolve().parents[1] / "figures" / "readme.gif"
COLUMNS = 8
SHAPES = ["circle", "cross", "square", "diagonal line"]
SENTENCES = ["a seven", "print number 3", "show me what five looks like", "an eight"]
STYLES = ["a seven", "a thick seven leaning left", "zero, very thin please", "a wide 9"]


def programs(prompts):
    """Draw with the programs of notebook 1: pictures (n, 28, 28), prompt by prompt."""
    dice = torch.Generator()
    return torch.cat([draw_shapes(p, COLUMNS, dice.manual_seed(0)) for p in prompts])


@torch.no_grad()
def on_the_way(prompts, every=7):
    """Decode what the flow of notebook 12 carries, from noise to codes, at every few steps."""
    released = TextToImage.load("mnist-flow", device="cpu")
    model = released.model
    condition = released.conditions(prompts).repeat_interleave(COLUMNS, dim=0)
    x = released.latents(COLUMNS, 0).repeat(len(prompts), 1)
    for k in range(model.steps):
        if k % every == 0:
            yield model.autoencoder.decode(model.centre + model.scale * x)
        t = torch.full((len(x),), k / model.steps)
        x = x + guide(model.velocity, x, t, condition, model.guidance) / model.steps


def frame(title, prompts, pictures):
    """Draw one frame: what it shows, the prompts, and their pictures."""
    paper = tile(pictures, COLUMNS)
    high = 0.58 * 7.6 / 2.7 * paper.shape[0] / paper.shape[1]  # of the figure
    fig = plt.figure(figsize=(7.6, 2.7), dpi=100, facecolor="white")
    fig.text(0.012, 0.93, title, fontsize=13, va="center", weight="bold")
    for k, prompt in enumerate(prompts):
        middle = 0.01 + high * (len(prompts) - k - 0.5) / len(prompts)
        fig.text(0.4, middle, f'"{prompt}"', fontsize=11, ha="right", va="center")
    axes = fig.add_axes((0.415, 0.01, 0.58, high))
    axes.imshow(paper, cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
    fig.canvas.draw()
    image = Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("L")
    plt.close(fig)
    return image


def main():
    matplotlib.use("agg")
    draw = {name: TextToImage.load(name, device="cpu").draw
            for name in ("shapes-mlp", "shapes-cvae", "mnist-cvae", "mnist-style", "mnist-flow")}
    shown = [
        ("1 · Nine programs draw shapes", SHAPES, programs(SHAPES), 2),
        ("3 · A generator learns, and ignores its noise", SHAPES,
         draw["shapes-mlp"](SHAPES, COLUMNS), 2),
        ("4 · A CVAE on the same shapes uses it", SHAPES, draw["shapes-cvae"](SHAPES, COLUMNS), 2),
        ("8 · A convolutional CVAE reads sentences", SENTENCES,
         draw["mnist-cvae"](SENTENCES, COLUMNS), 2.5),
        ("11 · The sentence says how", STYLES, draw["mnist-style"](STYLES, COLUMNS), 2.5),
    ]
    title = "12 · A flow carries noise to pictures"
    shown += [(title, STYLES, pictures, 0.4) for pictures in on_the_way(STYLES)]
    shown.append((title, STYLES, draw["mnist-flow"](STYLES, COLUMNS), 4))
    first, *more = (frame(*what).quantize(32) for *what, _ in shown)
    rest = {"save_all": True, "append_images": more, "loop": 0,
            "duration": [int(seconds * 1000) for *_, seconds in shown]}
    gif = io.BytesIO()
    first.save(gif, "GIF", **rest)
    write_whole(TARGET, gif.getvalue())
    print(f"{TARGET.name}: {len(shown)} frames, {TARGET.stat().st_size / 2**10:.0f} KB")


if __name__ == "__main__":
    main()
