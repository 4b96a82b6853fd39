"""How each released checkpoint is trained and measured: `python -m helpers train NAME`."""

import copy
import functools
import time

import torch
from safetensors.torch import save

from helpers.captions import TRAINING_PHRASINGS, all_captions
from helpers.characters import CharacterTokenizer
from helpers.checkpoints import load_checkpoint, save_checkpoint
from helpers.evaluation import measure, measure_curve
from helpers.files import write_whole
from helpers.generator import fit_understanding, sentence_encoder
from helpers.metrics import JUDGES, name_digits, train_digit_judge, train_feature_judge
from helpers.mnist import load_splits, to_float
from helpers.models import ConvCVAE, FirstGenerator, ShapesCVAE
from helpers.shapes import PROMPTS
from helpers.training import (
    MNIST_RECIPE,
    SHAPES_RECIPE,
    caption_batches,
    group_by_digit,
    proofread,
    shape_batches,
    toss_pixels,
    train_cvae,
    train_first_generator,
    train_head,
    train_proofreader,
)


def _train_shapes_mlp(after_epoch):
    torch.manual_seed(0)
    model = FirstGenerator()
    train_first_generator(model, seed=0)
    return model, {}, None


def _train_shapes_cvae(after_epoch):
    tokens = CharacterTokenizer().encode(PROMPTS)
    torch.manual_seed(0)
    model, _ = train_cvae(
        ShapesCVAE(), lambda g: shape_batches(tokens, 1250, 125, g), **SHAPES_RECIPE
    )
    return model, {}, None


def _train_mnist_cvae(after_epoch):
    captions, digits = all_captions(TRAINING_PHRASINGS)
    embeddings = sentence_encoder().encode(captions)
    by_digit = group_by_digit(embeddings, digits)
    images, labels = load_splits()["train"]
    proofreader = train_proofreader(images, labels)
    torch.manual_seed(0)
    model = ConvCVAE()
    train_head(model.head, embeddings, digits)
    model, _ = train_cvae(
        model, lambda g: toss_pixels(caption_batches(images, labels, by_digit, 250, g), g),
        **MNIST_RECIPE, penalty=functools.partial(proofread, proofreader=proofreader),
        after_epoch=after_epoch,
    )
    known, logistic = fit_understanding(sentence_encoder())
    return model, {"understands": logistic}, {"captions": known}


TRAINERS = {
    "shapes-mlp": _train_shapes_mlp,
    "shapes-cvae": _train_shapes_cvae,
    "mnist-cvae": _train_mnist_cvae,
}


def train_released(name):
    """Train a released checkpoint anew, measure it and write it to `checkpoints/`.

    Args:
        name: "shapes-mlp", "shapes-cvae", "mnist-cvae", or "judges" for the judges of digits.

    Raises:
        ValueError: the name is none of these.
    """
    if name == "judges":
        _train_judges()
        return
    if name not in TRAINERS:
        raise ValueError(
            f"There is no recipe for {name!r}: choose {', '.join(TRAINERS)} or judges."
        )
    snapshots = []
    start = time.perf_counter()
    model, facts, extra = TRAINERS[name](
        lambda average, _: snapshots.append((time.perf_counter() - start, copy.deepcopy(average)))
    )
    results = {"training seconds": round(time.perf_counter() - start)}
    if snapshots:
        results["curve"] = measure_curve(snapshots)
    save_checkpoint(name, model.eval(), {"seed": 0, "results": results} | facts, extra)
    evaluate_released(name)


def evaluate_released(name):
    """Measure a released checkpoint, print the results and write them into its JSON.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    model, facts = load_checkpoint(name)
    start = time.perf_counter()
    kept = ("training seconds", "curve")
    results = {key: facts["results"][key] for key in kept if key in facts["results"]}
    results["parameters"] = sum(p.numel() for p in model.parameters())
    results |= measure(model)
    results["evaluation seconds"] = round(time.perf_counter() - start)
    save_checkpoint(name, model, facts | {"results": results}, facts["extra"])
    for key, value in results.items():
        print(f"{key}: {value}")


def _train_judges():
    splits = load_splits()
    for name, train in (("digits", train_digit_judge), ("features", train_feature_judge)):
        judge = train(*splits["train"])
        images, labels = splits["test"]
        accuracy = (name_digits(judge, to_float(images)) == labels).float().mean().item()
        JUDGES.mkdir(parents=True, exist_ok=True)
        path = JUDGES / f"{name}.safetensors"
        write_whole(path, save(judge.state_dict()))
        print(f"{name}: {accuracy:.2%} of the real test pictures; pin the new sha256 in metrics.py")
