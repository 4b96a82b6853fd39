"""How the recipes are run: what is written where, and what is said before and after."""

import argparse
import contextlib
import json
import os
import sys

from helpers import open_folder, write_whole
from helpers.checkpoints import CHECKPOINTS, load_checkpoint, pack_json, save_checkpoint
from helpers.doors import choose_device
from helpers.generator import describe

RUNS = CHECKPOINTS / "runs"  # git ignores it
# What stays in a checkpoint's results when it is only measured again.
OF_TRAINING = ("training seconds", "autoencoder seconds", "flow seconds", "curve")


def run(name, train, measure, minutes, folder=CHECKPOINTS):
    """Train or evaluate one checkpoint, as the command line says.

    Args:
        name: of the checkpoint.
        train: a function that returns model, facts and extra, as `save_checkpoint` takes them.
        measure: a function from the model, as it is loaded, to a dict of results.
        minutes: how long it takes on two cores, a dict with "train" and "evaluate".
        folder: where the released files are.
    """
    parser = argparse.ArgumentParser(description=f"Train {name} anew, or measure what is released.")
    parser.add_argument("action", choices=("train", "evaluate"))
    asked = parse(parser)
    training = asked.action == "train"
    weights, facts_path = folder / f"{name}.safetensors", folder / f"{name}.json"
    written = RUNS / name / (f"{name}.json" if training else "evaluation.json")
    replaced = [weights, facts_path] if training else [facts_path]
    with errors_in_one_line():
        choose_device()  # an unknown one is refused before the work
        announce(minutes[asked.action], facts_path, written, replaced if asked.release else ())
        if training:
            model, facts, extra = train()
            weights = save_checkpoint(written.with_suffix(".safetensors"), model, facts, extra)
        model, facts = load_checkpoint(weights)
        extra, results = facts.pop("extra"), facts.get("results", {})
        kept = {key: results[key] for key in OF_TRAINING if key in results}
        facts["results"] = kept | measure(model)
        for key, value in facts["results"].items():
            print(f"{key}: {value}")
        write_whole(written, pack_json(facts))
        if asked.release and training:
            save_checkpoint(folder / f"{name}.safetensors", model, facts, extra)
        elif asked.release:
            write_whole(facts_path, pack_json(facts))


def compare(name, order, measure, minutes, choice=False, figure=None):
    """Write the rows of a comparison into one JSON, each as soon as it is measured.

    Args:
        name: of the file.
        order: the names of all rows.
        measure: a generator function from names to pairs of a name and its measures.
        minutes: how long a row takes on two cores.
        choice: whether the command line may name some rows.
        figure: the path of a released picture that `measure` writes beside the rows, too.
    """
    parser = argparse.ArgumentParser(description=f"Train and measure what is in {name}.json anew.")
    if choice:
        parser.add_argument("rows", nargs="*", help=f"all without any; {', '.join(order)}")
    parser.set_defaults(rows=[])
    asked = parse(parser)
    unknown = [row for row in asked.rows if row not in order]
    if unknown:
        parser.error(f"there is no row {unknown[0]!r}: choose among {', '.join(map(repr, order))}")
    released, written = CHECKPOINTS / f"{name}.json", RUNS / "comparisons" / f"{name}.json"
    names, found = asked.rows or order, {}
    replaced = [path for path in (released, figure) if path and asked.release]
    with errors_in_one_line():
        announce(minutes * len(names), released, written, replaced)
        for row, measures in measure(names):
            found[row] = measures
            update_json(written, found, order)
            print(row, measures, flush=True)
        if asked.release:
            update_json(released, found, order)
        if asked.release and figure:
            write_whole(figure, written.with_name(figure.name).read_bytes())


def parse(parser):
    """Read the arguments; --release and --device are among them."""
    parser.add_argument("--release", action="store_true", help="replace the released files")
    parser.add_argument("--device", help="cpu, cuda or mps; the best there is without it")
    asked = parser.parse_args()
    if asked.device:
        os.environ["PROMPT_TO_PIXELS_DEVICE"] = asked.device
    return asked


@contextlib.contextmanager
def errors_in_one_line():
    """End with one line and no traceback after Ctrl-C (130), or where a file is at fault (2)."""
    try:
        yield
    except KeyboardInterrupt:
        print("Stopped: no released file was changed.", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError, FloatingPointError) as error:
        print(describe(error), file=sys.stderr)
        sys.exit(2)


def announce(minutes, released, written, replaced):
    """Say what will be written where; raise OSError if it cannot be.

    Args:
        minutes: how long it takes on two cores.
        released, written: what is released, and what can be compared with it: files or folders.
        replaced: what is released and will be replaced in the end.
    """
    for path in (*replaced, written):
        folder = path.parent if path.suffix else path
        open_folder(folder)
    there, here = map(os.path.relpath, (released, written))
    if replaced:
        end = f"in the end replaces {' and '.join(map(os.path.relpath, replaced))}"
        comparison = f"git diff {there}"
    else:
        end = "changes nothing that is released"
        comparison = f"git diff --no-index {there} {here}"
    print(f"This takes about {minutes} min on two cores, writes into {os.path.relpath(folder)} and "
          f"{end}. To compare afterwards: {comparison}", flush=True)


def update_json(path, rows, order):
    """Replace some rows of a JSON file, or make it; the rows stand in the given order."""
    rows = (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}) | rows
    write_whole(path, pack_json({row: rows[row] for row in order if row in rows}))
