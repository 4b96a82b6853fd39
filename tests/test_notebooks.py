"""The notebooks as documents, and the rules of the house. Nothing is executed here."""

import ast
import itertools
import json
import re
import runpy
import statistics
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("[0-9]*.ipynb"))
NOTEBOOKS = CHAPTERS + SOLUTIONS
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")]
PAGES += sorted((ROOT / "notebooks").glob("*.md"))
DIAGRAMS = sorted((ROOT / "notebooks" / "figures").glob("[0-9]*.svg"))

WIDGET = "application/vnd.jupyter.widget-view+json"
MACHINE = re.compile(r"(?<![\w.:/<])/(?:work|home|root|tmp|Users|private|opt|mnt|content)/")
FORBIDDEN = re.compile(r"\b(?:simply|just|obviously|powerful|comprehensive|let['’]s)\b", re.I)
SHOUT = re.compile(r"[\w)][*_]*!(?=[*_]*(?:\s|$))")
EMOJI = re.compile("[\U0001f300-\U0001faff]")


def read(path):
    return nbformat.read(path, as_version=4)


def cells(path, kind):
    return [cell.source for cell in read(path).cells if cell.cell_type == kind]


def lines(source):
    return [line for line in source.splitlines() if line.strip()]


def python(source):
    """Parse a cell without its magics."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    return ast.parse("\n".join(lines))


def texts(path):
    """List the markdown of a page or of a notebook's cells."""
    return [path.read_text(encoding="utf-8")] if path.suffix == ".md" else cells(path, "markdown")


def without_code(markdown):
    markdown = re.sub(r"^ *(```|~~~).*?^ *\1 *$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    markdown = re.sub(r"(`+).*?\1", "", markdown, flags=re.DOTALL)
    return re.sub(r"\$\$?[^$]+\$\$?", "", markdown)


def prose(markdown):
    """Leave out what is not our own sentence: code, formulas, addresses, quotations."""
    markdown = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", without_code(markdown))
    markdown = re.sub(r"\]\([^)]*\)", "]", markdown)
    markdown = re.sub(r"<[^>]+>", "", markdown)
    return re.sub(r'"[^"\n]*(?:\n[^"\n]+)?"|“[^”]*”|‘[^’]*’', "", markdown)


def name(path):
    return str(path.relative_to(ROOT))


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=name)
every_text = pytest.mark.parametrize("path", NOTEBOOKS + PAGES, ids=name)


# ---- as files ----------------------------------------------------------------------------------


def test_all_are_there_with_a_solution_each():
    numbers = [int(path.name[:2]) for path in CHAPTERS]
    assert numbers == list(range(1, 1 + len(CHAPTERS))) and len(CHAPTERS) >= 10
    assert [path.name for path in SOLUTIONS] == [f"{k:02d}_solutions.ipynb" for k in numbers]


@every_notebook
def test_file(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_000_000
    assert "widgets" not in notebook.metadata, "state of widgets in the file"
    assert notebook.metadata.kernelspec.name == "python3"


def test_no_two_cells_share_an_id():
    ids = [cell.id for path in NOTEBOOKS for cell in read(path).cells]
    assert len(ids) == len(set(ids)), "in the rendered book an id is an address"


@every_notebook
def test_executed_in_order_without_errors_or_warnings(path):
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            where = f"{lines(cell.source)[0]} …"
            assert output.output_type != "error", where
            assert output.get("name") != "stderr", f"{where} warns: {output.text[:200]}"
            assert WIDGET not in output.get("data", {}), f"{where} shows a widget"


@every_notebook
def test_outputs_name_no_place_of_our_machine(path):
    for cell in read(path).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            shown = [output.get("text", ""), *(v for k, v in data.items() if k.startswith("text/"))]
            for text in shown:
                assert not MACHINE.search(text), text[:200]


@every_notebook
def test_checked_outputs_are_text(path):
    for cell in read(path).cells:
        assert "NBVAL" not in cell.source, "a comment for the tests: give the cell a tag"
        if "nbval-check-output" in cell.metadata.get("tags", []):
            assert cell.outputs, "nothing to compare"
            for output in cell.outputs:
                kinds = set(output.get("data", {"text/plain": ""}))
                assert kinds == {"text/plain"}, f"{kinds} cannot be compared on another machine"


# ---- as programs -------------------------------------------------------------------------------


@every_notebook
def test_cells_are_short_and_silence_nothing(path):
    lengths = [len(lines(source)) for source in cells(path, "code")]
    assert 0 < min(lengths) and max(lengths) <= 30
    assert statistics.median(lengths) < 10
    assert max(lengths[:2]) < 10, "the setup cells"
    for unwanted in ("pip install", "filterwarnings", "simplefilter", "%%capture"):
        assert unwanted not in "".join(cells(path, "code"))


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        if node.module == "helpers":
            return [f"helpers.{alias.name}" for alias in node.names]
        return [node.module]
    return []


def definitions(tree):
    """Map the names that a module or a cell defines at its top level to their syntax trees."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id: node for target in targets for name in ast.walk(target)
                      if isinstance(name, ast.Name)}
    return found


def without_docstrings(node):
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if ast.get_docstring(part, clean=False) is not None:
                part.body = part.body[1:] or [ast.Pass()]
    return ast.dump(node)


def differences(cell, module):
    """Name what a teaching cell defines otherwise than the file that it names."""
    there, here = definitions(module), definitions(cell)
    return [k for k in here
            if k not in there or without_docstrings(here[k]) != without_docstrings(there[k])]


TEACHING = [  # from the comment on: imports may stand above it
    (path, source[match.start() :], match[1])
    for path in NOTEBOOKS for source in cells(path, "code")
    if (match := re.search(r"^# (helpers/\w+\.py)\b", source, re.MULTILINE))
]


@pytest.mark.parametrize(
    ("path", "source", "file"), TEACHING,
    ids=[f"{path.stem}-{next(iter(definitions(python(s))), 'empty')}" for path, s, _ in TEACHING],
)
def test_teaching_cell_is_identical_to_helpers(path, source, file):
    cell, module = python(source), ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert definitions(cell), "a teaching cell defines something"
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    assert all(isinstance(node, kinds) for node in cell.body), "and does nothing else"
    assert not differences(cell, module), f"differs from {file}"


def test_the_comparison_sees_one_changed_sign():
    module = ast.parse('def f(x):\n    """Double."""\n    return x * 2  # twice')
    assert not differences(ast.parse("def f(x):\n    return x * 2"), module)
    assert differences(ast.parse("def f(x):\n    return x + 2"), module) == ["f"]
    assert differences(ast.parse("def g(x):\n    return x * 2"), module) == ["g"]
    assert TEACHING, "no teaching cell in any notebook"


# ---- exercises ---------------------------------------------------------------------------------


def exercises(path):
    """Split a chapter's last part into its exercises."""
    text = "\n".join(cells(path, "markdown")).partition("### Exercises\n")[2]
    return re.split(r"^\d\. ", text.partition("\n\nRun th")[0], flags=re.MULTILINE)[1:]


def checks(path):
    """Map the names of a notebook's check functions to their syntax trees."""
    found = {}
    for source in cells(path, "code"):
        found |= definitions(python(source))
    return {k: ast.dump(node) for k, node in found.items() if k.startswith("check_")}


@every_chapter
def test_exercises(path):
    tasks = exercises(path)
    assert 2 <= len(tasks) <= 4
    grades = [re.match(r"\*(Easy|Medium|Open)\.\*", task) for task in tasks]
    assert all(grades), "each begins with its grade"
    order = ["Easy Medium Open".split().index(grade[1]) for grade in grades]
    assert order == sorted(order) and order[0] == 0
    assert all("A right answer" in task for task in tasks)
    named = set(re.findall(r"`(check_\w+)", "\n".join(tasks)))
    assert named == set(checks(path)), "each check is named in an exercise"
    checked = [task for task in tasks if "`check_" in task]
    assert len(checked) > len(tasks) / 2, "most exercises can be checked"


@every_chapter
def test_every_exercise_has_a_solution(path):
    solutions = ROOT / "notebooks" / "solutions" / f"{path.name[:2]}_solutions.ipynb"
    headings_ = re.findall(r"^## (\d)\b", "\n".join(cells(solutions, "markdown")), re.MULTILINE)
    assert headings_ == [str(k + 1) for k in range(len(exercises(path)))]
    assert checks(solutions) == checks(path), "the same checks, word for word"
    trees = [node for source in cells(solutions, "code") for node in ast.walk(python(source))]
    called = {n.func.id for n in trees if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert set(checks(path)) <= called, "a check is not used"


# ---- figures -----------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.stem)
def test_diagrams_have_one_style_and_their_text(path):
    root = ElementTree.parse(path).getroot()
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert width == (720 if path.stem.endswith("rooms") else 900)
    ground = root.find(f"{SVG}rect").attrib
    assert float(ground["width"]) == width and float(ground["height"]) == height
    assert ground["fill"] in ("#fff", "#ffffff", "white")
    sizes = [float(node.attrib["font-size"]) for node in root.iter() if "font-size" in node.attrib]
    assert sizes and min(sizes) >= 18, "too small at half the size"
    unwanted = {f"{SVG}{kind}" for kind in ("style", "script", "image", "foreignObject")}
    assert not unwanted & {node.tag for node in root.iter()}
    chapter = next(chapter for chapter in CHAPTERS if chapter.name[:2] == path.name[:2])
    pages = "\n".join(cells(chapter, "markdown"))
    alts = re.findall(rf"!\[([^\]]+)\]\(figures/{path.name}\)", pages)
    assert alts == [root.find(f"{SVG}desc").text], "shown once, with the text that the file holds"


def test_the_line_of_rooms_is_as_its_script_draws_it():
    script = runpy.run_path(str(ROOT / "notebooks" / "book" / "rooms.py"))
    for number, row in script["ROOMS"].items():
        file = ROOT / "notebooks" / "figures" / f"{number:02d}_rooms.svg"
        assert file.read_text(encoding="utf-8") == script["draw"](*row)


# ---- as pages ----------------------------------------------------------------------------------


def headings(path):
    """List the anchors that GitHub gives to the headings of a page."""
    found = re.findall(r"^#+ +(.+)$", "\n".join(texts(path)), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in found]
    return {anchor.replace(" ", "-") for anchor in kept}


def targets(markdown):
    markdown = without_code(markdown)
    yield from re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", markdown)
    yield from re.findall(r"<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"", markdown)


@every_text
def test_links_and_pictures_resolve(path):
    for markdown in texts(path):
        for target in targets(markdown):
            if re.match(r"(https?|mailto):", target):
                continue
            file, _, anchor = target.partition("#")
            assert not file.startswith("/"), f"{target} is no relative path"
            other = path if not file else path.parent / file
            assert other.exists(), f"{target} leads nowhere"
            if anchor and other.suffix in (".md", ".ipynb"):
                assert anchor.lower() in headings(other), f"{target}: no such heading"


@every_chapter
def test_the_glossary_and_the_notebook_agree_on_its_new_words(path):
    glossary = ROOT / "notebooks" / "glossary.md"
    entries = re.split(r"^## ", glossary.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    home = rf"Introduced in \[notebook {int(path.name[:2])}\]\({path.name}\)"
    wanted = [entry.splitlines()[0] for entry in entries if re.search(home, entry)]
    assert all("Introduced in [notebook" in entry for entry in entries)
    (line,) = re.findall(r"^\*\*New words\*\*.*", "\n".join(cells(path, "markdown")), re.MULTILINE)
    assert re.findall(r"\[([^\]]+)\]\(glossary\.md[#)]", line) == wanted


def test_the_glossary_is_sorted():
    lines = (ROOT / "notebooks" / "glossary.md").read_text(encoding="utf-8").splitlines()
    terms = [line.removeprefix("## ").lower() for line in lines if line.startswith("## ")]
    assert terms == sorted(terms) and len(set(terms)) == len(terms)


@every_text
def test_every_picture_has_a_text(path):
    for markdown in map(without_code, texts(path)):
        for alt in re.findall(r"!\[([^\]]*)\]\(", markdown):
            assert len(alt.strip()) > 5, "a picture without alt text"
        for tag in re.findall(r"<img\b[^>]*>", markdown):
            assert re.search(r"alt=\"[^\"]{6,}\"", tag), f"{tag} has no alt text"


@every_chapter
def test_opening(path):
    opening = cells(path, "markdown")[0]
    assert read(path).cells[0].cell_type == "markdown"
    assert opening.startswith(f"# {int(path.name[:2])} · "), "the title starts with its number"
    assert re.search(r"!\[[^\]]+\]\(figures/", opening), "no picture"
    assert "olab" not in opening, "a badge opens an address that is not ours"
    assert "on two CPU cores" in opening, "no run time"
    assert f"](figures/{path.name[:2]}_rooms.svg)" in "\n".join(cells(path, "markdown")[:2])


@every_chapter
def test_previous_and_next(path):
    place = CHAPTERS.index(path)
    wanted = CHAPTERS[max(0, place - 1) : place] + CHAPTERS[place + 1 : place + 2]
    opening = cells(path, "markdown")[0]
    ways = [line for line in opening.splitlines() if re.search(r"←|→|Previous|Next", line)]
    links = re.findall(r"\[([^\[\]]+)\]\((\d\d_\w+\.ipynb)\)", "\n".join(ways))
    assert links == [(TITLES[other.stem], other.name) for other in wanted]


TITLES = {path.stem: read(path).cells[0].source.splitlines()[0][2:] for path in CHAPTERS}
CHAPTER = r"\[([^\[\]]*)\]\(<?(?:\.\./|notebooks/)*(\d\d_(?!solutions)\w+)\.ipynb[^)]*\)"


@every_text
def test_a_notebook_is_named_by_a_link_with_its_number_or_its_title(path):
    for text in texts(path):
        markdown = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", without_code(text))
        for shown, stem in re.findall(CHAPTER, markdown):
            number, _, title = TITLES[stem].partition(" · ")
            named = (TITLES[stem], title, number, f"notebook {number}")
            assert shown.replace("N", "n", shown.startswith("Not")) in named, f"{shown!r}: {stem}"
        rest = re.sub(r"^# Solutions to notebook \d+", "", re.sub(CHAPTER, "·", markdown))
        loose = re.search(r"[Nn]otebooks?[ \n](?:·(?:, ·)*(?:,| and| to| or)\s)?\d+\b", rest)
        assert not loose, f"{loose[0]!r} is no link"


def test_code_and_pictures_name_a_notebook_by_its_file():
    files = [*ROOT.glob("*/*.py"), *ROOT.glob("[cnt]*/[a-z]*/**/*.py"), *DIAGRAMS]
    files += [*ROOT.glob("[dt]*/*.toml"), *ROOT.glob("checkpoints/*.json")]
    sources = {file.name: file.read_text(encoding="utf-8") for file in files}
    for path in NOTEBOOKS:
        alts = re.findall(r"!\[([^\]]*)\]", "\n".join(cells(path, "markdown")))
        sources[path.name] = "\n".join([*cells(path, "code"), *alts])
    for place, source in sources.items():
        assert not re.search(r"[Nn]otebooks?[ _]\d+\b(?!_)", source), f"{place}: which one?"
        named = re.findall(r"(?<![\w/])((?:0[1-9]|1\d)_[a-z_]+)\b(?!\.(?:png|gif|svg))", source)
        unknown = set(named) - set(TITLES) - {path.stem for path in SOLUTIONS}
        assert not unknown, f"{place} names {unknown}"


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_solutions_lead_back(path):
    number = path.name[:2]
    opening = cells(path, "markdown")[0]
    assert opening.startswith(f"# Solutions to notebook {int(number)}")
    back = next(chapter.name for chapter in CHAPTERS if chapter.name.startswith(number))
    assert f"](../{back})" in opening
    chapter = "\n".join(cells(ROOT / "notebooks" / back, "markdown"))
    assert f"](solutions/{path.name})" in chapter, "the chapter does not name its solutions"


@every_text
def test_words(path):
    for markdown in texts(path):
        text = prose(markdown)
        for pattern in (FORBIDDEN, SHOUT, EMOJI):
            found = pattern.search(text)
            assert not found, f"…{text[max(0, found.start() - 40) : found.end() + 20]!r}…"


# ---- what holds on the reader's machine ---------------------------------------------------------


def before_exercises(path):
    """List the code cells of a chapter that stand before its exercises."""
    found = []
    for cell in read(path).cells:
        if cell.cell_type == "markdown" and re.search(r"^### Exercises", cell.source, re.MULTILINE):
            return found
        found += [cell.source] * (cell.cell_type == "code")
    raise AssertionError("no exercises")


@every_chapter
def test_acceptance_stands_in_one_closing_cell(path):
    *text, closing = before_exercises(path)
    heading = "### Does it hold on your machine?"
    assert sum(heading in source for source in cells(path, "markdown")) == 1
    calls = [source for source in cells(path, "code") if "does_it_hold({" in source]
    assert calls == [closing], "the last cell before the exercises, and no other"
    trees = [python(source) for source in text]
    asserts = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert len(asserts) <= 6, "an assert in the text teaches something"
    only = [tree for tree in trees if all(isinstance(node, ast.Assert) for node in tree.body)]
    assert not only, "a cell that only asserts speaks to a maintainer"


NO_WORD = re.compile(r"(?s)!\[[^\]]*\]\([^)]*\)|```.*?```|\$\$.*?\$\$|\]\([^)]*\)|#+ \d+ · ")


@pytest.mark.parametrize("path", CHAPTERS[:10], ids=name)
def test_a_page_keeps_its_budget(path):
    notebook = read(path).cells
    end = next(k for k, cell in enumerate(notebook) if "### Exercises" in cell.source)
    outputs = [o for cell in notebook for o in cell.get("outputs", ())]
    images = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    films = [image for image in images if image.startswith("R0lGOD")]  # GIF, in base64
    markdown = "\n\n".join(c.source for c in notebook[:end] if c.cell_type == "markdown")
    words = len(NO_WORD.sub("", markdown).split())
    code = [lines(cell.source) for cell in notebook[:end] if cell.cell_type == "code"]
    assert words <= 2000 and sum(map(len, code)) <= 250
    figures = len(images) + len(re.findall(r"\(figures/(?!\d\d_rooms)", markdown))
    assert words <= 250 * figures, "a figure for every 250 words"
    assert films, "nothing moves"
    assert all(len(image) * 3 / 4 < 400 * 2**10 for image in films), "an animation of over 400 KB"


# ---- the rules of the house ----------------------------------------------------------------------

MODULES = {path.stem: path for path in sorted((ROOT / "helpers").glob("*.py"))}
RECIPES = {path.stem: path for path in sorted((ROOT / "checkpoints" / "recipes").glob("*.py"))}


def modules_of(path):
    """List the names of all modules that a file imports, wherever in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for node in ast.walk(tree) for name in imported(node)}


def helpers_of(path):
    return {name.split(".")[1] for name in modules_of(path) if name.startswith("helpers.")}


def test_nothing_in_helpers_imports_a_recipe():
    assert RECIPES
    for path in MODULES.values():
        recipes = {name for name in modules_of(path) if name.split(".")[-1] in RECIPES}
        assert not recipes, f"{path.name} imports {recipes}"


def test_nothing_that_makes_a_generator_imports_the_judges():
    for module in ("models", "flow", "training", "steering", "checkpoints", "generator"):
        seen, todo = set(), {module}
        while todo:
            seen |= todo
            todo = {name for one in todo for name in helpers_of(MODULES[one])} & set(MODULES) - seen
        assert "metrics" not in seen, f"{module} knows its judge"


def test_a_flow_starts_without_scikit_image():
    assert not helpers_of(MODULES["flow"]) & {"strokes", "captions", "steering", "metrics"}


def test_the_house_stays_small():
    def count(paths):
        return {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}

    helpers, recipes = count(MODULES.values()), count(RECIPES.values())
    assert len(helpers) <= 17 and sum(helpers.values()) <= 3500 and max(helpers.values()) <= 380
    assert sum(recipes.values()) <= 1830 and max(recipes.values()) <= 300
    assert sum(count((ROOT / "tests").rglob("*.py")).values()) <= 7502


def test_functions_take_at_most_seven_arguments():
    loop = "train_cvae"  # every setting of a training is spelt out
    for path in (*MODULES.values(), *RECIPES.values()):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name != loop:
                count = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
                assert count <= 7, f"{path.name}: {node.name} takes {count} arguments"


# Numbers in prose

NUMBER = r"(?<![\w.,/^{-])(\d+(?:,\d{3})*(?:\.\d+)?)(\s?%)?(?![\w/]|\.\d|,\d)"
GENERAL = {"95%", "99%", "0.001", "0.2", "0.3", "0.5"}  # goals
FROM_AFAR = {  # what is quoted from another notebook, from a paper, or is worked out in the text
    "06": {"0.4"}, "11": {"84.78", "81.08"}, "12": {"0.88", "3.5", "52%"},
    "13": {"1.3", "1.1", "98.8%", "98.5%", "96.8%", "4.3", "93.2%"},
}


def loose_numbers(path, change=lambda number: [number]):
    """Find the decimals and percentages in prose that no cell near them prints or computes with."""
    notebook, printed = json.loads(path.read_text(encoding="utf-8"))["cells"], []
    for cell in notebook:
        texts = ["".join(cell["source"])] if cell["cell_type"] == "code" else []
        for output in cell.get("outputs", []):
            texts.append("".join(output.get("text", output.get("data", {}).get("text/plain", ""))))
        numbers = re.findall(r"(\d+(?:,\d{3})*(?:\.\d+)?)(%?)", " ".join(texts))
        printed.append([(float(n.replace(",", "")), bool(percent)) for n, percent in numbers])
    for k, cell in enumerate(notebook):
        near = [value for values in printed[max(0, k - 8) : k + 4] for value in values]
        prose = re.sub(r"\]\([^)]*\)|`[^`]*`|\$[^$]*\$", "", "".join(cell["source"]))
        for number, percent in re.findall(NUMBER, prose) if cell["cell_type"] != "code" else ():
            shown = number + percent.strip()
            known = shown in GENERAL | FROM_AFAR.get(path.name[:2], set())
            if known or not ("." in number or percent):
                continue
            for written in change(number.replace(",", "")):
                decimals = len(written.partition(".")[2])
                values = [v * (100 if percent and not of else 1) for v, of in near]
                if not any(abs(round(v, decimals) - float(written)) < 1e-6 for v in values):
                    yield written + percent


@every_notebook
def test_numbers_in_prose_are_printed_nearby(path):
    assert not list(loose_numbers(path))


def test_every_other_swap_of_digits_in_prose_is_noticed():
    def swapped(number):
        pairs = [(a, b) for a, b in itertools.pairwise(number) if a != b]
        return [number.replace(a + b, b + a, 1) for a, b in pairs if (a + b).isdigit()]

    every = sum(len(swapped(n.replace(",", ""))) for path in NOTEBOOKS for n in [
        number for cell in cells(path, "markdown") for number, percent in re.findall(NUMBER, cell)
        if "." in number or percent])
    noticed = sum(len(list(loose_numbers(path, swapped))) for path in NOTEBOOKS)
    assert every > 40 and noticed > 0.45 * every
