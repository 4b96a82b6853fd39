"""Write the animation at the top of the README: a prompt box, and what the models draw in it.

    python notebooks/book/animation.py

Every picture is among the first eight that its model draws with seed 0; none is chosen. Run it
again when a released checkpoint has changed.
"""

import io
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont

from helpers import TextToImage, write_whole
from helpers.flow import guide
from helpers.plotting import tile
from helpers.shapes import draw_shapes

TARGET = Path(__file__).resolve().parents[1] / "figures" / "readme.gif"
COLUMNS, ZOOM, SHARP = 8, 7, 2  # pictures, dots a pixel, dots a point: the file is twice as wide
WIDTH, HEIGHT = 850, 222        # points, about as wide as a README
PROMPTS = ("a seven", "a thick seven leaning left", "zero, very thin please")
NONSENSE, SENTENCE = "draw a cat", "show me what five looks like"
GREYS, BLUE, SAND, EDGE = 28, (25, 118, 210), (255, 243, 214), (158, 158, 158)
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")


def points(*values):
    return [round(value * SHARP) for value in values]


def font(size, bold=False):
    return ImageFont.truetype(FONTS / f"DejaVuSans{'-Bold' * bold}.ttf", size * SHARP)


def palette():
    """Make a palette of greys and the three colours, so that no frame shimmers."""
    greys = [(round(255 * k / (GREYS - 1)),) * 3 for k in range(GREYS)]
    image = Image.new("P", (1, 1))
    image.putpalette([value for colour in (*greys, BLUE, SAND, EDGE) for value in colour])
    return image


def frame(prompt, pictures, says, doubt=False, typing=False):
    """Draw one frame: the prompt in its box, a button, a line that says what is seen, pictures."""
    image = Image.new("RGB", points(WIDTH, HEIGHT), "white")
    ink = ImageDraw.Draw(image)
    ink.rectangle(points(9, 9, 725, 53), outline=BLUE if typing else EDGE, width=SHARP)
    ink.text(points(22, 31), prompt, "black", font(25), anchor="lm")
    if typing:
        end = 25 + ink.textlength(prompt, font(25)) / SHARP
        ink.rectangle(points(end, 18, end + 1.5, 44), fill="black")
    ink.rectangle(points(735, 9, 841, 53), fill=BLUE)
    ink.text(points(788, 31), "Draw", "white", font(22), anchor="mm")
    if doubt:
        ink.rectangle(points(9, 63, 841, 97), fill=SAND)
    ink.text(points(22 if doubt else 9, 80), says, "black", font(18, not doubt), anchor="lm")
    paper = Image.fromarray(tile(pictures, COLUMNS))
    paper = paper.resize([side * ZOOM for side in paper.size], Image.Resampling.NEAREST)
    left, top = (image.width - paper.width) // 2, 109 * SHARP
    image.paste(paper, (left, top))
    for k in range(COLUMNS):  # two white pixels lie between the pictures: a frame for each
        start, side = left + k * 30 * ZOOM, 28 * ZOOM
        ink.rectangle((start - 3, top - 3, start + side + 2, top + side + 2), None, EDGE, SHARP)
    return image


@torch.no_grad()
def on_the_way(released, prompt, every=5):
    """Decode what the flow of 13_latent_flow carries, from noise to codes, at every few steps."""
    model = released.model
    condition = released.conditions(prompt).expand(COLUMNS, -1)
    guidance = model.choose_guidance(condition)
    x = released.latents(COLUMNS, 0)
    for k in range(model.steps):
        if k % every == 0:
            yield model.autoencoder.decode(model.centre + model.scale * x).clamp(0, 1)
        t = torch.full((len(x),), k / model.steps)
        x = x + guide(model.velocity, x, t, condition, guidance) / model.steps


def scenes():
    """Yield what is asked, what is drawn for it at last and on the way, and what is said."""
    load = {name: TextToImage.load(name, device="cpu")
            for name in ("shapes-mlp", "shapes-cvae", "mnist-cvae", "mnist-flow")}
    flow, dice = load["mnist-flow"], torch.Generator().manual_seed(0)
    for k, prompt in enumerate(PROMPTS):
        way = on_the_way(flow, prompt) if k else []
        says = "A latent flow carries noise to pictures"
        yield prompt, flow.draw(prompt, COLUMNS), way, says
    yield NONSENSE, flow.draw(NONSENSE, COLUMNS), [], flow.doubt(NONSENSE)
    program = draw_shapes("circle", COLUMNS, dice)
    yield "circle", program, [], "How it begins: a program draws"
    for name, prompt, says in (
        ("shapes-mlp", "circle", "The first generator ignores its noise"),
        ("shapes-cvae", "circle", "A variational autoencoder uses it"),
        ("mnist-cvae", SENTENCE, "A convolutional one reads sentences"),
    ):
        yield prompt, load[name].draw(prompt, COLUMNS), [], says


def film():
    """Yield frames, and the milliseconds that each stays."""
    before = None
    for prompt, pictures, way, says in scenes():
        if before and prompt != before[0]:
            for k in range(0, len(prompt) + 1, 2):
                yield frame(prompt[:k], *before[1:], typing=True), 80
        for stage in way:
            yield frame(prompt, stage, says), 120
        doubt = prompt == NONSENSE
        yield frame(prompt, pictures, says, doubt), 3000 if doubt else 2000
        before = prompt, pictures, says, doubt


def main():
    frames, stay = zip(*film(), strict=True)
    colours = palette()
    first, *more = (image.quantize(palette=colours, dither=Image.Dither.NONE) for image in frames)
    gif = io.BytesIO()
    first.save(gif, "GIF", save_all=True, append_images=more, loop=0, duration=list(stay))
    write_whole(TARGET, gif.getvalue())
    print(f"{TARGET.name}: {len(frames)} frames, {sum(stay) / 1000:.0f} s, "
          f"{TARGET.stat().st_size / 2**10:.0f} KB")


if __name__ == "__main__":
    main()
