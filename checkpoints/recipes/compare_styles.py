"""What a ruler is good for, and what it ruins: prior, decoder, neither (12_say_how_to_draw_it).

About twelve minutes on two cores, most of them for the model that a ruler ruins.
"""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import Yardstick, measure_row
from mnist_style import measure_unnamed
from PIL import Image
from running import RUNS, compare

from helpers import write_whole
from helpers.checkpoints import load_checkpoint
from helpers.generator import png_bytes
from helpers.metrics import draw_prompts, measure_templates
from helpers.mnist import load_splits, to_float
from helpers.models import Ruler, StyleCVAE
from helpers.plotting import tile
from helpers.steering import (
    caption_styles,
    draw_and_measure,
    recalibrate,
    style_error,
    train_ruler,
)
from helpers.strokes import Reference
from helpers.text import sentence_encoder
from helpers.training import (
    MNIST_RECIPE,
    pair_batches,
    toss_pixels,
    train_cvae,
    train_proofreader,
)

FIGURE = Path(__file__).resolve().parents[2] / "notebooks" / "figures" / "12_ruined.png"
ORDER = ("no ruler", "a ruler moves the decoder", "a ruler moves the codes")
COLUMNS = {"prompt accuracy, held-out": 4, "Fréchet ratio": 2}


def measure(names):
    """Undo the prior for the first row, train the second, and measure all three.

    The second shares reader, captions and recipe with the released checkpoint; what differs is what
    learns from the ruler.
    """
    images, labels = load_splits()["train"]
    released, _ = load_checkpoint("mnist-style")
    unmoved = copy.deepcopy(released)
    undo_prior(unmoved)
    ruined = train_along(images, labels, released.head)
    draw_picture(ruined)
    yardstick, reference = Yardstick(), Reference()
    for name, model in zip(names, (unmoved, ruined, released), strict=True):
        styled = measure_templates(model, "styled", reference, yardstick.judge)
        unnamed = measure_unnamed(model, yardstick, reference)
        yield name, {
            "in the requested third": styled["in the requested third"],
            **measure_row(model, yardstick, COLUMNS),
            "unnamed": {style: distance["drawn"] for style, distance in unnamed.items()},
        }


def undo_prior(model):
    """Make a `StyleCVAE` draw from standard normal codes again, in place."""
    for tensor in model.prior[-1].parameters():
        tensor.detach().zero_()


def train_along(images, labels, head):
    """Train a `StyleCVAE` while a ruler reads along, with a head that has learned to read."""
    captions, _, measures, ranks = caption_styles(labels)
    embeddings = sentence_encoder().encode(captions)
    penalty, after_epoch = ruler_for_decoder(images, labels, embeddings, measures, ranks)
    torch.manual_seed(0)
    model = StyleCVAE()
    model.head = copy.deepcopy(head).requires_grad_(False)
    pictures = to_float(images)
    model, _ = train_cvae(
        model, lambda g: toss_pixels(pair_batches(pictures, embeddings, 250, g), g), **MNIST_RECIPE,
        penalty=penalty, after_epoch=after_epoch,
    )
    return model


def ruler_for_decoder(images, labels, embeddings, measures, ranks, weight=40.0):
    """Let a ruler read along while the decoder learns, as the proofreader of 09_training does.

    Returns:
        A penalty for `train_cvae`, and a function to call after each epoch, which shows the ruler
        what the model draws by now, and what is measured on it.
    """
    proofreader = train_proofreader(images, labels)
    torch.manual_seed(0)
    ruler, real = Ruler(), to_float(images)
    train_ruler(ruler, real, ranks)

    def penalty(model, inputs, generator):
        condition = model.head(inputs[:128], generator)
        z = torch.randn(len(condition), model.latent, generator=generator).to(condition.device)
        pictures = model.decode(z, condition).sigmoid()
        proofreader.to(z.device), ruler.to(z.device)
        misread = F.cross_entropy(proofreader(pictures), model.head.digit(condition).argmax(1))
        levels = model.head.levels(condition).argmax(2) - 2
        return 8 * misread + weight * style_error(ruler(pictures), levels, silence=1.0)

    def after_epoch(average, epoch):
        drawn = draw_and_measure(average, embeddings, labels, measures, seed=epoch)
        recalibrate(ruler, [drawn], (real[:4000], ranks[:4000]), seed=epoch)

    return penalty, after_epoch


def draw_picture(model):
    """Draw twelve zeros, ones and nines, twice as large, for 12_say_how_to_draw_it."""
    drawn = draw_prompts(model, ["draw a zero", "write a one", "I need a nine"], 12, seed=4)
    paper = Image.fromarray(tile(drawn, columns=12))
    large = paper.resize((paper.width * 2, paper.height * 2), Image.Resampling.NEAREST)
    write_whole(RUNS / "comparisons" / FIGURE.name, png_bytes(large, {}))


if __name__ == "__main__":
    compare("style-comparisons", ORDER, measure, minutes=4, figure=FIGURE)
