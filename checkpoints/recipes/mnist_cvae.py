"""`mnist-cvae`: the convolutional CVAE that draws digits from sentences (09_training).

Four and a half minutes on two cores, one and a half for the curve, and twelve for measuring.
"""

import functools

import torch
from measuring import PICTURES, Snapshots, elbo, measure_curve, measure_digits
from running import run
from tqdm.auto import tqdm

from helpers.captions import TRAINING_PHRASINGS, all_captions
from helpers.checkpoints import describe_captions
from helpers.metrics import binarise, log_mean, log_weights
from helpers.mnist import load_splits
from helpers.models import ConvCVAE
from helpers.text import sentence_encoder
from helpers.training import (
    MNIST_RECIPE,
    caption_batches,
    group_by_digit,
    proofread,
    toss_pixels,
    train_cvae,
    train_head,
    train_proofreader,
)


def train():
    """Train the proofreader, then the prompt head, then the CVAE."""
    snapshots = Snapshots()
    captions, digits = all_captions(TRAINING_PHRASINGS)
    named = describe_captions(captions)
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
        after_epoch=snapshots,
    )
    results = {"training seconds": round(snapshots.seconds()), "curve": measure_curve(snapshots)}
    facts = {"seed": 0, "results": results, "captions": named}
    return model, facts, {"captions": embeddings.half()}


def measure(model):
    """Measure what it draws, and the likelihood of real pictures."""
    return measure_digits(model, lambda *given: {"nats": measure_likelihood(*given)})


def measure_likelihood(model, yardstick, subset=1000, samples=1000):
    """Bound −log p in nats per tossed test picture: on all of them, then tightly on a subset."""
    captions = group_by_digit(*yardstick.prompts["held-out"])
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(captions.shape[1], (PICTURES, 10), generator=generator)
    ten = captions[torch.arange(10), chosen]  # 10000×10×384: one caption of every digit
    labels, pictures = yardstick.test_labels, binarise(yardstick.test_images)
    own = ten[torch.arange(PICTURES), labels]
    loose = elbo(model, pictures, own, generator)
    rows = torch.randperm(PICTURES, generator=generator)[:subset]
    bounds = torch.stack([
        bounds_by_digit(model, pictures[row], ten[row], samples, generator)
        for row in tqdm(rows, "likelihood")
    ])
    conditional, marginal = bounds[torch.arange(subset), labels[rows]], log_mean(bounds.T)
    return {
        "pictures": subset,
        "samples": samples,
        "negative ELBO, conditional, all test pictures": round(-loose.mean().item(), 3),
        "negative ELBO, conditional": round(-loose[rows].mean().item(), 3),
        "IWAE, conditional": round(-conditional.mean().item(), 3),
        "IWAE, marginal": round(-marginal.mean().item(), 3),
        "standard error": round((marginal.std() / subset**0.5).item(), 3),
    }


def bounds_by_digit(model, picture, captions, samples, generator, glance=20, margin=15):
    """Bound log p(x | caption) for one caption of every digit.

    A glance with few codes tells which digits the picture might show; only those within `margin`
    nats of the best get all samples. What the others keep is a lower bound, too.

    Args:
        model: see `log_weights`.
        picture: (1, 28, 28) of zeros and ones.
        captions: embeddings (10, 384), one caption of every digit.
        samples, glance: codes for each likely digit, and for the glance.
        generator: a `torch.Generator`, used up further.

    Returns:
        (10,) nats. With nobody to say the digit, log p(x) is `log_mean` of the ten.
    """
    ten = picture.expand(10, 1, 28, 28)
    bounds = log_mean(log_weights(model, ten, captions, glance, generator))
    likely = bounds > bounds.max() - margin
    weights = log_weights(model, ten[likely], captions[likely], samples, generator)
    bounds[likely] = log_mean(weights)
    return bounds


if __name__ == "__main__":
    run("mnist-cvae", train, measure, minutes={"train": 18, "evaluate": 12})
