"""The widgets without a browser: the handler, the form, and what Enter does.

tests/browser/test_lab.py uses the same form on a page.
"""

import asyncio
import threading
import warnings

import pytest
import torch
from PIL import Image

from helpers import widgets
from helpers.checkpoints import checkpoint_paths
from helpers.generator import DEFAULT, FAMILIARITY, TextToImage
from helpers.models import ShapesCVAE
from helpers.widgets import (
    FRAME,
    REMEMBERED,
    SHEET,
    Pictures,
    PromptWidget,
    best_layout,
    draw_from_form,
    plane_widget,
    prompt_widget,
)


@pytest.fixture(scope="module")
def model():
    """An untrained model that reads letters: fast, and it knows nine prompts."""
    torch.manual_seed(0)
    return TextToImage(ShapesCVAE().eval(), {}, "untrained")


@pytest.fixture
def form(model, tmp_path):
    return PromptWidget(model, "circle", tmp_path / "saved")


def submit(form):
    """Send what the browser sends when Enter is pressed in the box."""
    form.prompt._handle_custom_msg({"event": "submit"}, [])


def click(button, form):
    """Click and wait until all that was asked for is drawn: what the page shows, as bytes."""
    button.click()
    form.jobs.join()
    return form.view.greys


def greys(pictures):
    view = Pictures()
    view.show(pictures, "")
    return view.greys


@pytest.mark.parametrize("n", range(1, 33))
def test_the_layout_uses_the_sheet(n):
    columns, side = best_layout(n)
    rows = -(-n // columns)
    assert columns * side <= SHEET[0] and rows * side <= SHEET[1]
    assert (side - FRAME) % 28 == 0 and (side - FRAME) // 28 >= 2, "whole zoom, at least twice"


def test_pictures_become_greys_with_dark_ink():
    pictures = torch.zeros(3, 1, 28, 28)
    pictures[1] = 0.5
    pictures[2] = 2.0
    assert greys(pictures) == bytes([255] * 784 + [128] * 784 + [0] * 784)


def test_showing_sends_one_message(monkeypatch):
    """Pictures, their number and the message reach the page together, so it never shows a mix."""
    view, sent = Pictures(kept=[1]), []
    monkeypatch.setattr(Pictures, "send_state", lambda self, key=None: sent.append(sorted(key)))
    view.show(torch.zeros(2, 1, 28, 28), "label", "message")
    assert sent == [["columns", "greys", "kept", "label", "message", "side"]]


def test_the_handler_draws(model):
    pictures, message = draw_from_form(model, "circle", 3, 0, 1.0)
    assert message == "Drawn from seed 0." and pictures.shape == (3, 1, 28, 28)
    assert torch.equal(draw_from_form(model, "circle", 3, 0, 1.0)[0], pictures)
    assert not torch.equal(draw_from_form(model, "circle", 3, 1, 1.0)[0], pictures)


def test_the_handler_draws_and_warns(model):
    pictures, message = draw_from_form(model, "a cat on a mat")
    assert len(pictures) == 8
    assert message.startswith("This is none of the nine prompts; the nearest I know is")


def test_the_handler_says_what_was_read(model, monkeypatch):
    monkeypatch.setattr(TextToImage, "reading", lambda self, prompt: "seven, thick")
    _, message = draw_from_form(model, "circle")
    assert message == "Drawn from seed 0. Read as: seven, thick."
    _, message = draw_from_form(model, "a cat on a mat")
    assert message.startswith("This is none of") and message.endswith(" Read as: seven, thick.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", 1), "The prompt is empty"),
        (("  ", 1), "The prompt is empty"),
        ((None, 1), "A prompt is text"),
        (("123", 1), "no letter from a to z"),
        (("circle", 0), "choose from 1 to 32"),
        (("circle", 33), "choose from 1 to 32"),
        (("circle", 2.0), "choose from 1 to 32"),
        (("circle", 1, 0.5), "The seed is 0.5"),
        (("circle", 1, 0, -1.0), "finite number"),
        (("circle", 1, 0, 1.0, 1.5), "is no flow"),
    ],
)
def test_the_handler_explains(model, arguments, words):
    pictures, message = draw_from_form(model, *arguments)
    assert pictures is None and words in message and "\n" not in message


def test_the_handler_shows_what_nobody_foresaw():
    class Broken:
        def draw(self, *args):
            raise RuntimeError("out of paint")

    assert draw_from_form(Broken(), "circle") == (None, "RuntimeError: out of paint")


def test_the_button_draws(form):
    assert click(form.draw_button, form) == greys(draw_from_form(form.model, "circle", 8)[0])
    assert form.view.message == "Drawn from seed 0." and form.view.label == "“circle”"


def test_drawing_is_announced_first(form):
    said, names = [], []
    form.view.observe(lambda change: said.append(change["new"]), "message")
    form.view.observe(lambda change: names.append(change["new"]), "busy")
    form.draw_button.observe(lambda change: names.append(change["new"]), "description")
    click(form.draw_button, form)
    assert said == ["Drawing …", "Drawn from seed 0."]
    assert names == ["Drawing …", True, False, "Draw"]


def test_enter_draws_and_leaving_the_box_does_not(form):
    form.prompt.value = "cross"  # typing, and leaving the box, change the value only
    form.prompt._handle_custom_msg({"event": "blur"}, [])
    form.jobs.join()
    assert form.view.greys == b""
    submit(form)
    form.jobs.join()
    assert form.view.greys == greys(draw_from_form(form.model, "cross", 8)[0])


def test_enter_waits_for_letters_that_are_on_their_way(form):
    async def press_enter_then_receive():
        submit(form)
        form.prompt.value = "cross"

    asyncio.run(press_enter_then_receive())
    form.jobs.join()
    assert form.view.greys == greys(draw_from_form(form.model, "cross", 8)[0])


def test_clicks_while_it_draws_bring_one_more_drawing(form, monkeypatch):
    begun, goes_on, drawn = threading.Event(), threading.Event(), []
    real = widgets.draw_from_form

    def slow(model, prompt, **settings):
        begun.set()
        assert goes_on.wait(10)
        drawn.append(prompt)
        return real(model, prompt, **settings)

    monkeypatch.setattr(widgets, "draw_from_form", slow)
    form.draw_button.click()
    assert begun.wait(10)
    for prompt in ("cross", "square", "sparse dots"):
        form.prompt.value = prompt
        form.draw_button.click()
    goes_on.set()
    form.jobs.join()
    assert drawn == ["circle", "sparse dots"]


def test_an_error_leaves_the_pictures(form):
    before = click(form.draw_button, form)
    form.prompt.value = ""
    assert click(form.draw_button, form) == before and "The prompt is empty" in form.view.message


def test_the_thread_outlives_what_nobody_foresaw(form, monkeypatch):
    monkeypatch.setattr(TextToImage, "title", lambda self, prompt: 1 / 0)
    click(form.draw_button, form)
    assert form.view.message == "ZeroDivisionError: division by zero"
    monkeypatch.undo()
    assert click(form.draw_button, form) and form.draw_button.description == "Draw"


def test_the_dice_takes_another_seed_and_draws(form, monkeypatch):
    monkeypatch.setattr(widgets.random, "randrange", lambda most: 4321)
    click(form.dice, form)
    assert form.seed.value == 4321 and "Drawn from seed 4321." in form.view.message
    assert form.lock.value, "the dice leave the lock as it is"


def test_unlocked_every_drawing_takes_another_seed(form, monkeypatch):
    rolls = iter((11, 22, 33))
    monkeypatch.setattr(widgets.random, "randrange", lambda most: next(rolls))
    form.lock.value = False
    for seed in (11, 22):
        click(form.draw_button, form)
        assert (form.seed.value, form.lock.value) == (seed, False)
    form.seed.value = 5  # as typed: the reader means it
    assert form.lock.value
    click(form.draw_button, form)
    assert form.seed.value == 5


def test_settings_reach_the_pictures(form):
    form.count.value, form.seed.value, form.temperature.value = 32, 7, 0.4
    expected = draw_from_form(form.model, "circle", 32, 7, 0.4)[0]
    assert click(form.draw_button, form) == greys(expected)
    form.count.value, form.seed.value, form.temperature.value = 99, -5, 9
    assert (form.count.value, form.seed.value, form.temperature.value) == (32, 0, 3.0)


def test_an_example_is_written_into_the_box_and_drawn(form):
    assert [chip.description for chip in form.chips.children][4] == "cross"
    click(form.chips.children[4], form)
    assert form.prompt.value == "cross"
    assert form.view.greys == greys(draw_from_form(form.model, "cross", 8)[0])


def test_history_restores_a_drawing(form):
    form.seed.value, form.count.value = 9, 3
    first = click(form.draw_button, form)
    form.seed.value, form.count.value, form.prompt.value = 1, 5, "cross"
    second = click(form.draw_button, form)
    assert [b.description for b in form.past.children] == ["1 · cross", "9 · circle"]
    assert click(form.past.children[1], form) == first != second
    assert (form.prompt.value, form.seed.value, form.count.value) == ("circle", 9, 3)
    assert len(form.past.children) == 2, "a drawing stands there once"


def test_history_restores_although_unlocked(form):
    first = click(form.draw_button, form)
    form.lock.value = False
    click(form.draw_button, form)
    assert click(form.past.children[1], form) == first and form.seed.value == 0


def test_history_forgets_the_oldest(form):
    for seed in range(REMEMBERED + 2):
        form.seed.value = seed
        click(form.draw_button, form)
    names = [button.description for button in form.past.children]
    assert names == [f"{seed} · circle" for seed in range(REMEMBERED + 1, 1, -1)]


def keep(form, k):
    """Send what the page sends when the k-th picture is clicked."""
    form.view._handle_custom_msg({"keep": k}, [])


def test_a_click_keeps_a_picture_once(form):
    keep(form, 0)
    assert "nothing to keep" in form.view.message
    click(form.draw_button, form)
    form.prompt.value = "../something else"  # what is shown is still the circle
    keep(form, 2)
    keep(form, 2)
    assert form.view.message == "That is kept already." and form.view.kept == [2]
    (path,) = form.folder.iterdir()
    with Image.open(path) as image:
        assert image.text == {
            "prompt": "circle", "count": "8", "seed": "0", "temperature": "1.0",
            "checkpoint": "untrained", "Title": '"circle"', "index": "3",
        }
        kept = image.resize((28, 28), Image.Resampling.NEAREST).tobytes()
    assert kept == form.view.greys[2 * 784 : 3 * 784]
    keep(form, 8)  # a number that no picture has
    assert len(list(form.folder.iterdir())) == 1


def test_keep_all_keeps_what_is_not_kept_yet(form):
    assert form.keep_button.disabled
    click(form.draw_button, form)
    keep(form, 5)
    form.keep_button.click()
    assert sorted(form.view.kept) == list(range(8)) and len(list(form.folder.iterdir())) == 8
    assert "Kept as" in form.view.message
    click(form.draw_button, form)
    assert form.view.kept == []


def test_a_folder_that_cannot_be_written(form):
    form.folder.write_text("a file where the folder should be")
    click(form.draw_button, form)
    keep(form, 0)
    assert "File exists" in form.view.message and form.view.kept == []


def test_another_checkpoint_draws_and_brings_its_examples(tmp_path):
    form = prompt_widget("shapes-cvae", "circle", tmp_path)
    assert form.flow.layout.display == "none"
    circle = click(form.draw_button, form)
    form.checkpoint.value = "shapes-mlp"
    assert form.model.name == "shapes-mlp" and form.view.message == "shapes-mlp draws from now on."
    assert click(form.draw_button, form) != circle
    form.checkpoint.value = "mnist-flow"
    assert form.flow.layout.display == "" and form.guidance.value == 1.3 and form.steps.value == 50
    assert "a thick 3 leaning left" in [chip.description for chip in form.chips.children]
    form.past.children[1].click()
    form.jobs.join()
    assert form.checkpoint.value == "shapes-cvae" and form.view.greys == circle


def test_a_checkpoint_that_does_not_load_leaves_the_model(form, monkeypatch):
    def refuse(name):
        raise ValueError(f"{name} is damaged: restore it.")

    monkeypatch.setattr(TextToImage, "load", refuse)
    form.checkpoint.value = "mnist-cvae"
    assert form.view.message == "mnist-cvae is damaged: restore it."
    assert form.checkpoint.value == "untrained" and form.model.name == "untrained"
    assert click(form.draw_button, form)


def test_no_deprecation_warnings(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        form = prompt_widget(model, "circle")
        submit(form)
        form.jobs.join()


def test_the_widget_loads_a_released_model_by_name():
    assert prompt_widget("shapes-cvae", "circle").model.name == "shapes-cvae"


def test_the_widget_draws_with_the_default_unless_told(monkeypatch, model):
    asked = []
    monkeypatch.setattr(TextToImage, "load", lambda name: asked.append(name) or model)
    prompt_widget(), prompt_widget("mnist-cvae"), prompt_widget(model)
    assert asked == [DEFAULT, "mnist-cvae"]


@pytest.mark.skipif(
    not (FAMILIARITY.is_file() and checkpoint_paths(DEFAULT)[0].is_file()), reason="not trained yet"
)
def test_the_released_widget_draws_and_says_what_it_read():
    form = prompt_widget()
    assert form.model.name == DEFAULT
    click(form.draw_button, form)
    assert form.view.message == "Drawn from seed 0. Read as: seven."
    form.prompt.value = "a bold cat"
    click(form.draw_button, form)
    assert "does not read like one digit; the nearest I know is" in form.view.message


def test_the_plane_follows_its_point(model):
    across, up = torch.eye(model.latent)[:2]
    square, view = plane_widget(model, "circle", across, up).children
    condition = model.conditions("circle")
    assert view.greys == greys(model.decode(0 * across[None], condition)) and not view.keepable
    square.point = [1.5, -0.5]
    assert view.greys == greys(model.decode((1.5 * across - 0.5 * up)[None], condition))
    assert view.label == "“circle” at 1.50 across, -0.50 up"
