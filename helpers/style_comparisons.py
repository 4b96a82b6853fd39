"""What a ruler is good for, and what it ruins (notebook 11): `python -m helpers compare styles`."""

import copy
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from helpers.checkpoints import CHECKPOINTS, load_checkpoint
from helpers.evaluation import Yardstick
from helpers.everyday import caption_pictures
from helpers.files import write_whole
from helpers.generator import png_bytes, sentence_encoder
from helpers.metrics import frechet_distance
from helpers.mnist import load_splits, to_float
from helpers.models import Ruler, StyleCVAE
from helpers.plotting import tile
from helpers.strokes import load_strokes, measure_styles
from helpers.style_evaluation import Reference, draw_prompts, measure_templates, measure_unnamed
from helpers.style_training import (
    draw_and_measure,
    miss,
    pair_batches,
    recalibrate,
    train_ruler,
)
from helpers.styles import level_of, rank_within_digit
from helpers.training import MNIST_RECIPE, toss_pixels, train_cvae, train_proofreader

RESULTS = CHECKPOINTS / "style-comparisons.json"
PICTURE = Path(__file__).resolve().parents[1] / "notebooks" / "figures" / "11_ruined.png"
ROWS = ("no ruler", "a ruler moves the decoder", "a ruler moves the codes")


def compare_styles():
    """Train the second row, undo the prior for the first, and measure all; write the results.

    The second row shares reader, captions and recipe with the released checkpoint; what differs is
    what learns from the ruler. A picture of what it draws goes into the notebooks' figures.
    """
    images, labels = load_splits()["train"]
    released, _ = load_checkpoint("mnist-style")
    unmoved = copy.deepcopy(released)
    undo_prior(unmoved)
    ruined = train_along(images, labels, released.head)
    yardstick, reference, results = Yardstick(), Reference(), {}
    for name, model in zip(ROWS, (unmoved, ruined, released), strict=True):
        results[name] = measure_row(model, yardstick, reference)
        print(name, results[name], flush=True)
    drawn = draw_prompts(ruined, ["draw a zero", "write a one", "I need a nine"], 12, seed=4)
    paper = Image.fromarray(tile(drawn, columns=12))
    large = paper.resize((paper.width * 2, paper.height * 2), Image.Resampling.NEAREST)
    write_whole(PICTURE, png_bytes(large, {}))
    write_whole(RESULTS, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())


def undo_prior(model):
    """Make a `StyleCVAE` draw from standard normal codes again, in place."""
    for tensor in model.prior[-1].parameters():
        tensor.detach().zero_()


def train_along(images, labels, head):
    """Train a `StyleCVAE` while a ruler reads along, with a head that has learned to read."""
    measures = measure_styles(load_strokes()[: len(labels)])
    ranks = rank_within_digit(measures, labels, measures, labels)
    captions, _ = caption_pictures(level_of(ranks), labels)
    embeddings = sentence_encoder().encode(captions)
    penalty, after = ruler_for_decoder(images, labels, embeddings, measures, ranks)
    torch.manual_seed(0)
    model = StyleCVAE()
    model.head = copy.deepcopy(head).requires_grad_(False)
    model, _ = train_cvae(
        model, lambda g: toss_pixels(pair_batches(images, embeddings, 250, g), g), **MNIST_RECIPE,
        penalty=penalty, after_epoch=after,
    )
    return model


def ruler_for_decoder(images, labels, embeddings, measures, ranks, weight=40.0):
    """Let a ruler read along while the decoder learns, as the proofreader of notebook 8 does.

    Returns:
        A penalty for `train_cvae`, and a function to call after each epoch, which shows the ruler
        what the model draws by now, and what is measured on it.
    """
    proofreader = train_proofreader(images, labels)
    torch.manual_seed(0)
    ruler, real = Ruler(), to_float(images)
    train_ruler(ruler, real, ranks)

    def along(model, inputs, generator):
        condition = model.head(inputs[:128], generator)
        z = torch.randn(len(condition), model.latent, generator=generator)
        pictures = model.decode(z, condition).sigmoid()
        misread = F.cross_entropy(proofreader(pictures), model.head.digit(condition).argmax(1))
        levels = model.head.levels(condition).argmax(2) - 2
        return 8 * misread + weight * miss(ruler(pictures), levels, silence=1.0)

    def after(average, epoch):
        drawn = draw_and_measure(average, embeddings, labels, measures, seed=epoch)
        recalibrate(ruler, [drawn], (real[:4000], ranks[:4000]), seed=epoch)

    return along, after


def measure_row(model, yardstick, reference):
    """Draw the styled prompts and 10,000 plain ones: thirds, digits, distances."""
    styled = measure_templates(model, "styled", reference, yardstick.judge)
    embeddings, digits = yardstick.prompts["held-out"]
    pictures, right, rows = yardstick.draw(model, embeddings, digits)
    distance = frechet_distance(yardstick.test_features, yardstick.describe(pictures))
    unnamed = measure_unnamed(pictures, digits[rows], reference)
    return {
        "in the requested third": styled["in the requested third"],
        "prompt accuracy, held-out": round(right.mean().item(), 4),
        "Fréchet ratio": round(distance / yardstick.floor, 2),
        "unnamed": {style: row["drawn"] for style, row in unnamed.items()},
    }
