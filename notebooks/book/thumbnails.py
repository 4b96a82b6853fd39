"""Write the small pictures in the README's table, notebooks/figures/NN_thumb.png.

    python notebooks/book/thumbnails.py

Four pictures each, the first with seed 0, or a plot. Run it again when a released checkpoint has
changed.
"""

import json

import animation
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageDraw

from helpers import TextToImage
from helpers.captions import HELD_OUT_PHRASINGS, TRAINING_PHRASINGS, all_captions
from helpers.checkpoints import checkpoint_paths
from helpers.mnist import load_mnist, to_float
from helpers.models import modulate
from helpers.plotting import DIGITS, GENERATED, REAL, tile
from helpers.shapes import draw_shapes
from helpers.text import CharacterTokenizer, sentence_encoder

FIGURES = animation.TARGET.parent
WIDTH, HEIGHT, LABEL = 480, 164, 44  # dots: twice what the README shows
SIDE, STEP = 112, 122                # of a picture, and from one to the next


def strip(pictures, label):
    """Lay four pictures (4, 1, h, w) beside each other, dark on white, below their label."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    ink = ImageDraw.Draw(image)
    ink.text((0, LABEL // 2 - 2), label, "black", animation.font(14), anchor="lm")
    for k, picture in enumerate(pictures):
        paper = Image.fromarray(tile(picture[None], 1))
        image.paste(paper.resize((SIDE, SIDE), Image.Resampling.NEAREST), (k * STEP + 1, LABEL + 3))
        ink.rectangle((k * STEP, LABEL + 2, k * STEP + SIDE + 1, LABEL + SIDE + 3), None, "#bbb")
    return image


def plot(draw):
    """Let a function draw into axes as large as a thumbnail."""
    fig, ax = plt.subplots(figsize=(WIDTH / 200, HEIGHT / 200), dpi=200, layout="constrained")
    draw(ax)
    ax.grid(False)
    fig.canvas.draw()
    image = Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("RGB")
    plt.close(fig)
    return image


def letters(word="circle"):
    """Draw a word's letters in boxes, and the number of each below."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    ink = ImageDraw.Draw(image)
    tokens = CharacterTokenizer(len(word)).encode([word])[0].tolist()
    for k, (letter, token) in enumerate(zip(word, tokens, strict=True)):
        ink.rectangle((k * 80 + 4, 8, k * 80 + 76, 84), None, "black", 2)
        ink.text((k * 80 + 40, 46), letter, "black", animation.font(24), anchor="mm")
        ink.text((k * 80 + 40, 126), str(token), GENERATED, animation.font(22), anchor="mm")
    return image


def constellations(ax, shown=(2, 16, 42)):
    """Plot the ten digits in three sentences, each around its mean (07_sentence_embeddings)."""
    sentences, digits = all_captions(TRAINING_PHRASINGS)
    vectors = sentence_encoder().encode(sentences)
    parts = torch.stack([vectors[digits == d].mean(0) for d in range(10)]) - vectors.mean(0)
    view = torch.linalg.svd(parts, full_matrices=False)[2][:2].T
    for column, place in enumerate(shown):
        twenty = sentence_encoder().encode(all_captions(HELD_OUT_PHRASINGS[place : place + 1])[0])
        points = (twenty - twenty.mean(0))[::2] @ view + torch.tensor([0.95 * column, 0])
        ax.plot(*points.T, color="0.8", linewidth=0.8, zorder=0)
        ax.scatter(*points.T, c=DIGITS, s=22)
        for digit, (x, y) in enumerate(points.tolist()):
            ax.text(x, y, str(digit), fontsize=3.5, color="white", ha="center", va="center")
    ax.axis("off")


def accuracy(ax):
    """Plot how many pictures show what was asked, over the seconds of training."""
    curve = json.loads(checkpoint_paths("mnist-cvae")[1].read_text())["results"]["curve"]
    ax.plot([row["seconds"] for row in curve],
            [100 * row["prompt accuracy, held-out"] for row in curve], GENERATED, marker=".")
    ax.axhline(100, color=REAL, linewidth=0.5)
    ax.set_yticks([60, 80, 100], ["60%", "80%", "100%"], fontsize=7)
    ax.set_xticks([100, 200], ["100 s", "200 s"], fontsize=7)


@torch.no_grad()
def travelling(released, number=11):
    """Draw a circle four times and turn one number of its code, its row: (4, 1, 28, 28)."""
    z = torch.zeros(4, released.model.latent)
    z[:, number] = torch.linspace(1.5, -1.5, 4)
    return released.model.draw(CharacterTokenizer().encode(["circle"]).expand(4, -1), z)


@torch.no_grad()
def growing(released, prompt):
    """Show one map of each stage of a decoder, 7×7 and 14×14, and the picture: (1, h, w) each."""
    model, condition = released.model, released.conditions(prompt)
    h = model.expand(torch.cat([released.latents(), condition], dim=1))
    h = modulate(h, model.film1, condition)
    small = h[0, :1], modulate(model.up1(h), model.film2, condition)[0, :1]
    return [*((m - m.min()) / (m.max() - m.min()) for m in small), released.draw(prompt)[0]]


def epochs(digit=5):
    """Cut one digit after 1, 2, 4 and 12 epochs from the animation at the top of 09_training."""
    film = Image.open(FIGURES / "09_hero.gif")
    for epoch in (1, 2, 4, 12):
        film.seek(epoch - 1)
        cell = film.convert("L").crop((90 * digit, 0, 90 * digit + 84, 84)).resize((28, 28))
        yield 1 - torch.from_numpy(np.array(cell))[None] / 255


def box(released, prompt):
    """Draw a prompt in its box, and four pictures of it."""
    image = strip(released.draw(prompt, 4), "")
    ink = ImageDraw.Draw(image)
    ink.rectangle((0, 0, 350, LABEL - 6), None, animation.EDGE, 2)
    ink.text((12, LABEL // 2 - 3), prompt, "black", animation.font(14), anchor="lm")
    ink.rectangle((362, 0, WIDTH - 1, LABEL - 6), animation.BLUE)
    ink.text((420, LABEL // 2 - 3), "Draw", "white", animation.font(14), anchor="mm")
    return image


def main():
    load = {name: TextToImage.load(name, device="cpu")
            for name in ("shapes-mlp", "shapes-cvae", "mnist-cvae", "mnist-style", "mnist-flow")}
    shapes = [draw_shapes(prompt, 1, torch.Generator().manual_seed(0))
              for prompt in ("circle", "cross", "square", "sparse dots")]
    sevens = [f"a {how} seven" for how in ("very thin", "thin", "thick", "very thick")]
    way = list(animation.on_the_way(load["mnist-flow"], "a seven"))
    thumbs = (
        strip(shapes, "programs draw shapes"),
        letters(),
        strip(load["shapes-mlp"].draw("circle", 4), "four times the same"),
        strip(travelling(load["shapes-cvae"]), "one number, turned"),
        strip(load["shapes-cvae"].draw("circle", 4), "four times another"),
        strip(to_float(load_mnist()[0][:4]), "people's handwriting"),
        plot(constellations),
        strip(growing(load["mnist-cvae"], "a three"), "7×7   →   14×14   →   28×28"),
        strip(epochs(), "after 1, 2, 4, 12 epochs"),
        box(load["mnist-flow"], "a tiny 8"),
        plot(accuracy),
        strip(load["mnist-style"].draw(sevens), "very thin to very thick"),
        strip([way[k][0] for k in (0, 3, 5, 9)], "from noise to a seven"),
    )
    for number, image in enumerate(thumbs, start=1):
        path = FIGURES / f"{number:02d}_thumb.png"
        image.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 2**10:.1f} KB")


if __name__ == "__main__":
    main()
