"""The widgets of 10_interactive_sampling in JupyterLab, opened by `make lab` and used by hand:
each test finds the form as the one before left it."""

import contextlib
import os
import re
import subprocess
import sys
import time

import nbformat
import pytest
from PIL import Image
from playwright.sync_api import expect

NOTEBOOK = "10_interactive_sampling.ipynb"
PLANE = """from helpers.widgets import TextToImage, plane_widget, torch
plane_widget(TextToImage.load("mnist-cvae"), "a three", *torch.eye(20)[:2])"""
DRAW = re.compile(r"Draw(ing …)?$")  # its icon, a letter of a font, stands before it
TAB_ORDER = [
    "Prompt", "Draw", "a seven", "a thick 3 leaning left", "print number 5", "a tiny 8",
    "what is six?", "Pictures", "Seed", "Dice", "Lock", "Temperature", "Checkpoint"]
NASTY = "<img src=x onerror=\"document.title='hacked'\"> **bold** 2: two/2"
COUNT = """(sheet, name) => { window.seen = 0; new MutationObserver(
  () => { seen += 1; }).observe(sheet, {attributeFilter: [name]}); }"""
DRAG = """async pad => {  // for a second, as the screen is drawn: how many pictures were seen
  const before = seen, box = pad.getBoundingClientRect(), start = performance.now();
  for (let t = 0; t < 1; t = (performance.now() - start) / 1000) {
    const clientX = box.x + box.width * (0.5 + 0.4 * Math.cos(4 * t));
    const clientY = box.y + box.height * (0.5 + 0.4 * Math.sin(4 * t));
    pad.dispatchEvent(new PointerEvent("pointermove", {pointerId: 1, clientX, clientY}));
    await new Promise(requestAnimationFrame);
  }
  return seen - before;
}"""
LAID_OUT = """sheet => {  // how far beside the sheet's middle each row is; what is left of 28
  const box = (part) => part.getBoundingClientRect(), rows = {};
  for (const button of sheet.children) (rows[box(button).y] ??= []).push(box(button));
  return [Object.values(rows).map((row) => Math.abs(
    (row[0].left + row.at(-1).right - box(sheet).left - box(sheet).right) / 2)),
    [...sheet.querySelectorAll("canvas")].map((canvas) => box(canvas).width % 28)];
}"""
END_KERNELS = """async () => {
  const headers = {"X-XSRFToken": document.cookie.match(/_xsrf=([^;]*)/)[1]};
  for (const {id} of await (await fetch("/api/sessions")).json())
    await fetch(`/api/sessions/${id}`, {method: "DELETE", headers});
}"""
CLOCK = """draw => {  // the browser's own, from the click to the frame after the pictures
  const line = draw.closest(".prompt-form").querySelector("[role=status]");
  window.times = [];
  draw.addEventListener("click", () => { window.start = performance.now(); }, true);
  new MutationObserver(() => line.textContent.startsWith("Drawn") && requestAnimationFrame(
    () => times.push(performance.now() - start))).observe(line, {childList: true});
}"""


@pytest.fixture(scope="module")
def form(clone, page):
    """The form in a copy where its notebook is short, opened in the list of files of `make lab`."""
    path, log = clone / "notebooks" / NOTEBOOK, clone.parent / "lab.log"
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "import prompt_widget" in cell.source]
    cell.outputs, cell.execution_count = [], None
    notebook.cells = [cell, nbformat.v4.new_code_cell(PLANE)]
    nbformat.write(notebook, path)
    options = "LAB=--port 18888 --IdentityProvider.token= --no-browser"  # if taken, tries others
    settings = {"PYTHONPATH": str(clone), "JUPYTER_CONFIG_DIR": str(clone.parent / "config")}
    with log.open("w") as file:
        server = subprocess.Popen(
            ["make", "-o", "install", "lab", f"VENV={sys.prefix}", options],
            cwd=clone, stdout=file, stderr=file, env=os.environ | settings)
    try:
        end = time.monotonic() + 90
        while not (address := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        page.goto(address[0])
        page.locator(".jp-DirListing-item", has_text=NOTEBOOK).dblclick(timeout=60_000)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        expect(page.locator(".jp-InputPrompt").last).to_have_text("[2]:", timeout=180_000)
        form = page.locator(".prompt-form").filter(has=page.get_by_role("button", name="Dice")).last
        form.locator(".pictures").evaluate(COUNT, "aria-busy")
        yield form
    finally:
        page.goto("about:blank")
        server.terminate()
        server.wait(30)


def says(form, words):
    expect(form.get_by_role("status")).to_contain_text(words)


def choose(form, checkpoint):
    form.get_by_label("Checkpoint").select_option(checkpoint)
    says(form, f"{checkpoint} draws from now on.")


def fill(form, **numbers):
    for name, number in numbers.items():
        form.get_by_label(name, exact=True).fill(str(number))
        form.get_by_label(name, exact=True).press("Tab")


def values(form, *names):
    return [form.get_by_label(name, exact=True).input_value() for name in names]


def pixels(form):
    """What the page shows: the greys of every picture."""
    return form.locator(".pictures canvas").evaluate_all("""all => all.map(c => [
        ...c.getContext("2d").getImageData(0, 0, 28, 28).data].filter((_, k) => k % 4 === 0))""")


@contextlib.contextmanager
def drawing(form, words="Drawn from seed", times=1):
    """Wait at the end until it has been busy and idle so many times, and the status line."""
    before = form.page.evaluate("seen")
    yield
    form.page.wait_for_function("wanted => seen >= wanted", arg=before + 2 * times)
    says(form, words)


def draw(form, prompt=None, words="Drawn from seed"):
    if prompt is not None:
        form.get_by_label("Prompt").fill(prompt)
    with drawing(form, words):
        form.get_by_role("button", name=DRAW).click()
    return pixels(form)


def test_what_is_typed_is_drawn_or_doubted_and_the_seed_decides(form):
    first = draw(form, "a thick 3 leaning left", "Read as: three, thick, leaning left.")
    assert len(set(map(str, first))) == 8, "eight different threes"
    fill(form, Seed=7)
    assert draw(form, words="Drawn from seed 7.") != first
    fill(form, Seed=0)
    assert draw(form, words="Drawn from seed 0.") == first
    assert draw(form, "   ", "The prompt is empty") == first
    assert draw(form, "draw a cat", "This does not read like one digit; the nearest") != first
    expect(form.locator("[data-tone=warning]")).to_be_visible()


def test_enter_and_an_example_draw_and_leaving_the_box_does_not(form, page):
    before, box = page.evaluate("seen"), form.get_by_label("Prompt")
    box.fill("an eight")
    box.blur()
    page.wait_for_timeout(500)
    assert page.evaluate("seen") == before
    box.press("ControlOrMeta+a")
    page.keyboard.type("a nine")  # Enter follows at once, before the last letters have arrived
    with drawing(form, "Read as: nine"):
        page.keyboard.press("Enter")
    with drawing(form, "Read as: eight, small"):
        form.get_by_role("button", name="a tiny 8", exact=True).click()
    assert values(form, "Prompt") == ["a tiny 8"]


def test_lock_decides_on_the_seed_and_history_brings_all_back(form):
    fill(form, Pictures=5, Temperature=0.5)
    five = draw(form, "a wide 5", "Drawn from seed 0.")
    form.get_by_label("Lock").uncheck()
    draw(form)
    (unlocked,) = values(form, "Seed")
    says(form, f"Drawn from seed {unlocked}.")
    fill(form, Seed=6, Pictures=8, Temperature=1)
    expect(form.get_by_label("Lock")).to_be_checked()
    draw(form, "a six", "Drawn from seed 6. Read as: six")
    with drawing(form, "Drawn from seed 0. Read as: five, wide"):
        name = "a wide 5 · count 5 · seed 0 · temperature 0.5"
        form.get_by_role("button", name=name).click()
    assert values(form, "Prompt", "Seed", "Pictures") == ["a wide 5", "0", "5"]
    assert values(form, "Temperature") == ["0.5"] and pixels(form) == five
    fill(form, Pictures=8, Temperature=1)


def test_a_click_keeps_a_picture_once_and_text_stays_text(form, page, clone):
    draw(form, NASTY, "Read as: two")
    expect(form.locator(".past button").first).to_contain_text(NASTY[:60])
    third = form.get_by_role("button", name="Picture 3 of 8")
    third.click()
    says(form, "Kept as")
    said = form.get_by_role("status").inner_text()
    path = clone / re.fullmatch(r"Kept as (outputs/[0-9a-z_-]+\.png)\.", said)[1]
    with Image.open(path) as image:
        facts = [image.text[name] for name in ("prompt", "checkpoint", "seed", "index")]
        kept = list(image.resize((28, 28), Image.Resampling.NEAREST).tobytes())
    assert facts == [NASTY, "mnist-flow", "0", "3"] and kept == pixels(form)[2]
    third.click()
    says(form, "That is kept already.")
    form.get_by_role("button", name="Keep all").click()
    expect(form.locator(".pictures button.kept")).to_have_count(8)
    assert len(list(path.parent.iterdir())) == 8
    assert form.locator("img, b, strong").count() == 0 and "hacked" not in page.title()


def test_impatient_clicks_bring_one_more_drawing_and_each_model_its_own(form, page):
    choose(form, "mnist-style")
    expect(form.get_by_label("Guidance", exact=True)).to_be_hidden()
    choose(form, "mnist-flow")
    assert values(form, "Guidance", "Steps") == ["1.3", "50"]
    guided = draw(form, "a seven")
    fill(form, Guidance=0)
    assert draw(form) != guided
    fill(form, Steps=1000)  # takes long enough to click into it
    before, button = page.evaluate("seen"), form.get_by_role("button", name=DRAW)
    with drawing(form, "Drawn from seed 5.", times=2):
        button.click()
        expect(button).to_have_text("Drawing …")
        expect(form.locator(".pictures")).to_have_attribute("aria-busy", "true")
        fill(form, Seed=5)
        button.evaluate("button => { for (let k = 0; k < 4; k += 1) button.click(); }")
    page.wait_for_timeout(500)
    assert page.evaluate("seen") == before + 4 and button.inner_text().strip() == "Draw"
    choose(form, "shapes-cvae")
    with drawing(form):
        form.get_by_role("button", name="cross", exact=True).click()
    expect(form.get_by_label("Guidance", exact=True)).to_be_hidden()
    choose(form, "mnist-flow")


def test_the_keyboard_is_enough(form, page):
    focused = """() => { const e = document.activeElement;
        return (e.ariaLabel || e.labels?.[0]?.textContent || e.textContent).trim(); }"""
    form.get_by_label("Prompt").focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("a bold 5")
    for name in TAB_ORDER:
        assert page.evaluate(focused).partition(": ")[0] == name
        page.keyboard.press("Tab")
    form.get_by_role("button", name=DRAW).focus()
    with drawing(form, "Read as: five, thick"):
        page.keyboard.press("Space")
    form.get_by_role("button", name="Picture 2 of 8").focus()
    page.keyboard.press("Enter")
    says(form, "Kept as")
    assert page.evaluate(focused).endswith("a bold 5”; kept"), "the focus stays on the picture"
    form.get_by_label("Checkpoint").focus()
    for key, name in (("ArrowDown", "mnist-style"), ("ArrowUp", "mnist-flow")):
        page.keyboard.press(key)  # JupyterLab would go to another cell
        says(form, f"{name} draws from now on.")


def test_pictures_keep_their_place_and_come_within_400_ms(form, page, record_property):
    boxes = []
    for count in (1, 2, 5, 7, 13, 32, 16):
        fill(form, Pictures=count)
        assert len(draw(form, "a seven")) == count
        boxes.append(form.locator(".pictures").bounding_box())
        beside, left_over = form.locator(".pictures").evaluate(LAID_OUT)
        assert max(beside) <= 1 and set(left_over) == {0}, "centred, in whole pixels"
    assert all(box == boxes[0] for box in boxes)
    form.get_by_label("Lock").uncheck()  # other pictures with every click
    form.get_by_role("button", name=DRAW).evaluate(CLOCK)
    for _ in range(12):
        draw(form)
    times = sorted(page.evaluate("times"))
    record_property("click to 16 pictures, median", f"{times[len(times) // 2]:.0f} ms")
    assert len(times) > 10 and times[len(times) // 2] < 400


def test_the_plane_follows_the_pointer_at_15_pictures_a_second(form, page, record_property):
    square, sheet = page.locator(".prompt-point .pad"), page.locator(".pictures").last
    square.hover()
    page.mouse.down()
    sheet.evaluate(COUNT, "aria-label")
    rates = [0]
    while len(rates) < 12 and max(rates) < 15:
        rates.append(square.evaluate(DRAG))
    page.mouse.up()
    record_property("pictures while the point is dragged", f"{max(rates)} a second")
    assert max(rates) >= 15, rates
    page.get_by_role("slider", name="across").fill("0")
    page.keyboard.press("ArrowRight")
    expect(sheet).to_have_attribute("aria-label", re.compile("at 0.05 across"))
    faults = page.locator("[data-mime-type$='jupyter.error'], [data-mime-type$='jupyter.stderr']")
    assert faults.all_inner_texts() == []


def test_a_saved_form_without_its_kernel_says_what_to_do(form, page, browser):
    expect(page.locator(".prompt-note").first).to_be_hidden()
    page.locator("[data-jp-item-name=save]").first.click()
    page.wait_for_timeout(1000)
    page.evaluate(END_KERNELS)
    later = browser.new_context().new_page()
    later.goto(page.url)
    expect(later.locator(".prompt-note").first).to_be_visible(timeout=60_000)
    expect(later.get_by_text("Error displaying widget").first).to_be_hidden(timeout=60_000)
    expect(later.locator(".prompt-form")).to_have_count(0)
    later.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)  # before it is ended
    later.context.close()
