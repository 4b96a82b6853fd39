"""How each released checkpoint is trained and measured: `python -m helpers train NAME`."""

import time

import torch
from safetensors.torch import save

from helpers.captions import HELD_OUT_PHRASINGS, TRAINING_PHRASINGS, all_captions
from helpers.characters import CharacterTokenizer
from helpers.checkpoints import load_checkpoint, save_checkpoint
from helpers.generator import fit_understanding, sentence_encoder
from helpers.metrics import (
    JUDGE,
    load_digit_judge,
    name_digits,
    prompt_accuracy,
    shape_accuracy_and_variety,
    train_digit_judge,
    train_shape_judge,
)
from helpers.mnist import load_mnist, load_splits, to_float
from helpers.models import ConvCVAE, FirstGenerator, ShapesCVAE
from helpers.shapes import PROMPTS
from helpers.training import (
    MNIST_RECIPE,
    SHAPES_RECIPE,
    caption_batches,
    group_by_digit,
    shape_batches,
    train_cvae,
    train_first_generator,
    train_head,
)


def _train_shapes_mlp():
    torch.manual_seed(0)
    model = FirstGenerator()
    train_first_generator(model, seed=0)
    return model, {}, None


def _train_shapes_cvae():
    tokens = CharacterTokenizer().encode(PROMPTS)
    torch.manual_seed(0)
    model, _ = train_cvae(
        ShapesCVAE(), lambda g: shape_batches(tokens, 1250, 125, g), **SHAPES_RECIPE
    )
    return model, {}, None


def _train_mnist_cvae():
    captions, digits = all_captions(TRAINING_PHRASINGS)
    embeddings = sentence_encoder().encode(captions)
    by_digit = group_by_digit(embeddings, digits)
    images, labels = load_splits()["train"]
    torch.manual_seed(0)
    model = ConvCVAE()
    train_head(model.head, embeddings, digits)
    model, _ = train_cvae(
        model, lambda g: caption_batches(images, labels, by_digit, 250, g), **MNIST_RECIPE
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
        name: "shapes-mlp", "shapes-cvae", "mnist-cvae", or "judge" for the judge of digits.

    Raises:
        ValueError: the name is none of these.
    """
    if name == "judge":
        _train_judge()
        return
    if name not in TRAINERS:
        raise ValueError(f"There is no recipe for {name!r}: choose {', '.join(TRAINERS)} or judge.")
    start = time.perf_counter()
    model, facts, extra = TRAINERS[name]()
    results = {"training seconds": round(time.perf_counter() - start)}
    save_checkpoint(name, model.eval(), {"seed": 0, "results": results} | facts, extra)
    evaluate_released(name)


def evaluate_released(name):
    """Measure a released checkpoint, print the results and write them into its JSON.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    model, facts = load_checkpoint(name)
    results = facts["results"]
    results["parameters"] = sum(p.numel() for p in model.parameters())
    results |= _measure_sentences(model) if model.reads == "sentences" else _measure_shapes(model)
    save_checkpoint(name, model, facts, facts["extra"])
    for key, value in results.items():
        print(f"{key}: {value}")


def _measure_shapes(model):
    accuracies, ratios = shape_accuracy_and_variety(model, train_shape_judge())
    return {
        "accuracy": _by_prompt(accuracies),
        "variance ratio": _by_prompt(ratios),
    }


def _by_prompt(values):
    by_prompt = {prompt: round(v, 5) for prompt, v in zip(PROMPTS, values.tolist(), strict=True)}
    return {"mean": round(values.mean().item(), 5)} | by_prompt


def _measure_sentences(model):
    judge = load_digit_judge()
    images, labels = load_mnist(train=False)
    named = name_digits(judge, to_float(images))
    accuracy = {"pictures": 10_000}
    for key, phrasings in (("training", TRAINING_PHRASINGS), ("held-out", HELD_OUT_PHRASINGS)):
        captions, digits = all_captions(phrasings)
        accuracy[key], per_digit = prompt_accuracy(
            model, sentence_encoder().encode(captions), digits, judge
        )
        accuracy[f"worst digit, {key}"] = per_digit.min().item()
    return {
        "prompt accuracy": {key: round(value, 4) for key, value in accuracy.items()},
        "judge accuracy on real test pictures": round((named == labels).float().mean().item(), 4),
    }


def _train_judge():
    images, labels = load_splits()["train"]
    judge = train_digit_judge(images, labels)
    images, labels = load_mnist(train=False)
    accuracy = (name_digits(judge, to_float(images)) == labels).float().mean().item()
    JUDGE.parent.mkdir(parents=True, exist_ok=True)
    beside = JUDGE.with_suffix(".new")
    beside.write_bytes(save(judge.state_dict()))
    beside.replace(JUDGE)
    print(f"{accuracy:.2%} of the real test pictures; pin the new sha256 in helpers/metrics.py")
