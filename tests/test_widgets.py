"""The prompt widget without a browser: the handler, the form, and what Enter does."""

import asyncio
import io
import warnings

import pytest
import torch
from PIL import Image

from helpers import widgets
from helpers.checkpoints import checkpoint_paths
from helpers.generator import BEST, FAMILIARITY, TextToImage
from helpers.models import ShapesCVAE
from helpers.widgets import CANVAS, PromptWidget, canvas_png, draw_from_form, prompt_widget


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


@pytest.mark.parametrize("n", range(1, 33))
def test_the_canvas_keeps_its_size_and_shows_every_picture(n):
    png = canvas_png(torch.ones(n, 1, 28, 28), {"prompt": "x"})
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == CANVAS and image.text == {"prompt": "x"}
        ink = image.histogram()[0]
    zoom = round((ink / n) ** 0.5 / 28)
    assert zoom >= 2 and ink == n * (28 * zoom) ** 2


def test_empty_canvas_has_the_same_size():
    with Image.open(io.BytesIO(canvas_png())) as image:
        assert image.size == CANVAS and image.getextrema() == (255, 255)


def test_the_handler_draws(model):
    png, message = draw_from_form(model, "circle", 3, 0, 1.0)
    assert message == "Drawn from seed 0."
    assert draw_from_form(model, "circle", 3, 0, 1.0)[0] == png
    assert draw_from_form(model, "circle", 3, 1, 1.0)[0] != png
    with Image.open(io.BytesIO(png)) as image:
        assert image.text["prompt"] == "circle" and image.text["checkpoint"] == "untrained"
        assert image.text["Title"] == '"circle"'


def test_the_handler_draws_and_warns(model):
    png, message = draw_from_form(model, "a cat on a mat")
    assert png and message.startswith("This is none of the nine prompts; the nearest I know is")
    with Image.open(io.BytesIO(png)) as image:
        assert image.text["Title"] == '"a cat on a mat" (not what I know?)'


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
    ],
)
def test_the_handler_explains(model, arguments, words):
    png, message = draw_from_form(model, *arguments)
    assert png is None and words in message and "\n" not in message


def test_the_handler_shows_what_nobody_foresaw():
    class Broken:
        def draw(self, *args):
            raise RuntimeError("out of paint")

    assert draw_from_form(Broken(), "circle") == (None, "RuntimeError: out of paint")


def test_the_button_draws(form):
    before = form.image.value
    form.draw_button.click()
    assert form.image.value != before and "Drawn from seed 0." in form.message.value
    assert form.image.value == draw_from_form(form.model, "circle", 8, 0, 1.0)[0]


def test_drawing_is_announced_first(form):
    said = []
    form.message.observe(lambda change: said.append(change["new"]), "value")
    form.draw_button.click()
    assert "Drawing …" in said[0] and "Drawn" in said[1] and len(said) == 2


def test_enter_draws_and_leaving_the_box_does_not(form):
    before = form.image.value
    form.prompt.value = "cross"  # typing, and leaving the box, change the value only
    form.prompt._handle_custom_msg({"event": "blur"}, [])
    assert form.image.value == before
    submit(form)
    assert form.image.value == draw_from_form(form.model, "cross", 8, 0, 1.0)[0]


def test_enter_waits_for_letters_that_are_on_their_way(form):
    async def press_enter_then_receive():
        submit(form)
        form.prompt.value = "cross"
        await asyncio.sleep(0.2)

    asyncio.run(press_enter_then_receive())
    assert form.image.value == draw_from_form(form.model, "cross", 8, 0, 1.0)[0]


def test_an_error_leaves_the_pictures(form):
    form.draw_button.click()
    before = form.image.value
    form.prompt.value = ""
    form.draw_button.click()
    assert form.image.value == before and "The prompt is empty" in form.message.value


def test_the_dice_takes_another_seed_and_draws(form, monkeypatch):
    monkeypatch.setattr(widgets.random, "randrange", lambda most: 4321)
    form.dice.click()
    assert form.seed.value == 4321 and "Drawn from seed 4321." in form.message.value


def test_settings_reach_the_pictures(form):
    form.count.value, form.seed.value, form.temperature.value = 32, 7, 0.4
    form.draw_button.click()
    assert form.image.value == draw_from_form(form.model, "circle", 32, 7, 0.4)[0]
    form.count.value, form.seed.value, form.temperature.value = 99, -5, 9
    assert (form.count.value, form.seed.value, form.temperature.value) == (32, 0, 2.0)


def test_save_writes_what_is_shown(form):
    assert form.save_button.disabled
    form.save()
    assert "nothing to save" in form.message.value
    form.draw_button.click()
    form.prompt.value = "../something else"  # what is shown is still the circle
    assert not form.save_button.disabled
    form.save_button.click()
    form.save_button.click()
    paths = sorted(form.folder.iterdir())
    assert len(paths) == 2 and "_circle_seed0" in paths[0].name
    assert paths[0].read_bytes() == paths[1].read_bytes() == form.image.value
    assert "Saved as" in form.message.value


def test_a_folder_that_cannot_be_written(form):
    form.folder.write_text("a file where the folder should be")
    form.draw_button.click()
    form.save_button.click()
    assert "File exists" in form.message.value and "Traceback" not in form.message.value


def test_text_is_never_html(form):
    form.say("<img src=x onerror=alert(1)> **bold** & $x$")
    assert "<img" not in form.message.value and "&lt;img src=x" in form.message.value
    assert "**bold** &amp; $x$" in form.message.value
    form.prompt.value = "<b>circle</b>"
    submit(form)
    assert "<b>" not in form.message.value


def test_pictures_have_a_fixed_size_on_the_page(form):
    assert (form.image.layout.width, form.image.layout.height) == ("640px", "320px")
    view = form.image.model_id
    form.count.value = 1
    form.draw_button.click()
    assert form.image.model_id == view and form.children[-1] is form.image


def test_no_deprecation_warnings(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        submit(prompt_widget(model, "circle"))


def test_the_widget_loads_a_released_model_by_name():
    assert prompt_widget("shapes-cvae", "circle").model.name == "shapes-cvae"


def test_the_widget_draws_with_the_best_unless_told(monkeypatch, model):
    asked = []
    monkeypatch.setattr(TextToImage, "load", lambda name: asked.append(name) or model)
    prompt_widget(), prompt_widget("mnist-cvae"), prompt_widget(model)
    assert asked == [BEST, "mnist-cvae"]


@pytest.mark.skipif(
    not (FAMILIARITY.is_file() and checkpoint_paths(BEST)[0].is_file()), reason="not trained yet"
)
def test_the_released_widget_draws_and_says_what_it_read():
    form = prompt_widget()
    assert form.model.name == BEST
    form.draw_button.click()
    assert "Drawn from seed 0. Read as: seven." in form.message.value
    form.prompt.value = "a bold cat"
    form.draw_button.click()
    assert "does not read like one digit; the nearest I know is" in form.message.value
