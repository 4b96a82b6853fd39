"""The rendered book: it builds without a warning, and every page of it is whole in a browser."""

import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("README.md", "CONTRIBUTING.md", "LICENSE", "myst.yml", "data", "helpers", "notebooks",
         "checkpoints", "tests")
FAULTS = """async () => {
  for (const picture of document.images) picture.loading = "eager";
  await Promise.all([...document.images].map(picture => picture.decode().catch(() => 0)));
  const faults = [...document.images].filter(p => !p.naturalWidth).map(p => `broken: ${p.src}`);
  faults.push(...[...document.images].filter(p => p.alt.length < 6).map(p => `no text: ${p.src}`));
  const more = document.documentElement.scrollWidth - innerWidth;
  if (more > 0) faults.push(`${more} px wider than the screen`);
  const main = document.querySelector("main");
  const prose = main.cloneNode(true);
  prose.querySelectorAll("pre, code, math").forEach(node => node.remove());
  faults.push(...(prose.textContent.match(/\\$[^$\\n]{1,40}\\$|\\{[a-z]+\\}`/g) ?? []));
  const flat = [...main.querySelectorAll("math")].filter(m => !m.getBoundingClientRect().width);
  faults.push(...flat.map(m => `formula not set: ${m.textContent}`));
  faults.push(...[...main.querySelectorAll("pre .err")].map(e => `not read: ${e.textContent}`));
  const ids = [...document.querySelectorAll("[id]")].map(node => node.id);
  faults.push(...ids.filter((id, k) => ids.indexOf(id) < k).map(id => `id used twice: ${id}`));
  return faults;
}"""


def copy(folder):
    """Copy what the book is made of, without what was downloaded or trained here."""
    leave = shutil.ignore_patterns("unpacked", "runs", "__pycache__", ".*")
    for name in PARTS:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(
            source, folder / name, **({"ignore": leave} if source.is_dir() else {})
        )
    return folder


def build(folder):
    return subprocess.run(
        [sys.executable, folder / "notebooks" / "book" / "build.py"],
        capture_output=True, text=True, check=False, timeout=120,
    )


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of the built pages."""
    folder = copy(tmp_path_factory.mktemp("book"))
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "_build" / "html"


@pytest.fixture(scope="module")
def address(html, serve):
    return serve(html)


def names(html):
    return sorted(path.relative_to(html).as_posix() for path in html.rglob("*.html"))


def test_every_notebook_has_a_page(html):
    folders = (ROOT / "notebooks", ROOT / "notebooks" / "solutions")
    notebooks = {path.stem for folder in folders for path in folder.glob("[0-9]*.ipynb")}
    assert notebooks | {"index", "glossary", "bibliography"} <= {Path(n).stem for n in names(html)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_whole(width, scheme, page, html, address):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    faults = []
    for name in names(html):
        page.goto(address + name)
        faults += [f"{name}: {fault}" for fault in page.evaluate(FAULTS)]
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert not faults, "\n".join(faults)


def test_every_link_inside_leads_to_a_page_and_a_place_on_it(page, html, address):
    links, anchors = [], {}
    for name in names(html):
        page.goto(address + name)
        found = page.eval_on_selector_all("a[href]", "all => all.map(a => a.getAttribute('href'))")
        links += [(name, urljoin(address + name, href)) for href in found]
        ids = page.eval_on_selector_all("[id]", "all => all.map(node => node.id)")
        anchors[address + name] = ids
    inside = [(name, urldefrag(link)) for name, link in links if link.startswith(address)]
    assert len(inside) > 500
    for name, (link, anchor) in inside:
        assert (html / link.removeprefix(address)).is_file(), f"{name}: {link} leads nowhere"
        assert not anchor or anchor in anchors.get(link, [anchor]), f"{name}: no {anchor} on {link}"


def test_search_finds_and_enter_goes_there(page, address):
    page.goto(address + "solutions/03_solutions.html")
    page.keyboard.press("/")
    page.fill("dialog input", "posterior collapse")
    page.wait_for_selector("#hits a")
    assert "ollapse" in page.inner_text("#hits")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "solutions/03" not in url)
    page.keyboard.press("Control+k")
    page.fill("dialog input", "xylophone")
    page.wait_for_function("document.querySelector('#count').textContent === 'Nothing found'")


def test_search_needs_no_server(page, html):
    page.goto((html / "04_shapes_cvae.html").as_uri())
    page.keyboard.press("/")
    page.fill("dialog input", "elbo")
    page.wait_for_selector("#hits a")


def test_the_chosen_theme_is_kept_and_next_leads_on(page, address):
    page.goto(address + "01_drawing_shapes.html")
    before = page.evaluate("document.documentElement.dataset.theme")
    page.click("#theme")
    page.click(".neighbours .next")
    page.wait_for_url("**/02_reading_characters.html")
    assert page.evaluate("document.documentElement.dataset.theme") != before


def test_a_wide_screen_has_the_sections_beside_the_text(page, address):
    page.set_viewport_size({"width": 1500, "height": 900})
    page.goto(address + "04_shapes_cvae.html")
    page.click("#sections a >> text=The evidence lower bound")
    page.wait_for_url("**#the-evidence-lower-bound")


def test_a_telephone_has_the_contents_behind_a_button(page, address):
    page.set_viewport_size({"width": 390, "height": 900})
    page.goto(address)
    assert not page.is_visible("#contents")
    page.click("#menu")
    page.click("#contents a >> text=A latent flow")
    page.wait_for_url("**/12_latent_flow.html")


def test_widgets_have_a_picture_and_a_sentence(page, address):
    page.goto(address + "09_interactive_sampling.html")
    text = page.inner_text("main")
    assert "A widget: run this cell in Jupyter to use it." in text
    assert page.locator('main img[src*="widget"]').count() == 1


GOOD = "[The numbers](glossary.md#logits), $x^2$.\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [(GOOD, 0), ("[x](nowhere.md)", 1), ("[x](glossary.md#nowhere)", 1),
     ("![A picture](nowhere.png)", 1), ("{nowhere}`x`", 1), (r"$\frobnicate$", 1),
     ("![A picture](https://example.org/x.png)", 1)],
    ids=["good", "file", "anchor", "picture", "role", "formula", "remote"],
)  # fmt: skip
def test_a_fault_on_a_page_is_refused(words, status, tmp_path):
    """On a small book: the same configuration, theme and builder, two pages."""
    shutil.copytree(ROOT / "notebooks" / "book", tmp_path / "notebooks" / "book")
    config = (ROOT / "myst.yml").read_text(encoding="utf-8").partition("  toc:")[0]
    pages = "  toc:\n    - file: notebooks/glossary.md\n    - file: notebooks/more.md\n"
    (tmp_path / "myst.yml").write_text(f"{config}{pages}site:\n  template: notebooks/book/theme\n")
    (tmp_path / "notebooks" / "glossary.md").write_text("# Glossary\n\n## logits\n\nNumbers.\n")
    (tmp_path / "notebooks" / "more.md").write_text(f"# More\n\n{words}\n")
    done = build(tmp_path)
    assert (done.returncode != 0) == status, done.stdout + done.stderr
