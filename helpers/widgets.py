"""The prompt widget: a sentence in a box, its pictures below, in a notebook (notebook 9)."""

import asyncio
import html
import random
from pathlib import Path

import ipywidgets as ipw
import numpy as np
from PIL import Image

from helpers.generator import BEST, TextToImage, file_stem, png_bytes, write_new
from helpers.plotting import tile

CANVAS = (640, 320)  # pixels of the picture area, whatever it shows
MOST = 32            # pictures at once
LABEL = {"description_width": "90px"}
OUTPUTS = Path(__file__).resolve().parents[1] / "outputs"


def canvas_png(pictures=None, facts=None):
    """Lay pictures out on a canvas of one fixed size, as large as fits: PNG as bytes.

    Args:
        pictures: tensor (n, 1, 28, 28) in [0, 1] with n from 1 to 32, or None for empty paper.
        facts: a dict to write into the PNG: prompt, seed, checkpoint.
    """
    width, height = CANVAS
    paper = Image.fromarray(np.full((height, width), 255, np.uint8))
    if pictures is not None:
        zoom, columns = _best_layout(len(pictures))
        grid = Image.fromarray(tile(pictures, columns, gap=2))
        paper.paste(grid.resize((grid.width * zoom, grid.height * zoom), Image.Resampling.NEAREST))
    return png_bytes(paper, facts or {})


def _best_layout(n):
    """Find the number of columns that leaves n pictures largest: zoom, columns."""
    def zoom(columns):
        rows = -(-n // columns)
        return min((CANVAS[0] + 2) // (columns * 30), (CANVAS[1] + 2) // (rows * 30))

    columns = max(range(1, n + 1), key=lambda columns: (zoom(columns), columns))
    return max(zoom(columns), 1), columns


def draw_from_form(model, prompt, count=8, seed=0, temperature=1.0):
    """Do what the Draw button does, without a browser.

    Args:
        model: a `TextToImage`.
        prompt: what was typed.
        count: pictures, 1 to 32.
        seed: a whole number.
        temperature: a number, 0 or more.

    Returns:
        png: the canvas as bytes, or None if nothing could be drawn.
        message: what the message line says, as plain text.
    """
    try:
        if not isinstance(count, int) or not 1 <= count <= MOST:
            raise ValueError(f"The number of pictures is {count!r}: choose from 1 to {MOST}.")
        pictures = model.draw(prompt, count, seed, temperature)
        facts = {"prompt": prompt, "seed": seed, "temperature": temperature}
        facts |= {"checkpoint": model.name, "Title": model.title(prompt)}
        reading = model.reading(prompt)
        read = f" Read as: {reading}." if reading else ""
        message = model.doubt(prompt) or f"Drawn from seed {seed}."
        return canvas_png(pictures, facts), message + read
    except (ValueError, TypeError, OSError) as error:
        return None, str(error)
    except Exception as error:  # a reader looks at the message line, not at the log
        return None, f"{type(error).__name__}: {error}"


class PromptWidget(ipw.VBox):
    """The form of `prompt_widget`; its parts are attributes, so that a test can use them.

    Args:
        model: a `TextToImage`.
        prompt: what stands in the box at first.
        folder: where Save writes.
    """

    def __init__(self, model, prompt="a seven", folder=OUTPUTS):
        self.model, self.folder, self.drawn = model, Path(folder), None
        self.prompt = ipw.Text(
            prompt, description="Prompt", placeholder="what to draw", style=LABEL,
            layout={"width": "476px"},
        )
        self.draw_button = ipw.Button(
            description="Draw", icon="pencil", button_style="primary", layout={"width": "160px"}
        )
        self.count = ipw.IntSlider(
            8, 1, MOST, description="Pictures", style=LABEL, layout={"width": "316px"}
        )
        self.temperature = ipw.FloatSlider(
            1.0, min=0.0, max=2.0, step=0.1, description="Temperature", readout_format=".1f",
            style=LABEL, layout={"width": "316px"},
        )
        self.seed = ipw.BoundedIntText(
            0, 0, 2**31 - 1, description="Seed", style=LABEL, layout={"width": "236px"}
        )
        self.dice = ipw.Button(
            description="Dice", icon="random", tooltip="another seed", layout={"width": "116px"}
        )
        self.save_button = ipw.Button(
            description="Save", icon="download", tooltip="write these pictures as a PNG",
            disabled=True, layout={"width": "116px"},
        )
        self.message = ipw.HTML(layout={"min_height": "2em"})
        width, height = CANVAS
        self.image = ipw.Image(
            value=canvas_png(), format="png", width=width, height=height,
            layout={"width": f"{width}px", "height": f"{height}px"},
        )
        self._connect()
        super().__init__([
            ipw.HBox([self.prompt, self.draw_button]),
            ipw.HBox([self.count, self.temperature]),
            ipw.HBox([self.seed, self.dice, self.save_button]),
            self.message,
            self.image,
        ], layout={"width": f"{width + 10}px", "max_width": "100%"})
        self.say("Type a prompt, then press Enter or Draw.")

    def _connect(self):
        self.draw_button.on_click(lambda _: self.draw())
        self.dice.on_click(lambda _: self.roll())
        self.save_button.on_click(lambda _: self.save())
        self.prompt.on_msg(self._on_prompt_message)

    def _on_prompt_message(self, _widget, content, _buffers):
        """Draw on Enter and on nothing else: leaving the box sends no such message."""
        if content.get("event") != "submit":
            return
        try:  # the last letters may still be on their way: let them arrive first
            asyncio.get_running_loop().call_later(0.05, self.draw)
        except RuntimeError:  # no event loop, as in a test
            self.draw()

    def say(self, text):
        """Show plain text in the message line; a prompt in it is never read as HTML."""
        self.message.value = f'<span role="status">{html.escape(text)}</span>'

    def draw(self):
        """Draw what the form says; an error leaves the pictures as they are."""
        self.say("Drawing …")
        form = (self.prompt.value, self.count.value, self.seed.value, self.temperature.value)
        png, message = draw_from_form(self.model, *form)
        if png is not None:
            self.image.value = png
            self.drawn = {"prompt": form[0], "seed": form[2]}
            self.save_button.disabled = False
        self.say(message)

    def roll(self):
        """Take another seed and draw."""
        self.seed.value = random.randrange(1_000_000)
        self.draw()

    def save(self):
        """Write the pictures that are shown as one PNG, with prompt and seed in it."""
        if self.drawn is None:
            return self.say("There is nothing to save yet: draw first.")
        try:
            path = write_new(self.folder, file_stem(self.drawn), self.image.value)
            self.say(f"Saved as {path}")
        except OSError as error:
            self.say(f"{error.filename}: {error.strerror}.")


def prompt_widget(model=None, prompt="a seven", folder=OUTPUTS):
    """Make the form: prompt, Draw, number of pictures, temperature, seed, Dice, Save, pictures.

    Args:
        model: a `TextToImage`, or the name of a checkpoint; the best one unless told.
        prompt: what stands in the box at first.
        folder: where Save writes, `outputs/` in the repository unless told.

    Returns:
        A `PromptWidget`; as the last line of a cell it is shown.
    """
    if not hasattr(model, "draw"):
        model = TextToImage.load(model or BEST)
    return PromptWidget(model, prompt, folder)
