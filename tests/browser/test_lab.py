"""Notebook 9 in JupyterLab, opened by the README's command and used as a reader uses it.

One browser page runs through the whole file: each test finds the form as the one before left it.
"""

import contextlib
import math
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest
from PIL import Image
from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "outputs" / "browser"
DRAW = re.compile(r"Draw(ing …)?$")  # its icon, a letter of a font, stands before it
NOTEBOOK = "notebooks/09_interactive_sampling.ipynb"
LEFT_OUT = (".venv", ".git", "outputs", "runs", "__pycache__", ".pytest_cache", ".ruff_cache")
FIELDS = ("Prompt", "Pictures", "Seed", "Temperature")
TAB_ORDER = [
    "Prompt", "Draw", "a seven", "a thick 3 leaning left", "what does five look like?", "a tiny 8",
    "Pictures", "Seed", "Dice", "Lock", "Temperature", "Checkpoint",
]  # fmt: skip
NASTY = "<img src=x onerror=\"document.title='hacked'\"> **bold** seven"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the working tree under an awkward name, so that nothing here is changed."""
    folder = tmp_path_factory.mktemp("lab") / "Grüße, aus der Schublade"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    path = folder / NOTEBOOK
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)
    return folder


@pytest.fixture(scope="module")
def lab(clone, browser):
    """The address of JupyterLab, started by `make lab` in the copy with this environment."""
    port = free_port()
    options = f"--port {port} --ServerApp.port_retries=0 --IdentityProvider.token= --no-browser"
    settings = clone.parent / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)  # cells that are out of sight stay on the page, to be looked at
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    environment = os.environ | {
        "PYTHONPATH": str(clone),
        "JUPYTER_CONFIG_DIR": str(clone.parent / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(clone.parent / "settings"),
    }
    with (clone.parent / "lab.log").open("w+") as log:
        server = subprocess.Popen(
            ["make", "-o", "install", "lab", f"VENV={sys.prefix}", f"LAB={options}"],
            cwd=clone, stdout=log, stderr=log, env=environment, start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address, server, log)
            yield address
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def wait_for(address, server, log, seconds=90):
    """Wait until a server answers; show its log if it does not."""
    for _ in range(seconds * 5):
        try:
            urlopen(f"{address}/api", timeout=5).close()
            return
        except (URLError, ConnectionError, TimeoutError):
            if server.poll() is not None:
                break
            time.sleep(0.2)
    log.seek(0)
    raise AssertionError(f"JupyterLab does not answer:\n{log.read()}")


@pytest.fixture(scope="module")
def page(lab, shared_page):
    """Notebook 9, run from top to bottom; the page is closed before JupyterLab is stopped."""
    page = shared_page
    page.goto(f"{lab}/lab/tree/{NOTEBOOK}")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-Notebook .jp-CodeCell").last
    done = re.compile(r"\[\d+\]:")
    expect(last.locator(".jp-InputPrompt")).to_have_text(done, timeout=180_000)
    return page


@pytest.fixture(scope="module")
def form(page):
    """The form of section 3."""
    form = page.locator(".widget-vbox").filter(has=page.get_by_role("button", name="Dice")).last
    form.scroll_into_view_if_needed()
    form.locator(".pictures").evaluate("""sheet => {
        window.finished = 0;
        const watch = new MutationObserver((records) => records.forEach((record) => {
            if (record.oldValue === "true") window.finished += 1;
        }));
        watch.observe(sheet, {attributeFilter: ["aria-busy"], attributeOldValue: true});
    }""")
    return form


def status(form):
    return form.get_by_role("status").inner_text()


def set_number(form, name, value):
    form.get_by_label(name, exact=True).fill(str(value))
    form.get_by_label(name, exact=True).press("Tab")


def pixels(form):
    """What the page shows: the bytes of every picture."""
    return form.locator(".pictures canvas").evaluate_all(
        "all => all.map(c => c.getContext('2d').getImageData(0, 0, 28, 28).data.join())"
    )


@contextlib.contextmanager
def drawing(form, words="Drawn from seed"):
    """Wait at the end until a drawing asked for inside is done and the status line says so."""
    before = form.page.evaluate("finished")
    yield
    form.page.wait_for_function("before => finished > before", arg=before)
    expect(form.get_by_role("status")).to_contain_text(words)


def press_draw(form, words="Drawn from seed"):
    with drawing(form, words):
        form.get_by_role("button", name=DRAW).click()
    return pixels(form)


def draw(form, prompt, words="Drawn from seed"):
    form.get_by_label("Prompt").fill(prompt)
    return press_draw(form, words)


def focused(page):
    """The name of the element that the keyboard acts on."""
    return page.evaluate("""() => {
        const e = document.activeElement;
        return (e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent).trim();
    }""")


def test_every_cell_ran(page):
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert len(prompts) > 30 and all(re.fullmatch(r"\[\d+\]:", text.strip()) for text in prompts)


def test_a_typed_prompt_is_drawn(form):
    before = pixels(form)
    after = draw(form, "a thick 3 leaning left")
    assert status(form) == "Drawn from seed 0. Read as: three, thick, leaning left."
    assert len(after) == len(before) == 8 and after != before
    assert len(set(after)) == 8, "eight different threes"


def test_the_seed_decides(form):
    first = press_draw(form)
    set_number(form, "Seed", 7)
    second = press_draw(form, "Drawn from seed 7.")
    set_number(form, "Seed", 0)
    assert second != first and press_draw(form, "Drawn from seed 0.") == first


def test_an_empty_prompt_is_explained_and_leaves_the_pictures(form):
    before = pixels(form)
    assert draw(form, "   ", "The prompt is empty") == before


def test_a_prompt_about_a_cat_is_drawn_and_doubted(form):
    before = pixels(form)
    after = draw(form, "draw a cat", "This does not read like one digit; the nearest I know is")
    assert after != before


def test_enter_draws_and_leaving_the_box_does_not(form, page):
    before = page.evaluate("finished")
    form.get_by_label("Prompt").fill("an eight")
    form.get_by_label("Prompt").blur()
    page.wait_for_timeout(500)
    assert page.evaluate("finished") == before
    form.get_by_label("Prompt").press("ControlOrMeta+a")
    page.keyboard.type("a nine")  # Enter follows at once, before the last letters have arrived
    with drawing(form, "Read as: nine"):
        page.keyboard.press("Enter")


def test_an_example_is_typed_and_drawn(form):
    with drawing(form, "Read as: eight, small"):
        form.get_by_role("button", name="a tiny 8", exact=True).click()
    assert form.get_by_label("Prompt").input_value() == "a tiny 8"


def test_history_brings_back_prompt_seed_and_settings(form):
    set_number(form, "Seed", 3)
    set_number(form, "Pictures", 5)
    set_number(form, "Temperature", 0.5)
    five = draw(form, "a wide 5", "Drawn from seed 3.")
    set_number(form, "Seed", 0)
    set_number(form, "Pictures", 8)
    set_number(form, "Temperature", 1)
    draw(form, "a six", "Read as: six")
    with drawing(form, "Drawn from seed 3."):
        form.get_by_role("button", name="3 · a wide 5").click()
    values = [form.get_by_label(n, exact=True).input_value() for n in FIELDS]
    assert values == ["a wide 5", "5", "3", "0.5"] and pixels(form) == five
    set_number(form, "Pictures", 8)
    set_number(form, "Temperature", 1)


def test_dice_and_lock(form):
    seed = form.get_by_label("Seed", exact=True)
    set_number(form, "Seed", 0)
    press_draw(form, "Drawn from seed 0.")
    assert seed.input_value() == "0", "locked, Draw keeps the seed"
    with drawing(form):
        form.get_by_role("button", name="Dice").click()
    rolled = seed.input_value()
    assert rolled != "0" and status(form).startswith(f"Drawn from seed {rolled}.")
    form.get_by_label("Lock").uncheck()
    press_draw(form)
    assert seed.input_value() != rolled
    assert status(form).startswith(f"Drawn from seed {seed.input_value()}.")
    set_number(form, "Seed", 0)
    expect(form.get_by_label("Lock")).to_be_checked()


def test_a_click_on_a_picture_keeps_it(form, clone):
    draw(form, "a \"bold\" 2: two/2", "Read as: two")
    third = form.get_by_role("button", name="Picture 3 of 8")
    third.click()
    expect(form.get_by_role("status")).to_contain_text("Kept as")
    path = clone / re.fullmatch(r"Kept as (outputs/[0-9a-z_-]+\.png)\.", status(form))[1]
    with Image.open(path) as image:
        facts = image.text
        kept = list(image.resize((28, 28), Image.Resampling.NEAREST).tobytes())
    assert facts["prompt"] == "a \"bold\" 2: two/2" and facts["checkpoint"] == "mnist-style"
    assert (facts["seed"], facts["index"], facts["temperature"]) == ("0", "3", "1.0")
    assert kept == [int(x) for x in pixels(form)[2].split(",")[::4]], "the picture on the page"
    expect(third).to_have_attribute("title", "kept")
    third.click()
    expect(form.get_by_role("status")).to_have_text("That is kept already.")
    form.get_by_role("button", name="Keep all").click()
    expect(form.locator(".pictures button.kept")).to_have_count(8)
    assert len(list(path.parent.iterdir())) == 8


def test_text_stays_text(form, page):
    title = page.title()
    draw(form, NASTY)
    expect(form.get_by_role("button", name=f"0 · {NASTY}", exact=True)).to_be_visible()
    assert form.locator("img, b, strong").count() == 0
    form.get_by_role("button", name="Picture 1 of 8").click()
    expect(form.get_by_role("status")).to_contain_text("_img-src-x-onerror-document-title-hacked_")
    assert page.title() == title and "hacked" not in title


def test_pictures_keep_their_place_and_their_size(form):
    draw(form, "a seven")
    sheet, first = form.locator(".pictures"), form.locator(".pictures canvas").first
    first.evaluate("canvas => { canvas.before = true; }")
    boxes = []
    for count in (1, 2, 8, 16, 31, 32, 8):
        set_number(form, "Pictures", count)
        assert len(press_draw(form)) == count
        boxes.append(sheet.bounding_box())
        canvas = form.locator(".pictures canvas").last.bounding_box()
        assert canvas["width"] == canvas["height"] >= 56
        assert canvas["y"] + canvas["height"] <= boxes[-1]["y"] + boxes[-1]["height"]
        assert canvas["x"] + canvas["width"] <= boxes[-1]["x"] + boxes[-1]["width"]
    assert len({(box["width"], box["height"]) for box in boxes}) == 1
    assert first.evaluate("canvas => canvas.before"), "painted over, not made anew"


def test_guidance_and_steps_come_with_the_flow(form):
    expect(form.get_by_label("Guidance")).to_be_hidden()
    form.get_by_label("Checkpoint").select_option("mnist-flow")
    expect(form.get_by_role("status")).to_have_text("mnist-flow draws from now on.")
    expect(form.get_by_label("Guidance")).to_have_value("1.3")
    guided = draw(form, "a seven")
    set_number(form, "Guidance", 0)
    assert press_draw(form) != guided
    set_number(form, "Guidance", 1.3)
    expect(form.get_by_label("Steps")).to_have_value("50")


def test_impatient_clicks_bring_one_more_drawing(form, page):
    """With 1,000 steps a drawing takes long enough to click into it."""
    set_number(form, "Steps", 1000)
    set_number(form, "Pictures", 32)
    before, button = page.evaluate("finished"), form.get_by_role("button", name=DRAW)
    button.click()
    expect(button).to_have_text("Drawing …", timeout=5000)
    expect(form.locator(".pictures")).to_have_attribute("aria-busy", "true")
    set_number(form, "Seed", 5)
    button.evaluate("button => { for (let k = 0; k < 4; k += 1) button.click(); }")
    expect(form.get_by_role("status")).to_contain_text("Drawn from seed 5.", timeout=30_000)
    page.wait_for_timeout(2000)
    assert page.evaluate("finished") == before + 2 and button.inner_text().strip() == "Draw"
    set_number(form, "Pictures", 8)
    set_number(form, "Seed", 0)


def test_a_model_of_letters_offers_its_own_examples(form):
    form.get_by_label("Checkpoint").select_option("shapes-cvae")
    with drawing(form):
        form.get_by_role("button", name="cross", exact=True).click()
    expect(form.get_by_label("Steps")).to_be_hidden()
    draw(form, "a cat on a mat", "This is none of the nine prompts")


def test_a_checkpoint_that_does_not_load_is_explained(form, clone):
    path = clone / "checkpoints" / "mnist-cvae.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    form.get_by_label("Checkpoint").select_option("mnist-cvae")
    expect(form.get_by_role("status")).to_contain_text("is damaged or truncated")
    expect(form.get_by_label("Checkpoint")).to_have_value("shapes-cvae")
    path.write_bytes(whole)
    form.get_by_label("Checkpoint").select_option("mnist-cvae")
    expect(form.get_by_role("status")).to_have_text("mnist-cvae draws from now on.")
    form.get_by_label("Checkpoint").select_option("mnist-style")


def test_the_keyboard_is_enough(form, page):
    set_number(form, "Pictures", 2)
    form.get_by_label("Prompt").focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("a bold 5")
    names = []
    for _ in range(len(TAB_ORDER)):
        names.append(focused(page))
        page.keyboard.press("Tab")
    assert [re.sub(r": .*", "", name) for name in names] == TAB_ORDER
    form.get_by_label("Prompt").focus()
    page.keyboard.press("Tab")
    with drawing(form, "Read as: five, thick"):
        page.keyboard.press("Space")
    form.get_by_role("button", name="Picture 2 of 2").focus()
    page.keyboard.press("Enter")
    expect(form.get_by_role("status")).to_contain_text("Kept as")
    assert focused(page).endswith("a bold 5”; kept"), "the focus stays on the picture"
    form.get_by_label("Checkpoint").focus()
    page.keyboard.press("ArrowUp")  # JupyterLab would go to the cell above
    expect(form.get_by_role("status")).to_have_text("mnist-flow draws from now on.")
    page.keyboard.press("ArrowDown")
    expect(form.get_by_role("status")).to_have_text("mnist-style draws from now on.")
    set_number(form, "Pictures", 8)


def test_every_control_has_a_name(form):
    for element in form.locator("button, input, select").all():
        if element.is_visible():
            name = element.evaluate(
                "e => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent"
            )
            assert name.strip(), element.evaluate("e => e.outerHTML")


def test_from_click_to_pictures(form, page, record_property):
    """In the browser's own clock, from the click to the frame after the pictures are painted."""
    set_number(form, "Pictures", 16)
    press_draw(form)
    form.evaluate("""form => {
        const draw = [...form.querySelectorAll("button")].find(
            (button) => /Draw$/.test(button.textContent.trim()));
        const line = form.querySelector("[role=status]");
        let clicked = null;
        window.milliseconds = [];
        draw.addEventListener("click", () => { clicked = performance.now(); }, true);
        new MutationObserver(() => {
            if (clicked === null || !/^Drawn/.test(line.textContent)) return;
            const start = clicked;
            clicked = null;
            requestAnimationFrame(() => window.milliseconds.push(performance.now() - start));
        }).observe(line, {childList: true});
    }""")
    for seed in range(1, 22):
        set_number(form, "Seed", seed)
        press_draw(form, f"Drawn from seed {seed}.")
    page.wait_for_timeout(200)
    measured = page.evaluate("milliseconds")
    median = statistics.median(measured)
    record_property("click to 16 pictures, median of 21", f"{median:.0f} ms")
    assert len(measured) == 21 and median < 400
    set_number(form, "Pictures", 8)


def test_the_plane_follows_the_pointer(page, record_property):
    square, sheet = page.locator(".prompt-point .pad"), page.locator(".pictures").last
    square.scroll_into_view_if_needed()
    rates = []
    for _ in range(3):
        rates.append(drag_in_a_circle(page, square, sheet, seconds=3))
        if rates[-1] >= 15:
            break
    record_property("pictures while the point is dragged", f"{max(rates):.0f} a second")
    assert max(rates) >= 15
    slider = page.get_by_role("slider", name="across")
    slider.fill("0")
    expect(sheet).to_have_attribute("aria-label", re.compile("at 0.00 across"))
    slider.press("ArrowRight")
    expect(sheet).to_have_attribute("aria-label", re.compile("at 0.05 across"))


def drag_in_a_circle(page, square, sheet, seconds):
    """Drag the point round and count the pictures that are painted in a second."""
    sheet.evaluate("""sheet => {
        window.shown = 0;
        new MutationObserver(() => { window.shown += 1; })
            .observe(sheet, {attributes: true, attributeFilter: ["aria-label"]});
    }""")
    box = square.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        page.mouse.move(x + 80 * math.cos(2 * passed), y + 80 * math.sin(2 * passed))
    rate = page.evaluate("shown") / passed
    page.mouse.up()
    return rate


def test_pictures_of_both_are_kept(form, page):
    """They stand in the notebook, for those who read it without running it."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    set_number(form, "Seed", 0)
    for prompt in ("a tiny 8", "draw a cat", "nine", "a thick 7 leaning right"):
        draw(form, prompt, "Read as")
    draw(form, "Can you show me what five looks like?")
    form.get_by_role("button", name="Picture 2 of 8").click()
    expect(form.locator(".pictures button.kept")).to_have_count(1)
    page.mouse.move(0, 0)
    form.screenshot(path=SHOTS / "form.png")
    for name, value in (("across", "1.2"), ("up", "1.5")):
        page.get_by_role("slider", name=name).fill(value)
    expect(page.locator(".pictures").last).to_have_attribute(
        "aria-label", re.compile("at 1.20 across, 1.50 up")
    )
    page.locator(".prompt-point").locator("..").screenshot(path=SHOTS / "plane.png")


def test_it_opens_among_the_notebooks_and_their_links_lead_on(page, lab):
    """The last test: it leaves notebook 9 and goes from page to page by links alone."""
    page.goto(f"{lab}/?reset")
    page.locator(".jp-DirListing-item", has_text="02_reading_characters").dblclick()
    for here, link, there in (
        ("02_reading_characters.ipynb", "anagram", "glossary.md"),
        ("02_reading_characters.ipynb", "1 · Drawing shapes", "01_drawing_shapes.ipynb"),
        ("01_drawing_shapes.ipynb", "README", "README.md"),
    ):
        page.get_by_role("tab", name=here).click()
        page.locator(".jp-RenderedMarkdown a:visible", has_text=link).first.click()
        page.get_by_role("tab", name=there).wait_for()
