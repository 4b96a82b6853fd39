"""How each released checkpoint is trained and measured: `python -m helpers train NAME`."""

import copy
import functools
import sys
import time
from typing import NamedTuple

import torch
from safetensors.torch import save

from helpers.captions import TRAINING_PHRASINGS, all_captions
from helpers.characters import CharacterTokenizer
from helpers.checkpoints import load_checkpoint, save_checkpoint
from helpers.evaluation import measure, measure_curve
from helpers.everyday import caption_pictures, write_others
from helpers.files import write_whole
from helpers.flow_training import conditions_of, train_autoencoder, train_flow
from helpers.generator import FAMILIARITY, sentence_encoder
from helpers.metrics import JUDGES, name_digits, train_digit_judge, train_feature_judge
from helpers.mnist import load_splits, to_float
from helpers.models import ConvCVAE, FirstGenerator, LatentFlow, ShapesCVAE, StyleCVAE
from helpers.shapes import PROMPTS
from helpers.strokes import load_strokes, measure_styles
from helpers.style_evaluation import measure_familiarity
from helpers.style_training import (
    pair_batches,
    train_familiarity,
    train_prior,
    train_style_head,
)
from helpers.styles import (
    LEVELS,
    STYLES,
    UNSAID,
    known_captions,
    level_of,
    rank_within_digit,
    styled_captions,
)
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
    return model, {}, {"captions": embeddings.half()}


class Corpus(NamedTuple):
    """What `mnist-style` learns from; the first captions are those of the training pictures."""

    embeddings: torch.Tensor  # (n, 384)
    digits: torch.Tensor      # (n,), what they name
    said: torch.Tensor        # (n, 4), the levels that they name
    known: torch.Tensor       # (7380, 384), encoded `known_captions`
    measures: torch.Tensor    # (55000, 4), thickness, slant, width and size of the pictures
    ranks: torch.Tensor       # (55000, 4), the same as ranks within their digit


def write_corpus(labels, more=20_000):
    """Measure the training pictures, write captions for them and others besides, encode all."""
    measures = measure_styles(load_strokes()[: len(labels)])
    ranks = rank_within_digit(measures, labels, measures, labels)
    captions, said = caption_pictures(level_of(ranks), labels)
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(len(LEVELS), (more, len(STYLES)), generator=generator) - 2
    digits = torch.randint(10, (more,), generator=generator)
    others, others_said = caption_pictures(levels, digits, seed=1)
    _, plain = all_captions(TRAINING_PHRASINGS)
    _, styled, styled_said = styled_captions(len(known_captions()) - len(plain))
    encode = sentence_encoder().encode
    known = encode(list(known_captions()))
    return Corpus(
        torch.cat([encode(captions), encode(others), known]),
        torch.cat([labels, digits, plain, styled]),
        torch.cat([said, others_said, torch.full((len(plain), len(STYLES)), UNSAID), styled_said]),
        known, measures, ranks,
    )


def _train_mnist_style(after_epoch):
    images, labels = load_splits()["train"]
    corpus = write_corpus(labels)
    captions = corpus.embeddings[: len(labels)]
    proofreader = train_proofreader(images, labels)
    torch.manual_seed(0)
    model = StyleCVAE()
    train_style_head(model.head, corpus.embeddings, corpus.digits, corpus.said)
    model, _ = train_cvae(
        model, lambda g: toss_pixels(pair_batches(images, captions, 250, g), g), **MNIST_RECIPE,
        penalty=functools.partial(proofread, proofreader=proofreader), after_epoch=after_epoch,
    )
    train_prior(
        model, corpus.embeddings, images, labels, corpus.measures, corpus.ranks, proofreader
    )
    return model, {}, {"captions": corpus.known.half()}


def _train_mnist_flow(after_epoch):
    images, labels = load_splits()["train"]
    reader, facts = load_checkpoint("mnist-style")
    conditions = conditions_of(labels)
    start = time.perf_counter()
    torch.manual_seed(0)
    model = LatentFlow()
    model.head = reader.head
    train_autoencoder(model.autoencoder, images)
    trained = time.perf_counter()
    train_flow(model, images, conditions)
    seconds = {
        "autoencoder seconds": round(trained - start),
        "flow seconds": round(time.perf_counter() - trained),
    }
    return model, seconds, {"captions": facts["extra"]["captions"]}


TRAINERS = {
    "shapes-mlp": _train_shapes_mlp,
    "shapes-cvae": _train_shapes_cvae,
    "mnist-cvae": _train_mnist_cvae,
    "mnist-style": _train_mnist_style,
    "mnist-flow": _train_mnist_flow,
}


def train_released(name):
    """Train a released checkpoint anew, write it to `checkpoints/` and measure it.

    Nothing is written before the training is done: stopped, it begins anew the next time.

    Args:
        name: "shapes-mlp", "shapes-cvae", "mnist-cvae", "mnist-style", "mnist-flow" (with the
            reader of "mnist-style"), "familiarity" for the network behind `understands`, or
            "judges" for the judges of digits.

    Raises:
        ValueError: the name is none of these.
    """
    if name == "judges":
        _train_judges()
        return
    if name == "familiarity":
        _train_familiarity()
        return
    if name not in TRAINERS:
        raise ValueError(
            f"There is no recipe for {name!r}: choose {', '.join(TRAINERS)}, familiarity or judges."
        )
    snapshots = []
    start = time.perf_counter()
    try:
        model, seconds, extra = TRAINERS[name](lambda average, _: snapshots.append(
            (time.perf_counter() - start, copy.deepcopy(average))
        ))
        results = {"training seconds": round(time.perf_counter() - start)} | seconds
        if snapshots:
            results["curve"] = measure_curve(snapshots)
    except KeyboardInterrupt:
        print(f"{name} is as it was; training it again begins anew.", file=sys.stderr)
        raise
    save_checkpoint(name, model.eval(), {"seed": 0, "results": results}, extra)
    evaluate_released(name)


def _train_familiarity():
    corpus = write_corpus(load_splits()["train"][1])
    others = sentence_encoder().encode(write_others(20_000))
    net = train_familiarity(corpus.embeddings, corpus.digits, others)
    _keep_familiarity(net, {"arguments": {"hidden": 256, "output": 11, "noise": 1.0}, "seed": 0})


def _keep_familiarity(net, facts):
    results = measure_familiarity(net)
    save_checkpoint(FAMILIARITY, net, facts | {"results": results})
    print(results)


def evaluate_released(name):
    """Measure a released checkpoint, print the results and write them into its JSON.

    Args:
        name: as for `train_released`, but for the judges.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    if name == "familiarity":
        _keep_familiarity(*load_checkpoint(FAMILIARITY))
        return
    model, facts = load_checkpoint(name)
    start = time.perf_counter()
    kept = ("training seconds", "autoencoder seconds", "flow seconds", "curve")
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
