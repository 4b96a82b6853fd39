"""The command line: `python -m helpers draw "a seven"`, `train`, `evaluate` and `compare`."""

import argparse
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from helpers import open_folder

RECIPES = Path(__file__).resolve().parents[1] / "checkpoints" / "recipes"
NAMES = "shapes-mlp, shapes-cvae, mnist-cvae, mnist-style, mnist-flow, familiarity"
ROWS = "rows of the table in 11_how_good_is_it, or after styles or flows of theirs; all without"
KNOWN = {"train": f"{NAMES}, judges", "evaluate": NAMES, "compare": ROWS}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        message = textwrap.shorten(message[:1].upper() + message[1:], 200, placeholder=" …")
        self.exit(2, f"{message}: see 'python -m helpers --help'.\n")


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
    draw.add_argument("--checkpoint", default="mnist-flow", help="name or path (mnist-flow)")
    draw.add_argument("--out", default="outputs", help="folder of the files (outputs)")
    draw.add_argument("--device", help="cpu, cuda or mps; the best there is without it")
    draw.add_argument("--no-preview", action="store_true", help="do not show them in the terminal")
    draw.set_defaults(run=run_draw)
    for command, names in KNOWN.items():
        slow = commands.add_parser(command, help=f"{command} anew, into checkpoints/runs (minutes)")
        slow.add_argument("name", nargs="*" if command == "compare" else 1, help=names)
        slow.add_argument("--release", action="store_true", help="replace what is released")
        slow.add_argument("--device", help="cpu, cuda or mps; the best there is without it")
        slow.set_defaults(run=run_recipe)
    return parser


def run_draw(arguments):
    """Load, draw, show, save; that it loads is said at once, and the folder is looked at first."""
    prompt, folder = arguments.prompt, open_folder(arguments.out)
    if sys.stderr.isatty():
        print("Loading …", end="\r", file=sys.stderr, flush=True)
    from helpers import generator  # noqa: PLC0415  (it takes seconds)

    model = generator.TextToImage.load(arguments.checkpoint, arguments.device)
    settings = {"seed": arguments.seed, "temperature": arguments.temperature}
    settings |= model.settings(prompt, arguments.guidance, arguments.steps)
    pictures = model.draw(prompt, arguments.count, **settings)
    if doubt := model.doubt(prompt):
        print(doubt, file=sys.stderr, flush=True)
    facts = {"prompt": prompt, **settings, "checkpoint": model.name, "Title": model.title(prompt)}
    if not arguments.no_preview:
        width = min(80, shutil.get_terminal_size().columns)
        print(preview(pictures[:8], width, _colours(sys.stdout)))
    for k, picture in enumerate(pictures, start=1):  # each is named as soon as it is there
        print(generator.save_picture(picture, folder, facts, k), flush=True)
    return 0


def run_recipe(arguments):
    """Run a recipe of `checkpoints/recipes` as a child process; return its exit status."""
    command, names = arguments.command, arguments.name
    if command == "compare":
        other = names[:1] in (["styles"], ["flows"])
        recipe = f"compare_{names[0] if other else 'training'}"
        rest = names[other:]
    else:
        recipe, rest = names[0].replace("-", "_"), [command]
        if names[0] not in KNOWN[command].split(", "):
            raise ValueError(f"There is no recipe for {names[0]!r}: choose {KNOWN[command]}.")
    path = RECIPES / f"{recipe}.py"
    if not path.is_file():
        raise ValueError(f"There is no {path}: {command} needs a clone of the project.")
    rest += ["--release"] * arguments.release
    rest += [f"--device={arguments.device}"] if arguments.device else []
    places = filter(None, (str(RECIPES.parents[1]), os.environ.get("PYTHONPATH")))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    with subprocess.Popen([sys.executable, str(path), *rest], env=environment) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:  # the child has heard it too, and says its own line
            child.wait()
            return 130


def _colours(stream):
    """Say how many colours a stream shows: 2**24, 256, or 0 for plain letters."""
    encoding = (getattr(stream, "encoding", "") or "").lower().replace("-", "")
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if plain or not stream.isatty() or encoding != "utf8":
        return 0
    return 2**24 if os.environ.get("COLORTERM") in ("truecolor", "24bit") else 256


def preview(pictures, width=80, colours=0):
    """Write pictures (n, 1, 28, 28) as text, side by side; with 256 or 2**24 greys, or letters."""
    blocks = []
    for row in pictures[:, 0].split(max(1, (width + 2) // 30)):
        lines = zip(*[_picture_lines(picture, colours) for picture in row], strict=True)
        blocks.append("\n".join("  ".join(line) for line in lines))
    return "\n\n".join(blocks)


def _picture_lines(picture, colours):
    for pairs in picture.reshape(14, 2, 28).mT.tolist():  # a character is two pixels high
        if colours:
            greys = [[_grey(value, colours) for value in pair] for pair in pairs]
            yield "".join(f"\x1b[38;{a};48;{b}m▀" for a, b in greys) + "\x1b[0m"
        else:
            yield "".join(" .:-=+*#%@"[round((a + b) / 2 * 9)] for a, b in pairs)


def _grey(value, colours):
    level = round(value * 255)
    return f"5;{232 + round(value * 23)}" if colours == 256 else f"2;{level};{level};{level}"


def main(arguments=None):
    """Run one command; return the exit status: 0, 2 for bad input, 130 after Ctrl-C."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # it is closed
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))
    if sys.stdout.errors == "strict":  # there are letters that it lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        parsed = make_parser().parse_args(arguments)
        status = parsed.run(parsed)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("Stopped before it was done; what is written is whole.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError, ImportError) as error:  # torch says either
        reason = " ".join(str(error).split())[:200]
        print(f"There is not enough memory, or torch does not work here: ask for fewer pictures, "
              f"or free some memory ({type(error).__name__}: {reason}).", file=sys.stderr)
        return 2
    except (OSError, ValueError, TypeError, FloatingPointError) as error:
        from helpers.generator import describe  # noqa: PLC0415

        print(describe(error), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
