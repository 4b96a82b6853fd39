"""Two widgets for notebook 9: a form that draws what is typed, a plane to walk on.

What ipywidgets lacks are two anywidgets, whose JavaScript stands beside this file.
"""

import contextlib
import queue
import random
import threading
import time
from pathlib import Path

import anywidget
import ipywidgets as ipw
import torch
import traitlets

from helpers.checkpoints import known_checkpoints
from helpers.generator import DEFAULT, TextToImage, check_number, describe, save_picture
from helpers.shapes import PROMPTS

SHEET = (632, 312)  # pixels for the pictures, whatever their number
FRAME = 8           # pixels of a picture's button around it
MOST = 32           # pictures at once
REMEMBERED = 6      # drawings in the history strip
REACH = 2.5         # the plane goes from -2.5 to 2.5 standard deviations
OUTPUTS = Path(__file__).resolve().parents[1] / "outputs"
SENTENCES = ("a seven", "print number 3", "what does five look like?", "8")
STYLED = ("a seven", "a thick 3 leaning left", "what does five look like?", "a tiny 8")
HERE = Path(__file__).parent


class Pictures(anywidget.AnyWidget):
    """A sheet of pictures below a status line; pressing the k-th of them sends `{"keep": k}`."""

    _esm = HERE / "pictures.js"
    _css = HERE / "pictures.css"
    greys = traitlets.Bytes().tag(sync=True)        # 784 of each picture, 0 is ink, 255 is paper
    columns = traitlets.Int(1).tag(sync=True)       # of the grid
    side = traitlets.Int(36).tag(sync=True)         # pixels of a button
    label = traitlets.Unicode().tag(sync=True)      # what they show, for those who cannot see them
    message = traitlets.Unicode().tag(sync=True)    # the text of the status line
    kept = traitlets.List(traitlets.Int()).tag(sync=True)  # numbers of those marked as kept
    keepable = traitlets.Bool(True).tag(sync=True)  # whether the buttons do anything
    busy = traitlets.Bool(False).tag(sync=True)     # whether other pictures are on their way

    def __init__(self, **settings):
        super().__init__(**settings)
        self.add_class("prompt-pictures")

    def show(self, pictures, label, message=""):
        """Show pictures (n, 1, 28, 28) with values in [0, 1] and a message, in one step."""
        ink = (1 - pictures.clamp(0, 1)) * 255
        with self.hold_sync():
            self.columns, self.side = best_layout(len(pictures))
            self.label, self.message, self.kept = label, message, []
            self.greys = ink.round().to(torch.uint8).numpy().tobytes()


def best_layout(n):
    """Find the grid that leaves n pictures largest on the sheet: columns, pixels of a button."""
    def zoom(columns):
        rows = -(-n // columns)
        return min((SHEET[0] // columns - FRAME) // 28, (SHEET[1] // rows - FRAME) // 28)

    columns = max(range(1, n + 1), key=lambda columns: (zoom(columns), columns))
    return columns, max(zoom(columns), 1) * 28 + FRAME


def draw_from_form(model, prompt, count=8, seed=0, temperature=1.0, guidance=None, steps=None):
    """Do what the Draw button does: pictures, or None if it cannot, and the status line's text."""
    try:
        count = check_number(count, "The number of pictures", 1, MOST, whole=True)
        pictures = model.draw(prompt, count, seed, temperature, guidance, steps)
        reading = model.reading(prompt)
        read = f" Read as: {reading}." if reading else ""
        return pictures, (model.doubt(prompt) or f"Drawn from seed {seed}.") + read
    except Exception as error:  # a reader looks at the status line, not at the log
        return None, describe(error)


def _number(kind, value, least, most, step, name):
    return kind(
        value, min=least, max=most, step=step, description=name,
        style={"description_width": "90px"}, layout={"width": "190px"},
    )


def _button(text, width, **more):
    return ipw.Button(description=text, layout={"width": width}, **more)


class PromptWidget(ipw.VBox):
    """The form of `prompt_widget`. It draws in a thread of its own, and so answers meanwhile.

    `jobs` has room for one more drawing, of what the form says by then; `jobs.join()` waits.
    """

    def __init__(self, model, prompt="a seven", folder=OUTPUTS):
        self.model, self.folder = model, Path(folder)
        self.models, self.jobs = {model.name: model}, queue.Queue(maxsize=1)
        self.drawn, self.pictures, self.history = {}, None, []
        self._make_controls(prompt)
        self._connect()
        super().__init__([
            ipw.HBox([self.prompt, self.draw_button]),
            self.chips,
            ipw.HBox([self.count, self.seed, self.dice, self.lock]),
            ipw.HBox([self.temperature, self.checkpoint]),
            self.flow,
            self.view,
            ipw.HBox([self.keep_button, self.past]),
        ], layout={"width": "660px", "max_width": "100%"})
        self.add_class("prompt-form")
        self._fit_model()
        self.view.message = "Type a prompt, then press Enter or Draw."
        threading.Thread(target=self._work, daemon=True).start()

    def _make_controls(self, prompt):
        named = {"style": {"description_width": "90px"}}
        self.prompt = ipw.Text(
            prompt, description="Prompt", placeholder="what to draw", layout={"flex": "1"}, **named
        )
        self.draw_button = _button("Draw", "130px", icon="pencil", button_style="primary")
        self.chips = ipw.HBox(layout={"flex_flow": "wrap", "margin": "0 0 6px 92px"})
        self.count = _number(ipw.BoundedIntText, 8, 1, MOST, 1, "Pictures")
        self.seed = _number(ipw.BoundedIntText, 0, 0, 2**31 - 1, 1, "Seed")
        self.dice = _button("Dice", "90px", icon="random", tooltip="another seed, drawn at once")
        self.lock = ipw.Checkbox(
            True, description="Lock", tooltip="unlocked, every Draw takes another seed",
            indent=False, layout={"width": "90px"},
        )
        self.temperature = _number(ipw.BoundedFloatText, 1.0, 0, 3, 0.1, "Temperature")
        self.checkpoint = ipw.Dropdown(
            options=sorted({*known_checkpoints(), self.model.name}), value=self.model.name,
            description="Checkpoint", layout={"width": "280px"}, **named,
        )
        self.guidance = _number(ipw.BoundedFloatText, 1.0, 0, 20, 0.1, "Guidance")
        self.steps = _number(ipw.BoundedIntText, 50, 1, 1000, 1, "Steps")
        self.flow = ipw.HBox([self.guidance, self.steps])
        self.view = Pictures()
        self.keep_button = _button("Keep all", "110px", icon="download", disabled=True)
        self.past = ipw.HBox(layout={"flex_flow": "wrap", "flex": "1"})

    def _connect(self):
        self.draw_button.on_click(lambda _: self.draw())
        self.prompt.on_msg(self._on_prompt_message)
        self.dice.on_click(lambda _: self.roll())
        self.seed.observe(lambda _: self.lock.set_trait("value", True), "value")  # as typed
        self.checkpoint.observe(lambda _: self._choose(), "value")
        self.keep_button.on_click(lambda _: self.keep())
        self.view.on_msg(lambda _widget, content, _buffers: self.keep(content["keep"]))

    def _on_prompt_message(self, _widget, content, _buffers):
        """Draw on Enter and on nothing else: leaving the box sends no such message."""
        if content.get("event") == "submit":
            self.draw(after=0.2)  # the last letters may still be on their way

    def draw(self, after=0.0):
        """Ask for a drawing of what the form says in `after` seconds; unlocked, of another seed."""
        if self.lock.value:
            self._ask(after)
        else:
            self.roll(after)

    def roll(self, after=0.0):
        """Take another seed and draw."""
        locked = self.lock.value
        self.seed.value = random.randrange(1_000_000)
        self.lock.value = locked
        self._ask(after)

    def _ask(self, after=0.0):
        with contextlib.suppress(queue.Full):  # one is waiting already, and will read the form
            self.jobs.put_nowait(after)

    def _work(self):
        while True:
            time.sleep(self.jobs.get())
            self.draw_button.description, self.draw_button.icon = "Drawing …", "hourglass"
            self.view.busy, self.view.message = True, "Drawing …"
            try:
                self._draw_now()
            except Exception as error:  # the thread must live on
                self.view.message = describe(error)
            self.view.busy = False
            self.draw_button.description, self.draw_button.icon = "Draw", "pencil"
            self.jobs.task_done()

    def _draw_now(self):
        """Draw what the form says; an error leaves the pictures as they are."""
        model = self.model  # another may be chosen meanwhile
        names = ["prompt", "count", "seed", "temperature"]
        names += ["guidance", "steps"] if model.guided else []
        settings = {name: getattr(self, name).value for name in names}
        pictures, message = draw_from_form(model, **settings)
        if pictures is None:
            self.view.message = message
            return
        drawn = settings | {"checkpoint": model.name}
        self.pictures, self.drawn = pictures, drawn | {"Title": model.title(settings["prompt"])}
        self.view.show(pictures, f"“{settings['prompt']}”", message)
        self.keep_button.disabled = False
        if drawn not in self.history:  # which the strip shows, the newest first
            self.history = [drawn, *self.history][:REMEMBERED]
            self.past.children = [self._past_button(drawn) for drawn in self.history]

    def _past_button(self, drawn):
        button = ipw.Button(
            description=f"{drawn['seed']} · {drawn['prompt']}",
            tooltip=", ".join(f"{name} {value}" for name, value in drawn.items()),
            layout={"width": "auto", "max_width": "170px"},
        )
        button.on_click(lambda _: self.restore(drawn))
        return button

    def restore(self, drawn):
        """Set the form as it was for an earlier drawing, and draw that again."""
        locked = self.lock.value
        self.checkpoint.value = drawn["checkpoint"]  # first: it sets a flow's own guidance
        for name in drawn.keys() - {"checkpoint"}:
            getattr(self, name).value = drawn[name]
        self.lock.value = locked
        self._ask()

    def _choose(self):
        """Take the chosen checkpoint; one that does not load leaves the model as it was."""
        name = self.checkpoint.value
        try:
            if name not in self.models:
                self.models[name] = TextToImage.load(name)
        except Exception as error:
            self.view.message, self.checkpoint.value = describe(error), self.model.name
            return
        if self.model is not self.models[name]:
            self.model = self.models[name]
            self._fit_model()
            self.view.message = f"{name} draws from now on."

    def _fit_model(self):
        """Show what the model has: guidance and steps of a flow, examples that it can draw."""
        self.flow.layout.display = "" if self.model.guided else "none"
        if self.model.guided:
            flow = self.model.model
            self.guidance.value, self.steps.value = flow.guidance, flow.steps
        examples = STYLED if self.model.reads_styles else SENTENCES
        examples = PROMPTS[:5] if self.model.tokenizer else examples
        self.chips.children = [self._chip(example) for example in examples]

    def _chip(self, example):
        chip = _button(example, "auto")
        chip.on_click(lambda _: (self.prompt.set_trait("value", example), self.draw()))
        return chip

    def keep(self, which=None):
        """Write the picture of that number as PNG, or all that are not kept yet; once each."""
        if self.pictures is None:
            self.view.message = "There is nothing to keep yet: draw first."
            return
        paths = []
        try:
            for k, picture in enumerate(self.pictures):
                if which in (None, k) and k not in self.view.kept:
                    paths.append(save_picture(picture, self.folder, self.drawn, k + 1))
                    self.view.kept = [*self.view.kept, k]
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            self.view.message = (
                f"Kept as {self.folder.name}/{paths[-1].name}{more}." if paths
                else "That is kept already."
            )
        except Exception as error:
            self.view.message = describe(error)


def prompt_widget(model=None, prompt="a seven", folder=OUTPUTS):
    """Make the form for a `TextToImage`, or the name or path of one; it keeps in `folder`."""
    if not isinstance(model, TextToImage):
        model = TextToImage.load(model or DEFAULT)
    return PromptWidget(model, prompt, folder)


class Point(anywidget.AnyWidget):
    """A point [across, up] in a square to drag, with a slider for each, from -reach to reach."""

    _esm = HERE / "plane.js"
    _css = HERE / "plane.css"
    point = traitlets.List(traitlets.Float(), [0.0, 0.0]).tag(sync=True, echo_update=False)
    reach = traitlets.Float(REACH).tag(sync=True)

    def __init__(self, **settings):
        super().__init__(**settings)
        self.add_class("prompt-point")


def plane_widget(model, prompt, across, up):
    """Make a square to drag a point in, and its picture, of x · across + y · up: an `HBox`."""
    condition, directions = model.conditions(prompt), torch.stack([across, up])
    square, view = Point(), Pictures(keepable=False)

    def follow(_=None):
        x, y = square.point
        picture = model.decode(torch.tensor([[x, y]]) @ directions, condition)
        view.show(picture, f"“{prompt}” at {x:.2f} across, {y:.2f} up")

    square.observe(follow, "point")
    follow()
    return ipw.HBox([square, view]).add_class("prompt-form")
