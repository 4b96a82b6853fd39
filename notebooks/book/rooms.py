"""Write the line of rooms at the top of each notebook, notebooks/figures/NN_rooms.svg.

    python notebooks/book/rooms.py

One template, one table. Each row: the rooms in order, those that are lit, what comes in from below,
and the room above it. Rooms of a row are spread over 720 px, wide enough for DejaVu Sans.
"""

from pathlib import Path

FIGURES = Path(__file__).resolve().parents[1] / "figures"
LINE = "prompt reader condition decoder picture"
ROOMS = {  # notebook: (rooms, lit, from below, into)
    1: (LINE, ["picture"], "noise / latent z", "decoder"),
    2: (LINE, ["reader"], "noise / latent z", "decoder"),
    3: (LINE, ["decoder", "picture", "noise"], "noise", "decoder"),
    4: (LINE, ["decoder", "latent z"], "latent z", "decoder"),
    5: (LINE, ["decoder", "latent z"], "latent z", "decoder"),
    6: (LINE, ["prompt", "picture"], "latent z", "decoder"),
    7: (LINE, ["reader"], "latent z", "decoder"),
    8: (LINE, ["condition", "decoder"], "latent z", "decoder"),
    9: (LINE, ["condition", "decoder"], "latent z", "decoder"),
    10: (LINE, ["prompt", "picture"], "latent z", "decoder"),
    11: (LINE + " judges", ["picture", "judges"], "latent z", "decoder"),
    12: (LINE + " measures", ["reader", "condition", "measures"], "latent z", "decoder"),
    13: ("prompt reader condition flow code decoder picture", ["flow", "decoder"], "noise", "flow"),
}

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 110" width="720" height="110" \
role="img" aria-labelledby="t d" font-family="system-ui, -apple-system, 'Segoe UI', Roboto, \
'Helvetica Neue', Arial, sans-serif" font-size="{size}" text-anchor="middle">
<title id="t">The line of rooms</title>
<desc id="d">{alt}</desc>
<defs><marker id="k" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" \
orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>
<rect width="720" height="110" fill="#fff"/>
{rooms}
</svg>
"""


def room(name, x, y, width, height, lit):
    box, ink = ("#1f77b4", "#fff") if lit else ("#fff", "#000")
    edge = "#1f77b4" if lit else "#000"
    return (f'<rect x="{x:.5g}" y="{y}" width="{width:.5g}" height="{height}" rx="6" fill="{box}" '
            f'stroke="{edge}" stroke-width="2"/>'
            f'<text x="{x + width / 2:.5g}" y="{y + height / 2 + 7:g}" fill="{ink}">{name}</text>')


def arrow(path):
    return f'<path d="{path}" stroke="#000" stroke-width="2" marker-end="url(#k)"/>'


def describe(names, lit, below, into):
    lit = [name for name in [*names, below] if name in lit]
    lit = " and ".join([", ".join(lit[:-1]), lit[-1]] if lit[1:] else lit)
    return f"Line of rooms: {' → '.join(names)}; {below} comes into the {into}. Highlighted: {lit}."


def draw(names, lit, below, into):
    names = names.split()
    size = 21 if len(names) == 5 else 18
    gap = 34 if len(names) == 5 else 24 if len(names) == 6 else 21
    letters = [len(name) for name in names]
    pad = (716 - gap * (len(names) - 1) - 0.61 * size * sum(letters)) / len(names)
    parts, x, middle = [], 2, {}
    for name, count in zip(names, letters, strict=True):
        width = 0.61 * size * count + pad
        if x > 2:
            parts.append(arrow(f"M{x - gap + 2:.5g} 28H{x - 2:.5g}"))
        parts.append(room(name, x, 8, width, 40, name in lit))
        middle[name] = x + width / 2
        x += width + gap
    width = round(0.61 * size * len(below) + 20)
    parts.append(room(below, middle[into] - width / 2, 72, width, 34, below in lit))
    parts.append(arrow(f"M{middle[into]:.5g} 71V51"))
    return SVG.format(size=size, alt=describe(names, lit, below, into), rooms="\n".join(parts))


if __name__ == "__main__":
    for number, row in ROOMS.items():
        (FIGURES / f"{number:02d}_rooms.svg").write_text(draw(*row), encoding="utf-8")
