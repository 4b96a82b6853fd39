"""The book, built without a warning: every notebook as a page with its stored outputs, in a
browser, as wide as a laptop and as a telephone."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urldefrag

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/**/[0-9]*.ipynb"))
FAULTS = Path(__file__).with_name("page_faults.js").read_text(encoding="utf-8")


def build(folder):
    """Begin to build the book in a folder."""
    return subprocess.Popen(
        [sys.executable, folder / "notebooks" / "book" / "build.py"], start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def building(browser, clone):
    """The builder of the whole book, at work while other things are tried."""
    return build(clone)


@pytest.fixture(scope="module")
def book(clone, building, serve):
    """The folder of the built pages and their address."""
    said = building.communicate(timeout=120)[0]
    assert building.returncode == 0, said
    return clone / "_build" / "html", serve(clone / "_build" / "html")


def look(page):
    """List what is wrong with the page that is open, first wide, then narrow."""
    faults = []
    for width in (1366, 390):
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_function("width => innerWidth === width", arg=width)
        faults += [f"{width} px: {fault}" for fault in page.evaluate(FAULTS)]
    return faults


BAD = {
    '<img src="nowhere.png" alt="A hero">': "1366 px: broken picture: <img> http",
    '<img src="data:image/svg+xml,<svg xmlns=\'http://www.w3.org/2000/svg\'/>">':
        "1366 px: picture without a text: <img> data",
    f"<pre class=cell>{'0123456789' * 12}</pre>": "1366 px: needs scrolling sideways: <pre>",
    '<div style="overflow: hidden"><p style="width: 500px">cut</p></div>': "390 px: cut off: <div>",
    "<table><tr><td style='max-width: 200px'>" + "long " * 20: "390 px: table cell too narrow",
    "<pre class=cell>1</pre>": "1366 px: code without a button to copy it: <pre> 1",
    "<math></math>": "1366 px: formula not set: <math>",
    "<pre class=printed><i class=err>?</i></pre>": "1366 px: code not read: <i> ?",
    "<p>a $ alone</p>": "1366 px: formula left as typed: <p> a $ alone",
    "<p>**bold**</p>": "1366 px: Markdown left as typed: <p> **bold**",
    "<h4>Too deep</h4>": "1366 px: heading out of order: <h4> Too deep",
    "<h1>A second title</h1>": "1366 px: heading out of order: <h1> A second title",
    '<a href="#nowhere">up</a>': "1366 px: anchor that leads nowhere: <a> #nowhere",
    '<p id="a"></p><p id="a"></p>': "1366 px: id used twice",
    "<div class=outputs><p> </p></div>": "1366 px: empty output: <p>",
    "<div class=outputs><p>Box(children=())</p></div>": "1366 px: widget that does not show: <p>",
    '<p style="width: 500px">wide</p>': "390 px: reaches too far: <p> wide",
    "<i></i>": "390 px: the page is 516 px wide, the window 390",
    "<style>#sections {display: none}</style>": "1366 px: it does not show what is on this page",
}
DEEDS = {
    "console.error('on fire')": "console: on fire",
    "setTimeout(() => { throw Error('thrown') })": "error in the page: thrown",
    "fetch('http://example.org/').catch(() => 0)": "request to elsewhere: http://example.org/",
    "new WebSocket('ws://example.org/')": "request to elsewhere: ws://example.org/",
    "fetch('http://127.0.0.1:9/').catch(() => 0)": "request failed: http://127.0.0.1:9/",
}


def test_every_fault_of_a_page_is_seen(page, book):
    page.goto(book[1] + "glossary.html")
    page.evaluate("""all => all.forEach(
        one => document.querySelector("main").insertAdjacentHTML("beforeend", one))""", [*BAD])
    seen = look(page)
    page.evaluate(f"() => {{ {'; '.join(DEEDS)} }}")
    page.wait_for_timeout(300)
    seen += page.complaints
    page.complaints.clear()
    for fault in (*BAD.values(), *DEEDS.values(), "console: Failed"):
        assert any(line.startswith(fault) for line in seen), (fault, seen)


BOOKS = [  # two that the theme refuses, one that Jupyter Book refuses, one that both do
    {"[x](nowhere.md)": "notebooks/page.md: nowhere.md leads nowhere"},
    {"![A picture](ELSEWHERE/01_thumb.png)": "01_thumb.png would be fetched from elsewhere"},
    {"[x](glossary.md#nowhere)": "⚠️  notebooks/page.md:3 Cross reference target was not found",
     "![A picture](nowhere.png)": "⛔️ notebooks/page.md:5 Cannot find image"},
    {"{nowhere}`x`": "⛔️ notebooks/page.md:3 unknown role: nowhere",
     r"$\frobnicate$": "⛔️ notebooks/page.md:5 Undefined control sequence"},
]


def test_a_book_with_a_fault_is_refused(serve, tmp_path):
    """A small one: same configuration, theme and builder."""
    shutil.copytree(ROOT / "notebooks" / "book", tmp_path / "notebooks" / "book")
    config = (ROOT / "myst.yml").read_text(encoding="utf-8").partition("  toc:")[0]
    files = "  toc:\n    - file: notebooks/glossary.md\n    - file: notebooks/page.md\n"
    (tmp_path / "myst.yml").write_text(f"{config}{files}site:\n  template: notebooks/book/theme\n")
    (tmp_path / "notebooks" / "glossary.md").write_text("# Glossary\n\n## logits\n\nNumbers.\n")
    elsewhere = serve(ROOT / "notebooks" / "figures")
    html, left = tmp_path / "_build" / "html", tmp_path / "_build" / "html.new" / "left.html"
    for file in (html / "index.html", left):
        file.parent.mkdir(parents=True)
        file.write_text("the old book")
    for faults in BOOKS:
        text = "\n\n".join(["# A page", *faults]).replace("ELSEWHERE/", elsewhere)
        (tmp_path / "notebooks" / "page.md").write_text(text)
        process = build(tmp_path)
        said = process.communicate(timeout=120)[0]
        assert process.returncode and all(sign in said for sign in faults.values()), said
        assert [file.read_text() for file in html.iterdir()] == ["the old book"]
    killed = build(tmp_path)
    time.sleep(0.5)
    os.killpg(killed.pid, signal.SIGKILL)
    assert [file.read_text() for file in html.iterdir()] == ["the old book"]
    (tmp_path / "notebooks" / "page.md").write_text("# A page")
    assert build(tmp_path).wait(120) == 0 and "Numbers." in (html / "index.html").read_text()
    assert not (html / "left.html").exists() and {*html.parent.glob("html*")} == {html}


def test_every_page_of_the_book_is_whole_and_every_link_leads_to_a_place(page, book):
    (html, address), faults, links, anchors = book, [], set(), {}
    outputs = {path.stem: sum(len(cell.get("outputs", [])) for cell in nbformat.read(path, 4).cells)
               for path in NOTEBOOKS}
    for path in html.rglob("*.html"):
        page.goto(address + path.relative_to(html).as_posix())
        faults += [f"{path.stem}: {fault}" for fault in look(page)]
        links |= {*page.eval_on_selector_all("a[href]", "all => all.map(link => link.href)")}
        anchors[page.url] = page.eval_on_selector_all("[id]", "all => all.map(node => node.id)")
        shown, stored = page.locator(".outputs > *").count(), outputs.pop(path.stem, 0)
        faults += [f"{path.stem}: {shown} outputs, {stored} stored"] * (shown != stored)
    for link, anchor in map(urldefrag, links):
        here = link.startswith(address) and html / link.removeprefix(address)
        if here and not (here.is_file() and anchor in ["", *anchors.get(link, [anchor])]):
            faults.append(f"{link}#{anchor} leads nowhere")
    assert len(anchors) > 28 and not outputs and len(links) > 300 and not faults, "\n".join(faults)


def test_code_is_copied_with_the_keyboard_and_said_to_be(page, book):
    page.context.grant_permissions(["clipboard-read"])
    page.goto(book[1] + "01_drawing_shapes.html")
    page.locator("pre.cell").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("[role=status]", has_text="Copied").wait_for()
    code = next(c for c in nbformat.read(NOTEBOOKS[0], 4).cells if c.cell_type == "code")
    assert page.evaluate("navigator.clipboard.readText()") == code.source


def test_search_menu_and_theme_of_the_book(page, book):
    text = (ROOT / "notebooks" / "glossary.md").read_text(encoding="utf-8")
    asked = {entry: entry for entry in re.findall("^## (.+)$", text, re.MULTILINE)}
    asked |= {"latent": "latent z", "KL divergence": "KL", "Prompts": "prompt"}
    for origin in book[1], book[0].as_uri() + "/":  # search needs no server
        page.goto(origin + "solutions/03_solutions.html")
        page.keyboard.press("/")
        page.fill("dialog input", "xylophone")
        page.wait_for_selector("#count >> text=Nothing found")
        for typed, entry in asked.items():  # its definition comes first
            page.fill("dialog input", typed)
            assert page.inner_text("#hits strong >> nth=0") == f"Glossary › {entry}"
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "solutions/03" not in url)
    page.set_viewport_size({"width": 390, "height": 900})
    page.goto(book[1])
    assert not page.is_visible("#contents")
    page.click("#menu")
    page.click("#contents a >> text=A latent flow")
    page.wait_for_url("**/13_latent_flow.html")
    theme = "document.documentElement.dataset.theme"
    for scheme in ("dark", "light"):  # as the system has it, until the reader chooses
        page.emulate_media(color_scheme=scheme)
        page.goto(book[1] + "10_interactive_sampling.html")
        assert page.evaluate(theme) == scheme
    page.click("#theme")
    page.click(".neighbours .next")
    page.wait_for_url("**/11_*.html")
    assert page.evaluate(theme) == "dark"


def test_a_notebook_opened_and_saved_is_the_same_to_the_byte(clone, page):
    path, log = clone / "notebooks" / "02_reading_characters.ipynb", clone.parent / "lab.log"
    text = path.read_text(encoding="utf-8").replace('"version": "3.', '"version": "3.1')
    path.write_text(text, encoding="utf-8")  # as another Python has run it
    settings = {"PYTHONPATH": str(clone), "JUPYTER_CONFIG_DIR": str(clone.parent / "config")}
    server = subprocess.Popen(
        ["make", "-o", "install", "lab", f"VENV={sys.prefix}",
         "LAB=--port 18887 --IdentityProvider.token= --no-browser"],
        cwd=clone, stdout=log.open("w"), stderr=subprocess.STDOUT, env=os.environ | settings)
    try:
        while not (address := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())):
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        page.goto(f"{address[0]}lab/tree/notebooks/{path.name}")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
        with page.expect_response(lambda it: it.request.method == "PUT" and path.name in it.url):
            page.keyboard.press("ControlOrMeta+s")
    finally:
        page.goto("about:blank")
        server.terminate()
        server.wait(30)
    assert path.read_text(encoding="utf-8") == text
