"""The recipes, run as from the command line but tiny: what they write, say, read and leave alone.

Everything happens in a copy of `checkpoints/`, with 500 pictures and a step or two of training.
"""

import ast
import importlib
import itertools
import json
import math
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from helpers import (
    TextToImage,
    captions,
    checkpoints,
    flow,
    generator,
    metrics,
    mnist,
    steering,
    strokes,
    text,
    training,
)
from helpers.checkpoints import load_checkpoint
from helpers.metrics import DigitJudge, FeatureJudge, ShapeJudge, load_judge

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ("shapes-mlp", "shapes-cvae", "mnist-cvae", "mnist-style", "mnist-flow")
ANNOUNCEMENT = re.compile(r"This takes about (\d+) min on two cores, writes into (\S+) and (.*)\. "
                          r"To compare afterwards: git diff (?:--no-index )?(.*)\n")


# Everything small


class Letters:
    """Stand in for MiniLM: which characters occur how often."""

    cache = set()  # noqa: RUF012  (it can be cleared)

    def encode(self, sentences, **_):
        codes = [torch.tensor([ord(c) % 384 for c in sentence] or [0]) for sentence in sentences]
        return torch.stack([torch.bincount(code, minlength=384) for code in codes]) / 20


def sizes(pictures):
    """Stand in for `measure_strokes`: four numbers from 0 to 2 about each picture, cheaply."""
    return 1 + (pictures.flatten(1) @ torch.arange(3136.0).sin().view(784, 4) * 1e4).sin()


def of_test_file(load):
    images, labels = load(train=False)
    parts = {True: (images[:500], labels[:500]), False: (images[-200:], labels[-200:])}
    return lambda train=True, data=None: parts[train]


def repeated(write):
    def caption(levels, digits, **how):
        written, named = write(levels[:50], digits[:50], **how)
        rows = torch.arange(len(digits)) % len(written)
        return [written[row] for row in rows.tolist()], named[rows]

    return caption


def one_epoch(train):
    def few(batches, generator):
        return ((x[:16], c[:16]) for x, c in itertools.islice(batches(generator), 2))

    return lambda model, batches, **how: train(
        model, partial(few, batches), **how | {"epochs": 1, "steps": 2}
    )


def two_steps(function):
    return lambda *given: function(*given[:-1], min(given[-1], 2))


SMALLER = {  # of what is in helpers: how to make it quick
    (mnist, "load_mnist"): of_test_file,
    (mnist, "load_splits"): lambda _: lambda: dict(SPLITS),
    (strokes, "measure_strokes"): lambda _: sizes,
    (strokes, "load_strokes"): lambda _: lambda train=True: sizes(
        mnist.to_float(SPLITS["train" if train else "test"][0])),
    (text, "sentence_encoder"): lambda _: Letters,
    (captions, "caption_pictures"): repeated,
    (training, "fit"): lambda fit: lambda parameters, loss, steps, *rest, **how: fit(
        parameters, loss, min(steps, 2), *rest, **how),
    (training, "train_cvae"): one_epoch,
    (training, "train_head"): lambda train: partial(train, steps=2),
    (training, "train_first_generator"): lambda train: partial(train, epochs=1, per_prompt=22),
    (steering, "draw_and_measure"): lambda draw: partial(draw, n=60),
    (flow, "transport"): two_steps,
    (flow, "transport_by_heun"): two_steps,
    (metrics, "kernel_distance"): lambda distance: partial(distance, subsets=2, size=50),
    (metrics, "shape_accuracy_and_variety"): lambda measure: partial(measure, n=9),
    (metrics, "measure_templates"): lambda measure: partial(measure, n=1),
}
FEWER = {  # of what is in the recipes
    "measuring": {"measure_speed": {"n": 8}},
    "mnist_cvae": {"measure_likelihood": {"subset": 3, "samples": 5}},
    "mnist_style": {"measure_cells": {"n": 1}, "measure_slopes": {"n": 1},
                    "measure_readers": {"n": 1}, "misspelled_sentences": {"each": 1}},
}
SPLITS = {}


class House:
    """A copy of `checkpoints/` whose recipes are imported anew, on small helpers."""

    def __init__(self, folder, patch):
        self.folder, self.released = folder, folder / "checkpoints"
        self.kept = folder / "kept"
        ignored = shutil.ignore_patterns("runs", "__pycache__", "recipes")
        shutil.copytree(ROOT / "checkpoints", self.kept, ignore=ignored)
        shutil.copytree(ROOT / "checkpoints" / "recipes", self.released / "recipes")
        for module, name, value in (
            (checkpoints, "CHECKPOINTS", self.released),
            (metrics, "JUDGES", self.released / "judges"),
            (generator, "FAMILIARITY", self.released / "readers" / "familiarity.safetensors"),
        ):
            patch.setattr(module, name, value)
        for (module, name), make in SMALLER.items():
            old = getattr(module, name)
            new = make(old)
            for other in [m for n, m in sys.modules.items() if n.startswith("helpers.")]:
                if vars(other).get(name) is old:
                    patch.setattr(other, name, new)
        SPLITS.update(train=mnist.load_mnist(True), test=mnist.load_mnist(False))
        SPLITS["validation"] = SPLITS["test"]
        patch.syspath_prepend(self.released / "recipes")
        names = [path.stem for path in (self.released / "recipes").glob("*.py")]
        self.before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
        self.recipes = {name: importlib.import_module(name) for name in names}
        for name, functions in FEWER.items():
            for function, less in functions.items():
                whole = getattr(self.recipes[name], function)
                patch.setattr(self.recipes[name], function, partial(whole, **less))
        for name in ("measuring", "mnist_cvae"):
            patch.setattr(self.recipes[name], "PICTURES", 200)
        others = self.recipes["familiarity"].write_others
        patch.setattr(self.recipes["familiarity"], "write_others", lambda n: others(50))

    def leave(self):
        for name in self.recipes:
            del sys.modules[name]
        sys.modules.update(self.before)

    def tidy(self):
        """Put every released file where it was, and nothing else."""
        shutil.rmtree(self.folder / "notebooks", ignore_errors=True)
        for path in self.released.iterdir():
            if path.name != "recipes":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.kept, self.released, copy_function=shutil.copy2, dirs_exist_ok=True)

    def look(self):
        """Say what is released: a dict from path to something that changes with every writing."""
        paths = [p for p in self.folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        found = {str(path.relative_to(self.folder)): path.stat() for path in paths}
        return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()
                if not path.startswith("checkpoints/runs")}

    def __getitem__(self, path):
        """Read a JSON among the released ones or the runs."""
        return json.loads((self.released / path).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole_house(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        house = House(tmp_path_factory.mktemp("house"), patch)
        yield house
        house.leave()


@pytest.fixture
def house(whole_house, monkeypatch):
    whole_house.tidy()
    monkeypatch.chdir(whole_house.folder)
    return whole_house


@pytest.fixture
def call(house, monkeypatch, capsys):
    """Run a recipe as `python RECIPE ARGUMENTS` does: what it prints, changes, and its status."""
    def run(recipe, *arguments):
        module, before, status = house.recipes[recipe], house.look(), 0
        monkeypatch.setattr(sys, "argv", [recipe, *arguments])
        last = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body[-1]
        assert ast.unparse(last.test) == "__name__ == '__main__'"
        try:
            exec(compile(ast.Module(last.body, []), recipe, "exec"), vars(module))
        except SystemExit as end:
            status = end.code
        after, printed = house.look(), capsys.readouterr()
        changed = {path for path in before | after if before.get(path) != after.get(path)}
        said = ANNOUNCEMENT.match(printed.out)
        return status, changed, said and said.groups(), printed

    return run


def keys_of(results):
    """The keys of a dict, and those of the dicts in it, but for how long the measuring took."""
    if not isinstance(results, dict):
        return 0
    others = ("evaluation seconds", "versions")  # packages come and go
    return {k: keys_of(v) for k, v in results.items() if k not in others}


# Training and evaluating


@pytest.mark.parametrize("name", [*DRAWING, "readers/familiarity"])
def test_a_training_writes_beside_what_is_released(house, call, name):
    recipe, stem = name.split("/")[-1].replace("-", "_"), name.split("/")[-1]
    status, changed, said, printed = call(recipe, "train")
    assert status == 0 and not changed, printed.err
    minutes, folder, promise, compared = said
    assert 1 <= int(minutes) <= 30 and promise == "changes nothing that is released"
    assert compared == f"checkpoints/{name}.json checkpoints/runs/{stem}/{stem}.json"
    assert {path.name for path in (house.released / "runs").rglob("*.*")} == {
        f"{stem}.json", f"{stem}.safetensors"} and folder == f"checkpoints/runs/{stem}"
    found, wanted = house[f"runs/{stem}/{stem}.json"], house[f"{name}.json"]
    assert keys_of(found) == keys_of(wanted), "what readers of the released JSON find"
    for key in ("arguments", "seed", "model", *(["captions"] if "captions" in wanted else [])):
        assert found[key] == wanted[key], key
    model, facts = load_checkpoint(house.released / "runs" / stem / f"{stem}.safetensors")
    assert not model.training and facts["sha256"] != wanted["sha256"]
    texts = {"mnist-cvae": 5380, "mnist-style": 7380, "mnist-flow": 7380}
    if name in texts:
        assert facts["extra"]["captions"].shape == (texts[name], 384)
        assert facts["extra"]["captions"].dtype == torch.float16
        assert found["results"]["measures"]["Fréchet distance"]["spread"] > 0, "three seeds differ"
    assert all(key in printed.out for key in found["results"])


def test_a_release_replaces_weights_and_json_and_says_so_first(house, call):
    for recipe, name in (("shapes_mlp", "shapes-mlp"), ("familiarity", "readers/familiarity")):
        status, changed, said, _ = call(recipe, "train", "--release")
        replaced = {f"checkpoints/{name}.safetensors", f"checkpoints/{name}.json"}
        assert status == 0 and changed == replaced
        assert said[3] == f"checkpoints/{name}.json" and all(path in said[2] for path in replaced)
        stem = name.split("/")[-1]
        written = house.released / "runs" / stem / f"{stem}.safetensors"
        assert written.read_bytes() == (house.released / f"{name}.safetensors").read_bytes()
        assert house[f"{name}.json"] == house[f"runs/{stem}/{stem}.json"]
        load_checkpoint(house.released / f"{name}.safetensors")


def test_an_evaluation_writes_results_beside_and_its_release_leaves_the_weights_alone(house, call):
    for recipe, name in (("shapes_mlp", "shapes-mlp"), ("mnist_style", "mnist-style")):
        before, weights = house[f"{name}.json"], house.released / f"{name}.safetensors"
        packed = weights.read_bytes()
        status, changed, said, printed = call(recipe, "evaluate", "--release")
        assert status == 0 and changed == {f"checkpoints/{name}.json"}, printed.err
        assert packed == weights.read_bytes() and "safetensors" not in said[2]
        after = house[f"{name}.json"]
        assert after | {"results": 0} == before | {"results": 0}
        assert keys_of(after["results"]) == keys_of(before["results"])
        assert after["results"] != before["results"]
        for key in ("training seconds", "curve"):
            assert after["results"].get(key) == before["results"].get(key)
    model = TextToImage.load("mnist-style", device="cpu")
    assert len(model.texts) == 7380 and model.understands("a seven").nearest in model.texts
    status, changed, said, _ = call("familiarity", "evaluate")
    assert status == 0 and not changed
    assert said[3].endswith("checkpoints/runs/familiarity/evaluation.json")
    assert keys_of(house["runs/familiarity/evaluation.json"]) == keys_of(
        house["readers/familiarity.json"])


# No judge and no test picture takes part in training a generator


@pytest.fixture
def nobody_looks(house, monkeypatch):
    """Let every use of a judge fail, and take the test pictures away."""
    def refuse(*_, **__):
        pytest.fail("a judge was asked")

    for judge in (DigitJudge, FeatureJudge, ShapeJudge):
        for method in ("__init__", "__call__", "forward"):
            monkeypatch.setattr(judge, method, refuse)
    monkeypatch.setattr(FeatureJudge, "describe", refuse)
    monkeypatch.delitem(SPLITS, "test")
    for name in ("mnist_cvae", "mnist_style"):
        monkeypatch.setattr(house.recipes[name], "measure_curve", lambda snapshots: [])


@pytest.mark.parametrize("name", DRAWING)
def test_a_generator_is_trained_without_a_judge_and_without_test_pictures(
    house, nobody_looks, name
):
    model, facts, _ = house.recipes[name.replace("-", "_")].train()
    assert all(p.isfinite().all() for p in model.parameters()) and facts["seed"] == 0


def test_each_row_of_the_table_trains_something_else(house, nobody_looks):
    recipe, seen = house.recipes["compare_training"], {}
    for name, change in recipe.ROWS.items():
        model, inputs = recipe.train_changed(change)
        with torch.no_grad():
            asked = inputs if inputs is not None else torch.eye(10, 384)
            drawn = model.eval().draw(asked, torch.ones(10, model.latent))
        assert drawn.shape == (10, 1, 28, 28) and (inputs is None) == ("instead" not in name)
        weights = torch.cat([tensor.flatten() for tensor in model.state_dict().values()])
        seen.setdefault(weights.numpy().tobytes(), []).append(name)
    assert not [names for names in seen.values() if len(names) > 1]


# Comparisons


def test_rows_are_kept_as_soon_as_they_are_measured_in_order_beside_the_others(house, call):
    facts = house["mnist-cvae.json"]
    facts["results"]["training seconds"] = 1
    (house.released / "mnist-cvae.json").write_text(json.dumps(facts), encoding="utf-8")
    before = house["comparisons.json"]
    rows = "straightforward loop", "captions shuffled", "a digit instead of a sentence"
    status, changed, said, printed = call("compare_training", *rows)
    assert status == 0 and not changed, printed.err
    assert said[3] == "checkpoints/comparisons.json checkpoints/runs/comparisons/comparisons.json"
    found = house["runs/comparisons/comparisons.json"]
    assert list(found) == [name for name in before if name in rows]
    assert all(keys_of(found[name]) == keys_of(before[name]) for name in rows)
    assert found["straightforward loop"]["seconds"] == 1
    assert found["straightforward loop"]["epochs"] > 0

    status, changed, _, _ = call("compare_training", "beta 2", "--release")
    assert status == 0 and changed == {"checkpoints/comparisons.json"}
    after = house["comparisons.json"]
    assert list(after) == list(before) and after["beta 2"] != before["beta 2"]
    assert after | {"beta 2": 0} == before | {"beta 2": 0}
    assert set(house["runs/comparisons/comparisons.json"]) == {*rows, "beta 2"}
    status, changed, _, printed = call("compare_training", "beta 7")
    assert status == 2 and not changed and "there is no row 'beta 7': choose" in printed.err


def test_the_tables_are_those_that_notebooks_read(house, call):
    for recipe, name, figure in (("compare_styles", "style-comparisons", "12_ruined.png"),
                                 ("compare_flows", "flow-comparisons", None)):
        before = house[f"{name}.json"]
        replaced = {f"checkpoints/{name}.json"}
        replaced |= {f"notebooks/figures/{figure}"} if figure else set()
        status, changed, said, printed = call(recipe, "--release")
        assert status == 0 and changed == replaced, printed.err
        assert all(path in said[2] for path in replaced)
        after = house[f"{name}.json"]
        assert list(after) == list(before) and keys_of(after) == keys_of(before)
        assert after == house[f"runs/comparisons/{name}.json"]


# What goes wrong


def test_what_stops_it_is_said_in_one_line_and_changes_nothing_that_is_released(
    house, call, monkeypatch
):
    def stopped(error):
        def train(*_):
            raise error

        return train

    def measured(names):
        yield "beta 2", {"coverage": 0.5}
        raise KeyboardInterrupt

    recipe = house.recipes["shapes_mlp"]
    for error, code, said in (
        (KeyboardInterrupt(), 130, "Stopped: no released file was changed."),
        (FloatingPointError("The loss is nan."), 2, "The loss is nan."),
        (OSError(28, "disk full", "a.json"), 2, "a.json: disk full."),
    ):
        for part in ("train", "measure_shapes"):
            with monkeypatch.context() as patch:
                patch.setattr(recipe, part, stopped(error))
                status, changed, _, printed = call("shapes_mlp", "train", "--release")
            last = printed.err.splitlines()[-1]  # a bar may stand before it
            assert (status, changed, last) == (code, set(), said), part
            assert "Traceback" not in printed.err
    monkeypatch.setattr(house.recipes["compare_training"], "measure", measured)
    status, changed, _, printed = call("compare_training", "--release")
    assert (status, changed) == (130, set()) and printed.err.startswith("Stopped: ")
    assert house["runs/comparisons/comparisons.json"] == {"beta 2": {"coverage": 0.5}}


def test_a_folder_that_cannot_be_written_is_found_before_the_work(house, call, monkeypatch):
    def work(*_):
        pytest.fail("it has begun")

    for recipe, part, arguments, blocked in (
        ("shapes_mlp", "train", ["train"], "checkpoints/runs"),
        ("judges", "train", ["train"], "checkpoints/runs"),
        ("compare_styles", "measure", ["--release"], "notebooks"),
    ):
        (house.folder / blocked).write_text("a file where a folder should be")
        monkeypatch.setattr(house.recipes[recipe], part, work)
        status, _, said, printed = call(recipe, *arguments)
        assert status == 2 and said is None and printed.err.count("\n") == 1
        assert blocked in printed.err
        (house.folder / blocked).unlink()


# The judges


def test_judges_are_examined_on_test_pictures_and_say_what_to_pin(house, call, monkeypatch):
    """The released judges, on an exam where every second answer is no digit at all."""
    def trained(judge, images, labels, epochs):
        assert torch.equal(images, SPLITS["train"][0]) and torch.equal(labels, SPLITS["train"][1])
        judge.load_state_dict(released[type(judge)].state_dict())
        return judge.eval()

    released = {type(judge): judge for judge in map(load_judge, ("digits", "features"))}
    images, labels = SPLITS["test"]
    half = torch.where(torch.arange(len(labels)) % 2 == 0, labels, 10)
    monkeypatch.setitem(SPLITS, "test", (images, half))
    with monkeypatch.context() as patch:
        patch.setattr(house.recipes["judges"], "train_classifier", trained)
        status, changed, said, printed = call("judges", "train")
    assert status == 0 and not changed and said[1] == "checkpoints/runs/judges"
    lines = printed.out.splitlines()[1:]
    for line, (name, sha256) in zip(lines, metrics.JUDGE_SHA256.items(), strict=True):
        assert re.match(rf"{name}: (49|50)\.\d0% of the real test pictures", line), line
        assert line.endswith(sha256)
    status, changed, _, _ = call("judges", "train", "--release")
    judges = {f"checkpoints/judges/{name}.safetensors" for name in metrics.JUDGE_SHA256}
    assert status == 0 and changed == judges
    with pytest.raises(ValueError, match="is not the released judge"):
        load_judge("digits")


# What is committed


def committed(name):
    return json.loads((ROOT / "checkpoints" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_committed_results_are_whole_and_hang_together():
    failures = {}
    for name in DRAWING[2:]:
        said = committed(name)["results"]
        measures, by_phrasing = said["measures"], said["by phrasing, held-out"]
        ratio, distance = measures["Fréchet ratio"], measures["Fréchet distance"]
        low, high = said["interval, held-out"]
        mean, shares = measures["prompt accuracy, held-out"]["mean"], said["by digit, held-out"]
        failures[name] = [what for what, holds in {
            "size": (said["pictures"], said["seeds"]) == (10_000, 3),
            "phrasings": set(by_phrasing) == set(captions.HELD_OUT_PHRASINGS),
            "order": [*by_phrasing.values()] == sorted(by_phrasing.values()),
            "ratio": math.isclose(ratio["mean"], distance["mean"] / distance["real"], rel_tol=1e-3),
            "interval": low < mean < high and high - low < 0.004,
            "digits": math.isclose(sum(shares) / 10, mean, abs_tol=1e-4),
            "worst": measures["worst digit, held-out"]["mean"] <= min(shares) + 1e-5,
            "real": measures["prompt accuracy, training"]["real"] > 0.99,
        }.items() if not holds]
    for name in ("mnist-cvae", "mnist-style"):
        said = committed(name)["results"]
        seconds = [row["seconds"] for row in said["curve"]]
        ratios = [row["Fréchet ratio"] for row in said["curve"]]
        assert len(seconds) == 12 and seconds == sorted(seconds)
        assert seconds[-1] <= said["training seconds"] < 900 and ratios[0] > 3 * ratios[-1]
    nats = committed("mnist-cvae")["results"]["nats"]
    assert nats["IWAE, conditional"] < nats["IWAE, marginal"] < 88
    assert nats["IWAE, marginal"] - nats["IWAE, conditional"] < math.log(10) + 0.1
    assert nats["IWAE, conditional"] < nats["negative ELBO, conditional"] < 90
    flow_seconds = committed("mnist-flow")["results"]
    assert flow_seconds["flow seconds"] < flow_seconds["autoencoder seconds"] < 300
    assert not any(failures.values()), failures


def test_the_committed_controls_say_what_the_notebooks_say():
    ten, eleven, twelve = map(committed, ("comparisons", "style-comparisons", "flow-comparisons"))
    *changed, loop = ten.values()
    assert max(r["CPU seconds"] for r in changed) < 1.5 * min(r["CPU seconds"] for r in changed)
    for kind in ("training", "held-out"):
        assert 0.05 < ten["captions shuffled"][f"prompt accuracy, {kind}"] < 0.15
    released = ten["as released, three epochs"]
    assert released["prompt accuracy, held-out"] > 0.95 > loop["prompt accuracy, held-out"]
    none, decoder, codes = eleven.values()
    assert decoder["Fréchet ratio"] > 1.2 * max(none["Fréchet ratio"], codes["Fréchet ratio"])
    thirds = [sum(row["in the requested third"].values()) for row in (none, codes)]
    assert thirds[1] > 1.4 * thirds[0]
    priors, decoders = twelve["priors"], twelve["decoders"]
    assert priors["a flow"]["coverage"] > priors["conditional prior"]["coverage"]
    errors = [row["rebuilt, squared error"] for row in decoders.values()]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    euler, heun = ([row["Fréchet ratio"] for row in rows.values()]
                   for rows in twelve["steps"].values())
    assert euler == sorted(euler, reverse=True) and heun[1] < euler[1]
    guided = [row["coverage"] for row in twelve["guidance"].values()]
    assert max(guided[:2]) > guided[-1]
