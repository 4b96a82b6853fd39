"""The widgets without a browser: the handler, the form, the plane (see also tests/browser)."""

import gc
import math
import threading
import time
import warnings
import weakref

import pytest
import torch
from ipywidgets.widgets.widget import _instances
from PIL import Image

from helpers import widgets
from helpers.flow import LatentFlow
from helpers.generator import DEFAULT, TextToImage, save_picture
from helpers.models import ShapesCVAE
from helpers.widgets import Pictures, PromptWidget, draw_from_form, plane_widget, prompt_widget


class LetterFlow(LatentFlow):
    """A flow that needs no MiniLM."""

    reads, reads_styles = "characters", False

    def read(self, tokens):
        return torch.nn.functional.pad(tokens / 9, (0, 2))


@pytest.fixture(scope="module")
def models():
    """Two untrained models that read letters: fast, and they know nine prompts."""
    torch.manual_seed(0)
    made = {"untrained": ShapesCVAE().eval(), "flow": LetterFlow().eval()}
    for parameter in made["flow"].parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return {name: TextToImage(model, {}, name) for name, model in made.items()}


@pytest.fixture
def form(models, tmp_path):
    form = PromptWidget(models["untrained"], "circle", tmp_path / "saved")
    form.models |= models
    form.checkpoint.options = [*models]
    return form


def click(button, form):
    """Click and wait until all that was asked for is drawn: what the page shows, as bytes."""
    button.click()
    form.jobs.join()
    return form.view.greys


def press(view, form, **message):
    view._handle_custom_msg(message, [])
    form.jobs.join()
    return form.view.greys


def greys(pictures):
    view = Pictures()
    view.show(pictures, "")
    return view.greys


def test_pictures_become_greys_with_dark_ink_in_one_message(monkeypatch):
    view, sent = Pictures(kept=[1]), []
    monkeypatch.setattr(Pictures, "send_state", lambda self, key=None: sent.append(sorted(key)))
    view.show(torch.tensor([0.0, 0.5, 2.0]).view(3, 1, 1, 1).expand(3, 1, 28, 28), "label", "words")
    assert sent == [["greys", "kept", "label", "message"]], "never a mix"
    assert view.greys == bytes([255] * 784 + [128] * 784 + [0] * 784)


def test_the_handler_draws_with_every_setting(models):
    flow = models["flow"]
    usual = ["circle", 3, 2, 0.5, 2.0, 3]
    pictures, message = draw_from_form(flow, *usual)
    assert message == "Drawn from seed 2." and pictures.shape == (3, 1, 28, 28)
    assert torch.equal(pictures, flow.draw(*usual))
    for place, value in {0: "cross", 2: 3, 3: 1.0, 4: 0.0, 5: 2}.items():
        others = [*usual[:place], value, *usual[place + 1 :]]
        assert not torch.allclose(draw_from_form(flow, *others)[0], pictures, atol=1e-3), value


def test_the_handler_says_what_was_read_and_what_is_wrong(models, monkeypatch):
    model = models["untrained"]
    cases = {
        ("  ", 1): "The prompt is empty", ("123", 1): "no letter from a to z",
        ("circle", 0): "The number of pictures is 0: give a whole number from 1 to 32.",
        ("circle", 33): "The number of pictures is 33: give a whole number from 1 to 32.",
        ("circle", 1, 0.5): "The seed is 0.5", ("circle", 1, 0, 1.0, 1.5): "is no flow",
    }
    for arguments, words in cases.items():
        pictures, message = draw_from_form(model, *arguments)
        assert pictures is None and words in message and "\n" not in message, arguments
    assert draw_from_form(None, "circle")[1].startswith("AttributeError: "), "what nobody foresaw"
    pictures, doubt = draw_from_form(model, "a cat on a mat")
    assert len(pictures) == 8 and doubt.startswith("This is none of the nine prompts; the nearest")
    monkeypatch.setattr(TextToImage, "reading", lambda self, prompt: "seven, thick")
    read = " Read as: seven, thick."
    assert draw_from_form(model, "circle")[1] == f"Drawn from seed 0.{read}"
    assert draw_from_form(model, "a cat on a mat")[1] == doubt + read


def test_the_button_draws_and_says_so_first(form):
    said, names = [], []
    form.view.observe(lambda change: said.append(change["new"]), ["message", "busy"])
    form.draw_button.observe(lambda change: names.append(change["new"]), "description")
    assert click(form.draw_button, form) == greys(draw_from_form(form.model, "circle", 8)[0])
    assert {*said[:2]} == {True, "Drawing …"} and said[2:] == ["Drawn from seed 0.", False]
    assert names == ["Drawing …", "Draw"] and form.view.label == "“circle”"


def test_clicks_while_it_draws_bring_one_more_drawing(form, monkeypatch):
    def draw(model, prompt, **settings):
        prompts.append(prompt)
        for other in ("cross", "square", "sparse dots") if prompt == "circle" else ():
            form.prompt.value = other
            form.draw_button.click()
        return draw_from_form(model, prompt, **settings)

    prompts = []
    monkeypatch.setattr(widgets, "draw_from_form", draw)
    click(form.draw_button, form)
    assert prompts == ["circle", "sparse dots"]


def test_an_error_leaves_the_pictures_and_the_form(form, monkeypatch):
    before = click(form.draw_button, form)
    for control, wrong in ((form.prompt, ""), (form.count, 40), (form.seed, 2.5)):
        usual, control.value = control.value, wrong
        assert click(form.draw_button, form) == before and f"is {wrong}" in form.view.message
        assert control.value == wrong and form.view.tone == "error", "nothing becomes another"
        control.value = usual
    form.prompt.value, form.seed.value, form.temperature.value = "cross", -5, 9
    with monkeypatch.context() as patch:
        patch.setattr(TextToImage, "title", lambda self, prompt: 1 / 0)
        click(form.draw_button, form)
        assert form.view.message == "ZeroDivisionError: division by zero"
    assert click(form.draw_button, form) == greys(draw_from_form(form.model, "cross", 8, -5, 9)[0])
    assert form.draw_button.description == "Draw" and form.view.tone == ""
    form.prompt.value = "a cat on a mat"
    assert click(form.draw_button, form) and form.view.tone == "warning"


def test_dice_and_lock(form, monkeypatch):
    rolls = iter((4321, 11, 22))
    monkeypatch.setattr(widgets.random, "randrange", lambda most: next(rolls))
    click(form.dice, form)
    assert "Drawn from seed 4321." in form.view.message and form.lock.value, "the lock stays"
    form.lock.value = False
    for seed in (11, 22):
        click(form.draw_button, form)
        assert (form.seed.value, form.lock.value) == (seed, False)
    form.seed.value = 5  # as typed: the reader means it
    click(form.draw_button, form)
    assert form.lock.value and "Drawn from seed 5." in form.view.message


def test_history_restores_a_drawing(form):
    """With the guidance of a flow, although choosing it sets its own."""
    form.checkpoint.value = "flow"
    assert form.view.message == "flow draws from now on."
    assert form.flow.layout.display == "" and form.guidance.value == LatentFlow.guidance
    form.seed.value, form.count.value, form.guidance.value, form.steps.value = 9, 3, 2.5, 2
    first = click(form.draw_button, form)
    assert first == greys(draw_from_form(form.models["flow"], "circle", 3, 9, 1.0, 2.5, 2)[0])
    form.checkpoint.value = "untrained"
    assert form.flow.layout.display == "none"
    form.seed.value, form.count.value, form.prompt.value = 1, 5, "cross"
    click(form.draw_button, form)
    assert [facts["prompt"] for facts in form.past.facts] == ["cross", "circle"]
    assert form.past.greys[784:] == first[:784], "with a picture of each"
    form.guidance.value, form.lock.value = 4.0, False
    assert press(form.past, form, restore=1) == first and not form.lock.value
    assert (form.prompt.value, form.seed.value, form.count.value) == ("circle", 9, 3)
    assert (form.checkpoint.value, form.guidance.value, form.steps.value) == ("flow", 2.5, 2)
    assert len(form.past.facts) == 2, "a drawing stands there once"
    for seed in range(20, 21 + widgets.REMEMBERED):
        form.seed.value = seed
        form.prompt.value = "circle" * seed
        click(form.draw_button, form)
    assert [facts["seed"] for facts in form.past.facts] == [*range(20 + widgets.REMEMBERED, 20, -1)]
    assert max(len(facts["prompt"]) for facts in form.past.facts) < 80, "never the whole of a book"


def test_nobody_reads_a_form_that_is_half_restored(form, monkeypatch):
    click(form.draw_button, form)
    first = dict(form.shown[1])
    form.prompt.value, form.count.value, form.seed.value = "cross", 2, 5
    for control in (form.prompt, form.count, form.seed):  # a Draw between any two of them
        control.observe(lambda _: (form.draw(), time.sleep(0.1)), "value")
    press(form.past, form, restore=0)
    assert form.shown[1] == first and len(form.history) == 1


def test_what_is_kept_says_how_it_was_drawn(form, monkeypatch):
    """Whatever the form says by then, and whichever model was chosen meanwhile."""
    def draw(model, prompt, **settings):
        form.prompt.value, form.checkpoint.value, form.seed.value = "../other", "flow", 1
        form.count.value, form.temperature.value = 5, 1.5
        return draw_from_form(model, prompt, **settings)

    monkeypatch.setattr(widgets, "draw_from_form", draw)
    form.seed.value, form.count.value, form.temperature.value = 9, 3, 0.5
    shown = click(form.draw_button, form)
    form.view._handle_custom_msg({"keep": 2}, [])
    (path,) = form.folder.iterdir()
    with Image.open(path) as image:
        assert image.text == {
            "prompt": "circle", "count": "3", "seed": "9", "temperature": "0.5",
            "checkpoint": "untrained", "Title": '"circle"', "index": "3",
        }
        kept = image.resize((28, 28), Image.Resampling.NEAREST).tobytes()
    assert shown == greys(draw_from_form(form.models["untrained"], "circle", 3, 9, 0.5)[0])
    assert kept == shown[2 * 784 :]
    assert "_circle_seed9_3" in path.name and path.name in form.view.message


def test_a_drawing_that_ends_while_pictures_are_kept_lends_them_nothing(form, monkeypatch):
    def save(*arguments):
        form.seed.value += 1
        click(form.draw_button, form)
        return save_picture(*arguments)

    before = click(form.draw_button, form)
    monkeypatch.setattr(widgets, "save_picture", save)
    form.keep_button.click()
    for k, path in enumerate(sorted(form.folder.glob("*_seed0_*"))):
        with Image.open(path) as image:
            assert (image.text["seed"], image.text["index"]) == ("0", f"{k + 1}")
            assert image.resize((28, 28), 0).tobytes() == before[784 * k :][:784]
    assert form.view.kept == [] and k == 7


def test_a_picture_is_kept_once(form):
    form.view._handle_custom_msg({"keep": 0}, [])
    assert "nothing to keep" in form.view.message and form.keep_button.disabled
    click(form.draw_button, form)
    form.folder.write_text("a file where the folder should be")
    form.view._handle_custom_msg({"keep": 0}, [])
    assert "File exists" in form.view.message and form.view.kept == []
    form.folder.unlink()
    for k in (5, 5, 8):  # no picture has the last number
        form.view._handle_custom_msg({"keep": k}, [])
    assert form.view.message == "That is kept already." and form.view.kept == [5]
    form.keep_button.click()
    assert sorted(form.view.kept) == list(range(8)) and len(list(form.folder.iterdir())) == 8
    assert "Kept as saved/" in form.view.message and "and 6 more." in form.view.message
    click(form.draw_button, form)
    assert form.view.kept == []


def test_a_checkpoint_that_does_not_load_leaves_the_model(form, monkeypatch):
    def refuse(name):
        raise ValueError(f"{name} is damaged: restore it.")

    monkeypatch.setattr(TextToImage, "load", refuse)
    form.checkpoint.options = ["untrained", "flow", "mnist-cvae"]
    form.checkpoint.value = "mnist-cvae"
    assert form.view.message == "mnist-cvae is damaged: restore it."
    assert form.checkpoint.value == "untrained" and form.model.name == "untrained"
    assert click(form.draw_button, form)


def test_the_widget_takes_a_model_or_a_name(models, monkeypatch):
    model, asked = models["flow"], []
    monkeypatch.setattr(TextToImage, "load", lambda name: asked.append(name) or model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forms = [prompt_widget(*which) for which in ((), ("mnist-cvae",), (model,))]
        assert click(forms[2].draw_button, forms[2])
    assert asked == [DEFAULT, "mnist-cvae"] and all(form.model is model for form in forms)


def test_the_plane_follows_its_point(models):
    model = models["untrained"]
    across, up = torch.eye(model.latent)[:2]
    (centre,) = model.latents(1, seed=0)
    square, view = plane_widget(model, "circle", across, up, centre).children
    for x, y in ((0, 0), (1.5, -0.5)):
        square.point = [x, y]
        picture = model.decode((centre + x * across + y * up)[None], model.conditions("circle"))
        assert view.greys == greys(picture) and not view.deed
    for forged in ([math.nan, 0.0], [1e308, 0.0], [0.0, math.nan], [0.0, -math.inf]):
        before, square.point = view.greys, forged
        assert view.greys == before and view.tone == "error" and "from -2.5 to 2.5" in view.message
    assert view.label == "“circle” at 1.50 across, -0.50 up"


def test_nothing_is_left_of_forms_that_draw_or_close_or_are_made_again(models, tmp_path):
    """No widget, no thread and no model; of those that nobody closes, a few live on."""
    counts, gone = [], []
    for k in range(9):
        model = TextToImage(ShapesCVAE().eval(), {}, "own")
        gone.append(weakref.ref(model))
        form = PromptWidget(model, "circle", tmp_path)
        plane = plane_widget(model, "circle", *torch.eye(model.latent)[:2])
        for form.seed.value in range(3):
            click(form.draw_button, form)
        if k < 3:
            form.close()
            plane.close()
        del model, plane
        gc.collect()
        counts.append((len(_instances), threading.active_count()))
    assert counts[0] == counts[1] == counts[2] and counts[-1] == counts[-2] == counts[-3], counts
    assert [ref() is None for ref in gone] == [True] * 7 + [False] * 2
