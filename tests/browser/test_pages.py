"""Every notebook as a page that nbconvert makes of its outputs, and the book, built without a
warning: in a browser, as wide as a desk and as a telephone."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import jupyter_server_mathjax
import nbconvert.exporters.html
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/**/[0-9]*.ipynb"))
FAULTS = Path(__file__).with_name("page_faults.js").read_text(encoding="utf-8")
# The packaged MathJax has one font, which it must be told. Its fallbacks ask for files that are not
# in the package: assistive MathML for another font, and a blank one at an address Chromium refuses.
# nbconvert's template cuts long lines of code off; JupyterLab and GitHub let them scroll.
HEAD = """<head><script>window.MathJax = {menuSettings: {assistiveMML: false}, "HTML-CSS": {
  availableFonts: [], webFont: "STIX-Web", styles: {"@font-face": {src: "local(none)"}}}};
</script><style>main .jp-InputArea-editor .highlight {overflow-x: auto}</style>"""
# Instead of BeautifulSoup, with which nbconvert spends most of its time on attributes.
AsItIs = type("AsItIs", (str,), {"select": lambda *_: []})


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


def look(page, formulas=None):
    """List what is wrong with the page that is open, first wide, then narrow."""
    faults = []
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_function("width => innerWidth === width", arg=width)
        faults += [f"{width} px: {fault}" for fault in page.evaluate(FAULTS, formulas)]
    return faults


@pytest.fixture(scope="module")
def publish(tmp_path_factory, serve, page):
    """A function that makes a page of a notebook and lists what is wrong with it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "favicon.ico").touch()
    (folder / "notebooks" / "solutions").mkdir(parents=True)
    (folder / "notebooks" / "figures").symlink_to(ROOT / "notebooks" / "figures")
    (folder / "mathjax").symlink_to(Path(jupyter_server_mathjax.__file__).parent / "static")
    origin = serve(folder)
    exporter = nbconvert.exporters.html.HTMLExporter(
        mathjax_url="/mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe",
        require_js_url="", mermaid_js_url="")
    exporter.register_filter("clean_html", lambda code: code)  # nbconvert itself has coloured it

    def publish(notebook, name):
        html = exporter.from_notebook_node(notebook)[0].replace("<head>", HEAD, 1)
        (folder / "notebooks" / f"{name}.html").write_text(html, encoding="utf-8")
        text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        text = re.sub(r"^ *(```|~~~).*?^ *\1 *$|(`+).*?\2", "", text, flags=re.M | re.S)  # no code
        page.set_viewport_size({"width": 1280, "height": 1000})
        page.goto(f"{origin}notebooks/{name}.html")
        page.evaluate("() => new Promise(done => MathJax.Hub.Queue(done))")
        links = page.eval_on_selector_all("main a[href]", "links => links.map(a => a.href)")
        places = [unquote(urlsplit(link).path)[1:] for link in links if link.startswith(origin)]
        lost = [p for p in places if not p.endswith(".html") and not (ROOT / p).exists()]
        faults = [f"link that leads nowhere: {place}" for place in lost]
        return faults + look(page, len(re.findall(r"\$\$?[^$]+\$\$?", text)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nbconvert.exporters.html, "BeautifulSoup", lambda html, **_: AsItIs(html))
        yield publish


def test_every_notebook_is_a_whole_page(publish):
    faults = []
    for path in NOTEBOOKS:
        name = path.relative_to(ROOT / "notebooks").with_suffix("").as_posix()
        faults += [f"{name}: {it}" for it in publish(nbformat.read(path, as_version=4), name)]
    assert len(NOTEBOOKS) > 20 and not faults, "\n".join(faults)


BAD = {
    "[next](99_nowhere.ipynb)": "link that leads nowhere: notebooks/99_nowhere.ipynb",
    "![A hero](figures/nowhere.png)": "1280 px: broken picture: <img> http",
    "![](figures/01_hero.png)": "1280 px: picture without a text: <img> http",
    "<table width=2000><tr><td>wide</td></tr></table>": "1280 px: needs scrolling sideways",
    "```\nprompt" + " → reader" * 20 + "\n```": "1280 px: wraps its lines: <pre>",
    r"$\frac{1$": r"1280 px: formula with a fault: <span> \frac{1",
    r"$\frobnicate$": r"1280 px: formula with a fault: <span> \frobnicate",
    "a $ alone": "1280 px: formula left as typed: <p> a $ alone",
    "<p>**bold**</p>": "1280 px: Markdown left as typed: <p> **bold**",
    "### Too deep": "1280 px: heading out of order: <h3> Too deep",
    "# A second title": "1280 px: heading out of order: <h1> A second title",
    "[up](#nowhere)": "1280 px: anchor that leads nowhere: <a> #nowhere",
    "Error displaying widget": "1280 px: widget that does not show: <div> Error displaying",
    '<p id="a"></p><p id="a"></p>': "1280 px: id used twice",
    '<div style="overflow: hidden"><p style="width: 500px">cut</p></div>': "390 px: cut off: <div>",
}
OUTPUTS = {
    " ": "1280 px: empty output: <div>",
    "VBox(children=(Text(value='a'),))": "1280 px: widget that does not show: <div> VBox",
}
DEEDS = {
    "console.error('on fire')": "console: on fire",
    "setTimeout(() => { throw Error('thrown') })": "error in the page: thrown",
    "fetch('http://example.org/').catch(() => 0)": "request to elsewhere: http://example.org/",
    "new WebSocket('ws://example.org/')": "request to elsewhere: ws://example.org/",
    "fetch('http://127.0.0.1:9/').catch(() => 0)": "request failed: http://127.0.0.1:9/",
}


def a_page(*markdown, outputs=()):
    cells = [new_markdown_cell(text) for text in ("# A page", *markdown)]
    code = "print('a line of code that a telephone has to scroll, because it is rather long')"
    for text in outputs:
        output = new_output("display_data", {"text/plain": text})
        cells.append(new_code_cell(code, outputs=[output]))
    return new_notebook(cells=cells)


def unseen(wanted, seen):
    return [want for want in wanted if not any(line.startswith(want) for line in seen)]


def test_every_fault_of_a_page_is_seen_and_nothing_else(publish, page):
    picture = "![A hero](figures/01_hero.png) and $x^2$, [on](02_reading_characters.ipynb)"
    table = "## A part\n\n| a | b |\n|---|---|\n| **c** | `$d` |\n\n```\na → b\n```"
    assert publish(a_page(picture, table, outputs=["a line"]), "good") == []
    far = '<style>* {overflow: visible !important}</style>\n<p style="width: 500px">wide</p>'
    faults, wanted = publish(a_page(far, r"\\(x\\)"), "far"), ["390 px: the page is 528 px"]
    wanted += ["390 px: reaches too far: <p>", "1280 px: 1 formulas rendered, 0 in the notebook"]
    assert not unseen(wanted, faults) and len(faults) == 4, faults
    faults, wanted = publish(a_page(*BAD, outputs=OUTPUTS), "bad"), (BAD | OUTPUTS).values()
    assert not unseen(wanted, faults), (unseen(wanted, faults), faults)
    assert sum(not fault.startswith("390 px") for fault in faults) == len(wanted) - 1, faults
    page.evaluate(f"() => {{ {'; '.join(DEEDS)} }}")
    page.wait_for_timeout(300)
    assert not unseen(["console: Failed", *DEEDS.values()], page.complaints), page.complaints
    page.complaints.clear()


BOOKS = [  # two that the theme refuses, one that Jupyter Book refuses, one that both do
    {"[x](nowhere.md)": "notebooks/page.md: nowhere.md leads nowhere"},
    {"![A picture](ELSEWHERE/01_hero.png)": "01_hero.png would be fetched from elsewhere"},
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
    (html, address), faults, links, anchors = book, [], [], {}
    names = [path.relative_to(html).as_posix() for path in html.rglob("*.html")]
    for name in names:
        page.goto(address + name)
        faults += [f"{name}: {fault}" for fault in look(page)]
        found = page.eval_on_selector_all("a[href]", "all => all.map(link => link.href)")
        links += [(name, *urldefrag(link)) for link in found if link.startswith(address)]
        ids = page.eval_on_selector_all("[id]", "all => all.map(node => node.id)")
        anchors[address + name] = ["", *ids]
    for name, link, anchor in links:
        place = html / link.removeprefix(address)
        if not place.is_file() or anchor not in anchors.get(link, [anchor]):
            faults.append(f"{name}: {link}#{anchor} leads nowhere")
    assert len(links) > 500 and not faults, "\n".join(faults)
    assert {"index.html", "glossary.html", "bibliography.html"} <= set(names)
    for path in NOTEBOOKS:
        page.goto(address + path.relative_to(ROOT / "notebooks").with_suffix(".html").as_posix())
        stored = [o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", [])]
        assert page.locator(".outputs > *").count() == len(stored) > 0, path


FIRST = """words => words.map(word => {
  const box = document.querySelector("dialog input");
  box.value = word;
  box.dispatchEvent(new Event("input"));
  return document.querySelector("#hits strong")?.textContent;
})"""


def test_search_ranks_the_definition_of_a_word_first(page, book):
    text = (book[0].parents[1] / "notebooks" / "glossary.md").read_text(encoding="utf-8")
    asked = {entry: entry for entry in re.findall("^## (.+)$", text, re.MULTILINE)}
    asked |= {"latent": "latent z", "KL divergence": "KL", "Prompts": "prompt"}
    page.goto(book[1])
    page.keyboard.press("/")
    page.wait_for_function("window.bookRecords")
    found = page.evaluate(FIRST, list(asked))
    assert found == [f"Glossary › {entry}" for entry in asked.values()] and len(found) > 50


def test_code_is_copied_with_the_keyboard_and_said_to_be(page, book):
    page.context.grant_permissions(["clipboard-read"])
    page.goto(book[1] + "01_drawing_shapes.html")
    page.locator("pre.cell").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("[role=status]", has_text="Copied").wait_for()
    code = next(c for c in nbformat.read(NOTEBOOKS[0], 4).cells if c.cell_type == "code")
    assert page.evaluate("navigator.clipboard.readText()") == code.source


def test_a_laptop_shows_what_is_on_the_page(page, book):
    page.set_viewport_size({"width": 1366, "height": 768})
    page.goto(book[1] + "04_shapes_cvae.html")
    page.locator("#sections a").last.click()
    assert urldefrag(page.url)[1]


def test_search_menu_and_theme_of_the_book(page, book):
    for origin in book[1], book[0].as_uri() + "/":  # search needs no server
        page.goto(origin + "solutions/03_solutions.html")
        page.keyboard.press("/")
        page.fill("dialog input", "xylophone")
        page.wait_for_selector("#count >> text=Nothing found")
        page.fill("dialog input", "logits")
        page.wait_for_selector("#hits a >> text=logits")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "solutions/03" not in url)
    page.set_viewport_size({"width": 390, "height": 900})
    page.goto(book[1])
    assert not page.is_visible("#contents")
    page.click("#menu")
    page.click("#contents a >> text=A latent flow")
    page.wait_for_url("**/12_latent_flow.html")
    theme = "document.documentElement.dataset.theme"
    for scheme in ("dark", "light"):  # as the system has it, until the reader chooses
        page.emulate_media(color_scheme=scheme)
        page.goto(book[1] + "09_interactive_sampling.html")
        assert page.evaluate(theme) == scheme
    page.click("#theme")
    page.click(".neighbours .next")
    page.wait_for_url("**/10_*.html")
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
