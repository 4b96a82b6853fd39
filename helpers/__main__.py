"""The command line: `python -m helpers draw "a seven"`, `train`, `evaluate` and `compare`."""

import argparse
import os
import shutil
import sys
import textwrap
from pathlib import Path

from helpers.checkpoints import choose_device, known_checkpoints, load_checkpoint
from helpers.generator import (
    DEFAULT,
    TextToImage,
    check_count,
    check_prompts,
    check_temperature,
    describe,
    save_pictures,
)

RAMP = " .:-=+*#%@"
SHOWN = 8  # pictures in the preview; the files hold all of them
WIDTH = 80


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        message = textwrap.shorten(message[:1].upper() + message[1:], 200, placeholder=" …")
        print(f"{message}: see 'python -m helpers --help'.", file=sys.stderr)
        raise SystemExit(2)


def make_parser():
    """Build the argument parser of the four subcommands."""
    parser = _Parser(prog="python -m helpers", description="Draw from a sentence.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    draw = commands.add_parser("draw", help="draw pictures of a prompt and write them as PNG")
    draw.add_argument("prompt", help='what to draw, as in "a seven"')
    draw.add_argument("--count", type=int, default=1, metavar="N", help="pictures (1)")
    draw.add_argument("--seed", type=int, default=0, help="same seed, same pictures (0)")
    draw.add_argument("--temperature", type=float, default=1.0, help="0 is the most typical (1.0)")
    draw.add_argument("--guidance", type=float, help="of a flow: 1 takes the prompt as it is")
    draw.add_argument("--steps", type=int, help="of a flow: from noise to picture")
    draw.add_argument("--checkpoint", default=DEFAULT, help=f"name or path ({DEFAULT})")
    draw.add_argument("--out", default="outputs", type=Path, help="folder of the files (outputs)")
    draw.add_argument("--device", help="cpu, cuda or mps; the best there is without it")
    draw.add_argument("--no-preview", action="store_true", help="do not show them in the terminal")
    draw.set_defaults(run=run_draw)
    for name, run in (("train", run_train), ("evaluate", run_evaluate)):
        command = commands.add_parser(name, help=f"{name} a released checkpoint")
        command.add_argument("name", help=f"one of {', '.join(known_checkpoints()) or 'none yet'}")
        command.set_defaults(run=run)
    compare = commands.add_parser("compare", help="train the controls of notebooks 10 to 12 anew")
    compare.add_argument(
        "rows", nargs="*",
        help="rows of notebook 10's table, all without any; styles for 11's, flows for 12's",
    )
    compare.set_defaults(run=run_compare)
    return parser


def run_draw(arguments):
    """Draw, show, save: everything that can be wrong is looked at before the slow part."""
    (prompt,) = check_prompts(arguments.prompt)
    count, temperature = check_count(arguments.count), check_temperature(arguments.temperature)
    choose_device(arguments.device)
    model = TextToImage.load(arguments.checkpoint, arguments.device)
    _check_folder(arguments.out)
    doubt = model.doubt(prompt)
    if doubt:
        print(doubt, file=sys.stderr, flush=True)
    flow = {"guidance": arguments.guidance, "steps": arguments.steps}
    pictures = model.draw(prompt, count, arguments.seed, temperature, **flow)
    facts = {"prompt": prompt, "seed": arguments.seed, "temperature": temperature}
    facts |= {name: value for name, value in flow.items() if value is not None}
    facts |= {"checkpoint": model.name, "Title": model.title(prompt)}
    paths = save_pictures(pictures, arguments.out, facts)
    if not arguments.no_preview:
        width = min(WIDTH, shutil.get_terminal_size().columns)
        print(preview(pictures[:SHOWN], width, _colours(sys.stdout)))
    for path in paths:
        print(path)


def run_train(arguments):
    """Train one of the released checkpoints again."""
    from helpers.release import train_released  # noqa: PLC0415

    train_released(arguments.name)


def run_evaluate(arguments):
    """Measure one of the released checkpoints."""
    if arguments.name != "familiarity":  # an unknown name is refused before any slow import
        load_checkpoint(arguments.name)
    from helpers.release import evaluate_released  # noqa: PLC0415

    evaluate_released(arguments.name)


def run_compare(arguments):
    """Train and measure rows of the tables of controls."""
    if arguments.rows == ["styles"]:
        from helpers.style_comparisons import compare_styles  # noqa: PLC0415

        return compare_styles()
    if arguments.rows == ["flows"]:
        from helpers.flow_comparisons import compare_flows  # noqa: PLC0415

        return compare_flows()
    from helpers.comparisons import compare  # noqa: PLC0415

    return compare(arguments.rows)


def _check_folder(folder):
    """Raise OSError if no file can be written there, without leaving a new folder behind."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise NotADirectoryError(20, "not a folder, choose another with --out", str(nearest))
    if not os.access(nearest, os.W_OK):
        raise PermissionError(13, "cannot be written, choose another with --out", str(nearest))


def _colours(stream):
    """Say how many colours a stream shows: 2**24, 256, or 0 for plain letters."""
    encoding = (getattr(stream, "encoding", "") or "").lower().replace("-", "")
    if not stream.isatty() or os.environ.get("NO_COLOR") or encoding != "utf8":
        return 0
    if os.environ.get("TERM") == "dumb":
        return 0
    return 2**24 if os.environ.get("COLORTERM") in ("truecolor", "24bit") else 256


def preview(pictures, width=80, colours=0):
    """Write pictures as text, as many side by side as fit.

    Args:
        pictures: tensor (n, 1, 28, 28) with values in [0, 1].
        width: columns of the terminal.
        colours: 2**24 or 256 for half-block characters in grey, 0 for letters without colour.

    Returns:
        Lines of at most `width` visible columns (28 at least), one character for two pixels.
    """
    across = max(1, (width + 2) // 30)
    blocks = []
    for row in pictures[:, 0].split(across):
        lines = zip(*[_picture_lines(picture, colours) for picture in row], strict=True)
        blocks.append("\n".join("  ".join(line) for line in lines))
    return "\n\n".join(blocks)


def _picture_lines(picture, colours):
    upper, lower = picture[0::2].tolist(), picture[1::2].tolist()
    for up, low in zip(upper, lower, strict=True):
        if not colours:
            yield "".join(
                RAMP[round((a + b) / 2 * (len(RAMP) - 1))] for a, b in zip(up, low, strict=True)
            )
            continue
        greys = [(_grey(a, colours), _grey(b, colours)) for a, b in zip(up, low, strict=True)]
        yield "".join(f"\x1b[38;{a};48;{b}m▀" for a, b in greys) + "\x1b[0m"


def _grey(value, colours):
    if colours == 256:
        return f"5;{232 + round(value * 23)}"
    level = round(value * 255)
    return f"2;{level};{level};{level}"


def _mend_streams():
    """Print into nothing where a stream is closed, and escape what it has no letter for."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    if sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def main(arguments=None):
    """Run one command; return the exit status: 0, 2 for bad input, 130 after Ctrl-C."""
    _mend_streams()
    try:
        parsed = make_parser().parse_args(arguments)
        parsed.run(parsed)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print("Stopped before it was done; what is written is whole.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError, TypeError, FloatingPointError) as error:
        print(describe(error), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
