"""Every notebook as a page: its committed outputs in a browser, as wide as a desk and a telephone.

nbconvert makes the pages, MathJax comes from jupyter_server_mathjax, and nothing is executed.
"""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jupyter_server_mathjax
import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")) + sorted(
    (ROOT / "notebooks" / "solutions").glob("*.ipynb")
)
FAULTS = Path(__file__).with_name("page_faults.js").read_text(encoding="utf-8")
DESK, TELEPHONE = 1280, 390

# The packaged MathJax has one font, which it must be told. Its fallbacks ask for files that are not
# in the package: assistive MathML for another font, and a blank one at an address Chromium refuses.
# nbconvert's template cuts long lines of code off; JupyterLab, GitHub and Colab let them scroll.
HEAD = """<head><script>window.MathJax = {
  menuSettings: {assistiveMML: false},
  "HTML-CSS": {
    availableFonts: [], webFont: "STIX-Web", styles: {"@font-face": {src: "local(none)"}}
  }
}</script><style>main .jp-InputArea-editor .highlight {overflow-x: auto}</style>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory, serve):
    """A function from a notebook and its place to its address on a local server."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "favicon.ico").touch()
    (folder / "notebooks" / "solutions").mkdir(parents=True)
    (folder / "notebooks" / "figures").symlink_to(ROOT / "notebooks" / "figures")
    (folder / "mathjax").symlink_to(Path(jupyter_server_mathjax.__file__).parent / "static")
    exporter = HTMLExporter(
        mathjax_url="/mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe",
        require_js_url="",
        mermaid_js_url="",
    )
    origin = serve(folder)

    def publish(notebook, name="notebooks/page.html"):
        html, _ = exporter.from_notebook_node(notebook)
        (folder / name).write_text(html.replace("<head>", HEAD, 1), encoding="utf-8")
        return origin + Path(name).as_posix()

    return publish


def count_formulas(notebook):
    """Count the formulas in the Markdown of a notebook, code left out."""
    markdown = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    markdown = re.sub(r"^ *(```|~~~).*?^ *\1 *$|(`+).*?\2", "", markdown, flags=re.M | re.S)
    return len(re.findall(r"\$\$?[^$]+\$\$?", markdown))


def lost_links(page):
    """List the links to files that the repository does not have."""
    origin = page.evaluate("location.origin")
    links = page.eval_on_selector_all("main a[href]", "links => links.map(a => a.href)")
    places = [unquote(urlsplit(link).path)[1:] for link in links if link.startswith(origin + "/")]
    return [
        f"link that leads nowhere: {place}"
        for place in places
        if not place.endswith(".html") and not (ROOT / place).exists()
    ]


def look(page, notebook, address):
    """Open a notebook's page, first wide, then narrow, and list what is wrong with it."""
    page.set_viewport_size({"width": DESK, "height": 1000})
    page.goto(address)
    page.evaluate("() => new Promise(done => MathJax.Hub.Queue(done))")
    faults = lost_links(page)
    for width in (DESK, TELEPHONE):
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_function("width => innerWidth === width", arg=width)
        found = page.evaluate(FAULTS, count_formulas(notebook))
        faults += [f"{width} px: {fault}" for fault in found]
    return faults


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_is_whole(path, page, site):
    notebook = nbformat.read(path, as_version=4)
    faults = look(page, notebook, site(notebook, path.relative_to(ROOT).with_suffix(".html")))
    assert not faults, "\n".join(faults)


GOOD = [
    "# A page\n\n![A hero](figures/01_hero.png) and $x^2$, [on](02_reading_characters.ipynb)",
    "## A part\n\n| a | b |\n|---|---|\n| **c** | `$d` |\n\n```\na → b\n```",
]


def test_a_small_page_without_a_fault_passes(page, site):
    code = "print('a line of code that a telephone has to scroll, because it is rather long')"
    outputs = [new_output("stream", text="a line")]
    cells = [*map(new_markdown_cell, GOOD), new_code_cell(code, outputs=outputs)]
    notebook = new_notebook(cells=cells)
    assert look(page, notebook, site(notebook)) == []


UNCONTAINED = """<style>* {{overflow: visible !important}}</style>
<p style="width: {}px">wide</p>"""
CUT_OFF = '<div style="overflow: hidden"><p style="width: 500px">wide</p></div>'


@pytest.mark.parametrize(
    ("markdown", "fault"),
    [
        ("![A hero](figures/nowhere.png)", "1280 px: broken picture: http"),
        ("![](figures/01_hero.png)", "1280 px: picture without a text"),
        ("<table width=2000><tr><td>wide</td></tr></table>", "1280 px: needs scrolling sideways"),
        (UNCONTAINED.format(2000), "1280 px: the page is 2"),
        (UNCONTAINED.format(500), "390 px: reaches too far: <p"),
        (CUT_OFF, "390 px: cut off: <div"),
        ("```\nprompt" + " → reader" * 20 + "\n```", "1280 px: wraps its lines"),
        (r"$\frac{1$", "1280 px: formula with a fault"),
        (r"$\frobnicate$", "1280 px: formula with a fault"),
        ("a $ alone", "1280 px: formula left as typed"),
        (r"\\(x\\)", "1280 px: 1 formulas rendered, 0 in the notebook"),
        ("<p>**bold**</p>", "1280 px: Markdown left as typed"),
        ("### Too deep", "1280 px: heading out of order: <h3"),
        ("# A second title", "1280 px: heading out of order: <h1"),
        ("[next](99_nowhere.ipynb)", "link that leads nowhere: notebooks/99_nowhere.ipynb"),
        ("[up](#nowhere)", "1280 px: anchor that leads nowhere: #nowhere"),
        ("Error displaying widget", "1280 px: widget that does not show"),
    ],
)
def test_a_fault_in_the_text_is_seen(markdown, fault, page, site, complaints):
    notebook = new_notebook(cells=[new_markdown_cell("# A page"), new_markdown_cell(markdown)])
    faults = look(page, notebook, site(notebook))
    assert any(line.startswith(fault) for line in faults), faults
    page.close()
    assert bool(complaints) == ("nowhere.png" in markdown)
    complaints.clear()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (" ", "1280 px: empty output"),
        ("VBox(children=(Text(value='a seven'),))", "1280 px: widget that"),
    ],
)
def test_a_fault_in_an_output_is_seen(text, fault, page, site):
    outputs = [new_output("execute_result", {"text/plain": text}, execution_count=1)]
    cells = [new_markdown_cell("# A page"), new_code_cell("form", outputs=outputs)]
    notebook = new_notebook(cells=cells)
    faults = look(page, notebook, site(notebook))
    assert any(line.startswith(fault) for line in faults), faults


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("console.error('on fire')", "console: on fire"),
        ("setTimeout(() => { throw Error('thrown') })", "error in the page: thrown"),
        (
            "fetch('http://example.org/').catch(() => 0)",
            "request to elsewhere: http://example.org/",
        ),
        ("new WebSocket('ws://example.org/')", "request to elsewhere: ws://example.org/"),
        ("fetch('http://127.0.0.1:9/').catch(() => 0)", "request failed: http://127.0.0.1:9/"),
    ],
)
def test_a_page_that_misbehaves_is_reported(script, complaint, page, site, complaints):
    notebook = new_notebook(cells=[new_markdown_cell("# A page")])
    page.goto(site(notebook))
    page.evaluate(f"() => {{ {script} }}")
    page.wait_for_timeout(300)
    page.close()
    assert any(line.startswith(complaint) for line in complaints), complaints
    complaints.clear()
