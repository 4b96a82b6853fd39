"""Two widgets for 10_interactive_sampling: a form that draws what is typed, a plane to walk on.

What ipywidgets lacks are two anywidgets, whose JavaScript stands beside this file.
"""

import base64
import contextlib
import queue
import random
import threading
import time
from functools import partial
from itertools import zip_longest
from pathlib import Path

import anywidget
import ipywidgets as ipw
import torch
import traitlets
from IPython.display import display

from helpers.checkpoints import known_checkpoints
from helpers.generator import DEFAULT, TextToImage, check_number, describe, save_picture

MOST = 32       # pictures at once
REMEMBERED = 6  # drawings in the history strip
LIVING = 4      # forms and planes at once: one more closes the oldest of `ALIVE`
ALIVE = []
REACH = 2.5     # the plane goes from -2.5 to 2.5 standard deviations
HERE = Path(__file__).parent
OUTPUTS, FIGURES = HERE.parent / "outputs", HERE.parent / "notebooks" / "figures"
NOTE = "To use this, run the cell: it works while its kernel runs."
TEXTS = {name: (HERE / name).read_text(encoding="utf-8") for name in (
    "pictures.js", "pictures.css", "plane.js", "plane.css", "note.css")}


class Pictures(anywidget.AnyWidget):
    """A sheet of pictures below a status line; pressing the k-th of them sends `{deed: k}`."""

    _esm, _css = TEXTS["pictures.js"], TEXTS["pictures.css"]
    greys = traitlets.Bytes().tag(sync=True)        # 784 of each picture, 0 is ink, 255 is paper
    label = traitlets.Unicode().tag(sync=True)      # what they show, for those who cannot see them
    facts = traitlets.List(traitlets.Dict()).tag(sync=True)  # of each, to name it by what differs
    message = traitlets.Unicode().tag(sync=True)    # the text of the status line
    tone = traitlets.Unicode().tag(sync=True)       # of the message: "", "warning" or "error"
    kept = traitlets.List(traitlets.Int()).tag(sync=True)  # numbers of those marked as kept
    deed = traitlets.Unicode().tag(sync=True)       # "keep" or "restore", "" for nothing
    busy = traitlets.Bool(False).tag(sync=True)     # whether other pictures are on their way

    def say(self, message, tone=""):
        """Write the status line: news, or what must not be overlooked."""
        self.tone, self.message = tone, message

    def show(self, pictures, label, message="", tone="", facts=()):
        """Show pictures (n, 1, 28, 28) with values in [0, 1] and a message, in one step."""
        ink = (1 - pictures.clamp(0, 1)) * 255
        with self.hold_sync():
            self.label, self.facts, self.kept = label, [*facts], []
            self.say(message, tone)
            self.greys = ink.round().to(torch.uint8).numpy().tobytes()


def draw_from_form(model, prompt, count=8, seed=0, temperature=1.0, guidance=None, steps=None):
    """Do what the Draw button does: pictures, or None if it cannot, and the status line's text."""
    try:
        count = check_number(count, "The number of pictures", 1, MOST, whole=True)
        pictures = model.draw(prompt, count, seed, temperature, guidance, steps)
        read = f" Read as: {reading}." if (reading := model.reading(prompt)) else ""
        return pictures, (model.doubt(prompt) or f"Drawn from seed {seed}.") + read
    except Exception as error:  # a reader looks at the status line, not at the log
        return None, describe(error)


def _short(text):
    return f"{text[:60]}…" if len(text) > 60 else text


class Whole(ipw.Box):
    """A box that `close` ends with all it holds; where no kernel runs, it is a picture, `still`."""

    def __init__(self, children, still, **layout):
        super().__init__(children, layout=layout)
        self.still = still
        self.add_class("prompt-form")
        ALIVE.append(self)
        if len(ALIVE) > LIVING:  # of a cell that is run again and again, for instance
            ALIVE[0].close()

    def close(self):
        """Close every part with its layout and its style, which would live on."""
        parts = [self]
        for part in parts:  # a list that grows
            held = (getattr(part, name, None) for name in ("layout", "style"))
            parts += [*filter(None, held), *getattr(part, "children", ())]
            ipw.Widget.close(part)
        if self in ALIVE:
            ALIVE.remove(self)

    def _repr_mimebundle_(self, **options):
        note = f"<p class=\"prompt-note\">{NOTE}</p><style>{TEXTS['note.css']}</style>"
        display({"text/html": note, "text/plain": NOTE}, raw=True)
        bundle = super()._repr_mimebundle_(**options) | {"text/plain": NOTE}
        if (path := FIGURES / self.still).is_file():
            bundle["image/png"] = base64.b64encode(path.read_bytes()).decode()
        return bundle


class PromptWidget(Whole):
    """The form of `prompt_widget`. It draws in a thread of its own, and so answers meanwhile.

    `jobs` has room for one more drawing, of what the form says by then; `jobs.join()` waits.
    `shown` holds the pictures together with what drew them.
    """

    def __init__(self, model, prompt="a seven", folder=OUTPUTS):
        self.model, self.folder, self.models = model, Path(folder), {model.name: model}
        self.jobs, self.turn = queue.Queue(maxsize=1), threading.Lock()
        self.quiet = threading.RLock()  # whoever reads or sets several things at once has it
        self.shown, self.history = None, []
        rows = self._make_controls(prompt)
        super().__init__(rows, "10_widget.png", flex_flow="column", width="660px", max_width="100%")
        self._fit_model()
        self.view.say("Type a prompt, then press Enter or Draw.")

    def _make_controls(self, prompt):
        def button(text, width, **more):
            return ipw.Button(description=text, layout={"width": width}, **more)

        wide = {"style": {"description_width": "90px"}}
        # without bounds: what is typed is drawn, or refused with a sentence
        number = partial(ipw.FloatText, layout={"width": "190px"}, **wide)
        tick = partial(ipw.Checkbox, True, indent=False, layout={"width": "90px"})
        self.prompt = ipw.Text(prompt, description="Prompt", layout={"flex": "1"}, **wide)
        self.draw_button = button("Draw", "130px", icon="pencil", button_style="primary")
        self.chips = ipw.HBox([button("", "auto") for _ in range(5)]).add_class("prompt-chips")
        self.count = number(8, step=1, description="Pictures")
        self.seed = number(0, step=1, description="Seed")
        self.dice = button("Dice", "90px", icon="random", tooltip="another seed, drawn at once")
        self.lock = tick(description="Lock", tooltip="unlocked, every Draw takes another seed")
        self.temperature = number(1, step=0.1, description="Temperature")
        self.checkpoint = ipw.Dropdown(
            options=sorted({*known_checkpoints(), self.model.name}), value=self.model.name,
            description="Checkpoint", layout={"width": "280px"}, **wide)
        self.guidance = number(1, step=0.1, description="Guidance")
        self.auto = tick(description="Auto", tooltip="the model chooses it for each prompt")
        self.steps = number(1, step=1, description="Steps")
        self.flow = ipw.HBox([self.guidance, self.auto, self.steps])
        self.view, self.past = Pictures(deed="keep"), Pictures(deed="restore")
        self.keep_button = button("Keep all", "110px", icon="download", disabled=True)
        self.draw_button.on_click(lambda _: self.draw())
        self.prompt.on_msg(  # Enter draws, when the last letters are here; leaving the box does not
            lambda _widget, content, _: content.get("event") == "submit" and self.draw(after=0.2))
        self.dice.on_click(lambda _: self.draw(roll=True))
        self.seed.observe(lambda _: self.lock.set_trait("value", True), "value")  # as typed
        self.guidance.observe(lambda _: self.auto.set_trait("value", False), "value")
        self.checkpoint.observe(lambda _: self._choose(), "value")
        self.keep_button.on_click(lambda _: self.keep())
        self.view.on_msg(lambda _widget, content, _buffers: self.keep(content["keep"]))
        self.past.on_msg(lambda _widget, content, _buffers: self.restore(content["restore"]))
        for chip in self.chips.children:
            chip.on_click(lambda c: (self.prompt.set_trait("value", c.description), self.draw()))
        return [
            ipw.HBox([self.prompt, self.draw_button]), self.chips,
            ipw.HBox([self.count, self.seed, self.dice, self.lock]),
            ipw.HBox([self.temperature, self.checkpoint]), self.flow, self.view,
            ipw.HBox([self.keep_button, self.past])]

    def draw(self, after=0.0, roll=False):
        """Ask for a drawing of what the form says in `after` seconds; unlocked, of another seed."""
        locked = self.lock.value
        if roll or not locked:
            self.seed.value = random.randrange(1_000_000)
            self.lock.value = locked
        self._ask(after)

    def _ask(self, after=0.0):
        with contextlib.suppress(queue.Full):  # one is waiting already, and will read the form
            self.jobs.put_nowait(after)
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self):
        with self.turn:  # one after the other
            time.sleep(self.jobs.get())
            self.draw_button.description, self.draw_button.icon = "Drawing …", "hourglass"
            self.view.busy = True
            self.view.say("Drawing …")
            try:
                self._draw_now()
            except Exception as error:  # the form must live on
                self.view.say(describe(error), "error")
            self.view.busy = False
            self.draw_button.description, self.draw_button.icon = "Draw", "pencil"
            self.jobs.task_done()

    def _draw_now(self):
        """Draw what the form says; an error leaves the pictures as they are."""
        with self.quiet:
            model = self.model  # another may be chosen meanwhile
            names = ["prompt", "count", "seed", "temperature"]
            names += ["guidance", "steps"] if model.guided else []
            settings = {name: getattr(self, name).value for name in names}
            if model.guided and self.auto.value:
                settings["guidance"] = None
        for name in {"count", "seed", "steps"} & settings.keys():  # of which the boxes make floats
            settings[name] = int(settings[name]) if settings[name] % 1 == 0 else settings[name]
        pictures, message = draw_from_form(model, **settings)
        if pictures is None:
            self.view.say(message, "error")
            return
        drawn = settings | {"checkpoint": model.name}
        told = model.settings(drawn["prompt"], drawn.get("guidance"), drawn.get("steps"))
        facts = drawn | told | {"Title": model.title(drawn["prompt"])}
        tone = "" if message.startswith("Drawn") else "warning"
        with self.quiet:
            self.shown = pictures, facts
            self.view.show(pictures, f"“{_short(drawn['prompt'])}”", message, tone)
            self.keep_button.disabled = False
            if told and self.auto.value and self.model is model:
                self.guidance.value = told["guidance"]  # what it chose
                self.auto.value = True
            if drawn not in [other for other, _ in self.history]:
                self.history = [(drawn, pictures[:1]), *self.history][:REMEMBERED]
                every, first = zip(*self.history, strict=True)
                every = [one | {"prompt": _short(one["prompt"])} for one in every]
                self.past.show(torch.cat(first), "the last drawings", facts=every)

    def restore(self, k):
        """Set the form as it was for the k-th drawing of the history, and draw that again."""
        with self.quiet:
            locked, (drawn, _) = self.lock.value, self.history[k]
            self.checkpoint.value = drawn["checkpoint"]  # first: it sets a flow's own guidance
            for name in drawn.keys() - {"checkpoint"}:
                if drawn[name] is not None:
                    getattr(self, name).value = drawn[name]
            self.lock.value, self.auto.value = locked, drawn.get("guidance") is None
        self._ask()

    def _choose(self):
        """Take the chosen checkpoint; one that does not load leaves the model as it was."""
        name = self.checkpoint.value
        try:
            model = self.models[name] = self.models.get(name) or TextToImage.load(name)
        except Exception as error:
            self.view.say(describe(error), "error")
            self.checkpoint.value = self.model.name
            return
        if model is not self.model:
            with self.quiet:
                self.model = model
                self._fit_model()
            self.view.say(f"{name} draws from now on.")

    def _fit_model(self):
        """Show what the model has: guidance and steps of a flow, examples that it can draw."""
        self.flow.layout.display = "" if self.model.guided else "none"
        if self.model.guided:
            flow = self.model.model
            self.guidance.value, self.steps.value = flow.guidance, flow.steps
            self.auto.value = True
        for chip, text in zip_longest(self.chips.children, self.model.examples, fillvalue=""):
            chip.description, chip.layout.display = text, "" if text else "none"

    def keep(self, which=None):
        """Write the picture of that number as PNG, or all that are not kept yet; once each."""
        with self.quiet:
            shown, kept = self.shown, [*self.view.kept]
        if shown is None:
            self.view.say("There is nothing to keep yet: draw first.", "warning")
            return
        paths = []
        try:
            for k, picture in enumerate(shown[0]):
                if which in (None, k) and k not in kept:
                    paths.append(save_picture(picture, self.folder, shown[1], k + 1))
                    kept.append(k)
                    with self.quiet:
                        if self.shown is shown:  # and no others came meanwhile
                            self.view.kept = [*kept]
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            news = f"Kept as {self.folder.name}/{paths[-1].name}{more}." if paths else ""
            self.view.say(news or "That is kept already.")
        except Exception as error:
            self.view.say(describe(error), "error")

    def close(self):
        """End the form with all its parts; it lets go of its models and its pictures."""
        super().close()
        self.model = self.shown = None
        self.models, self.history = {}, []


def prompt_widget(model=None, prompt="a seven", folder=OUTPUTS):
    """Make the form for a `TextToImage`, or the name or path of one; it keeps in `folder`."""
    if not isinstance(model, TextToImage):
        model = TextToImage.load(model or DEFAULT)
    return PromptWidget(model, prompt, folder)


class Point(anywidget.AnyWidget):
    """A point [across, up] in a square to drag, with a slider for each, from -reach to reach."""

    _esm, _css = TEXTS["plane.js"], TEXTS["plane.css"]
    point = traitlets.List(traitlets.Float(), [0.0, 0.0], 2, 2).tag(sync=True, echo_update=False)
    reach = traitlets.Float(REACH).tag(sync=True)


def plane_widget(model, prompt, across, up, centre=0):
    """Make a square to drag a point in, and its picture, of centre + x · across + y · up."""
    condition, directions = model.conditions(prompt), torch.stack([across, up])
    square, view = Point(), Pictures()

    def follow(_=None):
        x, y = square.point
        if not (abs(x) <= REACH and abs(y) <= REACH):  # or one of them is not a number at all
            view.say(f"Both numbers of the point go from -{REACH} to {REACH}.", "error")
            return
        picture = model.decode(centre + torch.tensor([[x, y]]) @ directions, condition)
        view.show(picture, f"“{_short(prompt)}” at {x:.2f} across, {y:.2f} up")

    square.observe(follow, "point")
    follow()
    return Whole([square, view], "10_plane.png")
