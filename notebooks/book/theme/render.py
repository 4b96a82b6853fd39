"""Turns what Jupyter Book has parsed (JSON, one file per page) into static HTML.

Jupyter Book runs this as the site template's render command and says in two environment variables
where the parsed content is served and where the pages belong. Every link is relative, so the pages
work under any address, and from a folder without a server. A node or a link that this file does not
know is an error: better no page than one with a hole in it.
"""

import json
import os
import re
import shutil
import sys
from html import escape
from pathlib import Path, PurePosixPath
from posixpath import relpath

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

THEME = Path(__file__).resolve().parent
REPOSITORY = THEME.parents[2]
OUT = Path(os.environ["BUILD_DIRECTORY"])
SITE = OUT.parent / "site"
FORMATTER = HtmlFormatter(nowrap=True)
PLAIN = {  # nodes that are one HTML element each
    "blockquote": "blockquote", "emphasis": "em", "listItem": "li", "paragraph": "p",
    "strong": "strong", "tableRow": "tr",
}  # fmt: skip


def read(path):
    return path.read_text(encoding="utf-8")


class Page:
    def __init__(self, data):
        self.data = data
        self.slug = data["slug"]
        self.title = data["frontmatter"]["title"]
        place = PurePosixPath(data["location"].lstrip("/"))
        if place.parts[0] == "notebooks":
            place = place.relative_to("notebooks")
        self.path = "index.html" if self.slug == "index" else str(place.with_suffix(".html"))
        if self.path.endswith("README.html"):
            self.path = self.path.replace("/README.html", ".html")
        self.source = data["location"].lstrip("/")
        self.sections = []  # (id, text) of the headings of the second level

    def to(self, path):
        return relpath(path, PurePosixPath(self.path).parent)


class Book:
    def __init__(self):
        config = json.loads(read(SITE / "config.json"))
        self.project = config["projects"][0]
        self.title = self.project["title"]
        contents = [json.loads(read(file)) for file in (SITE / "content").glob("*.json")]
        self.by_slug = {data["slug"]: Page(data) for data in contents}
        self.index = self.by_slug[self.project["index"]]
        self.entries = [{"slug": self.index.slug, "title": self.title, "level": 1}]
        self.entries += self.project["pages"]
        slugs = [entry["slug"] for entry in self.entries if "slug" in entry]
        self.order = [self.by_slug[slug] for slug in slugs]

    def resolve(self, url):
        """A page and an anchor for an address as Jupyter Book writes it: /slug#anchor."""
        place, _, anchor = url.partition("#")
        slug = place.strip("/").replace("/", ".") or self.index.slug
        return self.by_slug.get(slug), anchor


class Writer:
    """The HTML of one page's nodes."""

    def __init__(self, book, page):
        self.book, self.page = book, page
        self.last_line = ""  # of the code above an output

    def all(self, node):
        return "".join(self.one(child) for child in node.get("children") or [])

    def one(self, node):
        kind = node["type"]
        if kind in PLAIN:
            return f"<{PLAIN[kind]}>{self.all(node)}</{PLAIN[kind]}>"
        method = getattr(self, f"on_{kind}", None)
        if method is None:
            raise SystemExit(f"{self.page.source}: the theme does not know what a '{kind}' is")
        return method(node)

    def public(self, url):
        """An address of a picture or a file that Jupyter Book has copied."""
        if re.match(r"[a-z]+:", url):
            raise SystemExit(f"{self.page.source}: {url} would be fetched from elsewhere")
        return escape(self.page.to("files" + url))

    on_root = on_block = all

    def on_text(self, node):
        return escape(node["value"], quote=False)

    def on_heading(self, node):
        name, inner = node.get("html_id") or node.get("identifier"), self.all(node)
        level = min(node["depth"], 6)
        if level == 2:
            self.page.sections.append((name, re.sub(r"<[^>]+>", "", inner)))
        mark = f'<a class="mark" href="#{escape(name)}" aria-label="Link to this section">#</a>'
        return f'<h{level} id="{escape(name)}">{inner}{mark}</h{level}>'

    def on_list(self, node):
        if not node.get("ordered"):
            return f"<ul>{self.all(node)}</ul>"
        start = node.get("start") or 1
        return f"<ol{f' start={start}' if start != 1 else ''}>{self.all(node)}</ol>"

    def on_link(self, node):
        url, inner = node["url"], self.all(node)
        if node.get("static"):
            return f'<a href="{self.public(url)}">{inner}</a>'
        if re.match(r"(https?|mailto):", url):
            return f'<a class="away" href="{escape(url)}">{inner}</a>'
        page, anchor = self.book.resolve(url)
        if node.get("internal") or url.startswith(("/", "#")):
            if page is None:
                raise SystemExit(f"{self.page.source}: {url} leads nowhere")
            return self.inside(page, anchor, inner)
        folder = ((REPOSITORY / self.page.source).parent / url).resolve()
        if not folder.is_dir():
            raise SystemExit(f"{self.page.source}: {url} leads nowhere")
        inside = [
            page for page in self.book.order if (REPOSITORY / page.source).is_relative_to(folder)
        ]
        return self.inside(inside[0], "", inner) if inside else inner  # no page: the words alone

    def inside(self, page, anchor, inner):
        href = (self.page.to(page.path) if page is not self.page or not anchor else "") + (
            f"#{anchor}" if anchor else ""
        )
        return f'<a href="{escape(href)}">{inner}</a>'

    def on_crossReference(self, node):
        url = node.get("url") or ""
        page = self.book.resolve(url)[0] if url else self.page
        if page is None or not node.get("resolved", True):
            raise SystemExit(f"{self.page.source}: the reference to {node} leads nowhere")
        return self.inside(
            page, node.get("html_id") or node.get("identifier") or "", self.all(node)
        )

    def on_image(self, node):
        self.public(node.get("urlSource") or "")  # where Jupyter Book has it from
        width = f' width="{escape(str(node["width"]))}"' if node.get("width") else ""
        alt = escape(node.get("alt") or "")
        return f'<img src="{self.public(node["url"])}" alt="{alt}"{width} loading="lazy">'

    def on_table(self, node):
        # On a telephone, one with much text is folded: each cell stands below its heading.
        texts = []
        for name, *cells in zip(*(row["children"] for row in node["children"]), strict=False):
            texts.append([re.sub("<[^>]+>", "", self.all(cell)) for cell in (name, *cells)])
            for cell in cells:
                cell["below"] = texts[-1][0]
        kind = "wide fold" if sum(min(40, max(map(len, text))) for text in texts) > 75 else "wide"
        return f'<div class="{kind}" tabindex="0"><table>{self.all(node)}</table></div>'

    def on_tableCell(self, node):
        tag = "th" if node.get("header") else "td"
        align = f' style="text-align:{node["align"]}"' if node.get("align") else ""
        name = f' data-name="{escape(node["below"])}"' if node.get("below") else ""
        return f"<{tag}{align}{name}>{self.all(node)}</{tag}>"

    def on_inlineCode(self, node):
        return f"<code>{escape(node['value'], quote=False)}</code>"

    def on_code(self, node):
        text = node["value"].removeprefix("# NBVAL_CHECK_OUTPUT\n")  # a sign for the tests
        self.last_line = text.rstrip().rpartition("\n")[2].strip()
        language = "ipython3" if node.get("executable") else node.get("lang")
        inner = (
            highlight(text, get_lexer_by_name(language), FORMATTER)
            if language
            else escape(text, quote=False)
        )
        kind = "cell" if node.get("executable") else "listing"
        return (
            f'<pre class="{kind}" tabindex="0"><code>{inner.rstrip()}</code></pre>' if text else ""
        )

    def on_math(self, node):
        return f'<div class="formula" tabindex="0">{self.on_inlineMath(node)}</div>'

    def on_inlineMath(self, node):
        found = re.search(r"<math\b.*</math>", node.get("html", ""), re.DOTALL)
        if found is None:
            raise SystemExit(f"{self.page.source}: KaTeX could not read {node['value']}")
        # MathML, which browsers set themselves; the rest of it needs KaTeX's fonts. Browsers put
        # no space between a function and its argument.
        return re.sub("<mo>\u2061</mo>(?=<m[is])", '<mspace width="0.17em"></mspace>', found[0])

    def on_outputs(self, node):
        return f'<div class="outputs">{self.all(node)}</div>' if node.get("children") else ""

    def on_output(self, node):
        output = node["jupyter_data"]
        if output["output_type"] == "stream":
            return self.printed(output["text"])
        if output["output_type"] == "error":
            return self.printed("\n".join(output["traceback"]))
        data = output["data"]
        for kind in ("image/svg+xml", "image/png", "image/gif", "image/jpeg"):
            if kind in data:
                alt = escape(f"Drawn by this cell, which ends in {self.last_line}")
                return f'<img src="{self.public(data[kind]["path"])}" alt="{alt}" loading="lazy">'
        text = data["text/plain"]
        return self.printed(text["content"] if "content" in text else self.stored(text["path"]))

    def stored(self, path):
        return read(SITE / "public" / path.lstrip("/"))

    def printed(self, text):
        text = re.sub(r"\x1b\[[0-9;]*m", "", text)
        return f'<pre class="printed" tabindex="0">{escape(text, quote=False).rstrip()}</pre>'


def contents(book, page):
    lines, opened = [], False
    for entry in book.entries:
        title = escape(entry["title"], quote=False)
        if "slug" not in entry:
            lines.append(("</ul>" if opened else "") + f"<p>{title}</p><ul>")
            opened = True
            continue
        other = book.by_slug[entry["slug"]]
        if entry["level"] == 1 and opened:
            lines.append("</ul>")
            opened = False
        here = ' aria-current="page"' if other is page else ""
        link = f'<a href="{escape(page.to(other.path))}"{here}>{title}</a>'
        lines.append(f"<li>{link}</li>" if opened else f'<p class="alone">{link}</p>')
    return "\n".join(lines) + ("</ul>" if opened else "")


def neighbours(book, page):
    k = book.order.index(page)
    links = []
    for word, step in (("Previous", -1), ("Next", 1)):
        if 0 <= k + step < len(book.order):
            other = book.order[k + step]
            href = escape(page.to(other.path))
            links.append(
                f'<a class="{word.lower()}" href="{href}"><small>{word}</small>'
                f"{escape(other.title, quote=False)}</a>"
            )
    return "".join(links)


def download(writer, page):
    for export in page.data["frontmatter"].get("exports", []):
        if export["format"] == "ipynb":
            href = writer.public(export["url"])
            name = escape(export["filename"])
            return f'<p><a href="{href}" download="{name}">Download this notebook</a></p>'
    return ""


def records(book):
    """What the search looks through: each heading with the words below it."""
    found = {}
    for record in json.loads(read(SITE / "myst.search.json"))["records"]:
        page, anchor = book.resolve(record["url"])
        if page is None:
            raise SystemExit(f"the search index knows {record['url']}, the book does not")
        levels = [record["hierarchy"].get(f"lvl{k}") for k in range(2, 7)]
        heading = next((level for level in reversed(levels) if level), "")
        url = page.path + (f"#{anchor}" if anchor else "")
        place = found.setdefault(url, [url, page.title, heading, ""])
        place[3] = f"{place[3]} {record.get('content', '')}".strip()
    return list(found.values())


def main():
    book = Book()
    frame = read(THEME / "page.html")
    for page in book.order:
        writer = Writer(book, page)
        body = writer.one(page.data["mdast"])  # collects the sections
        sections = "".join(
            f'<li><a href="#{escape(name)}">{text}</a></li>' for name, text in page.sections
        )
        fields = {
            "TITLE": escape(page.title, quote=False),
            "BOOK": escape(book.title, quote=False),
            "ROOT": escape(page.to(".") + "/"),
            "INDEX": escape(page.to("index.html")),
            "CONTENTS": contents(book, page),
            "DOWNLOAD": download(writer, page),
            "BODY": body,
            "SECTIONS": sections and f"<p>On this page</p><ul>{sections}</ul>",
            "NEIGHBOURS": neighbours(book, page),
        }
        html = re.sub(r"\{\{([A-Z]+)\}\}", lambda match, fields=fields: fields[match[1]], frame)
        target = OUT / page.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(html, encoding="utf-8")

    shutil.copytree(SITE / "public", OUT / "files", dirs_exist_ok=True)
    code = "\n".join(
        HtmlFormatter(style=style).get_style_defs(f"{where} pre")
        for style, where in (("friendly", ":root"), ("github-dark", "[data-theme=dark]"))
    )
    code = re.sub(r"(?m)^.*\{[^}]*background:[^}]*\}.*$|^(td|span)\.linenos.*$|^pre .*$", "", code)
    style = read(THEME / "style.css")
    (OUT / "style.css").write_text(f"{code}\n{style}", encoding="utf-8")
    shutil.copy(THEME / "page.js", OUT)
    index = json.dumps(records(book), ensure_ascii=False, separators=(",", ":"))
    (OUT / "search.js").write_text(f"window.bookRecords = {index};\n", encoding="utf-8")
    print(f"{len(book.order)} pages", file=sys.stderr)


if __name__ == "__main__":
    main()
