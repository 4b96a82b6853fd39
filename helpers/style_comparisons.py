"""What a ruler is good for, and what it ruins (notebook 11): `python -m helpers compare styles`."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from helpers.checkpoints import CHECKPOINTS
from helpers.evaluation import Yardstick
from helpers.files import write_whole
from helpers.generator import png_bytes
from helpers.metrics import frechet_distance
from helpers.mnist import load_splits, to_float
from helpers.models import Ruler
from helpers.plotting import tile
from helpers.release import train_style, write_corpus
from helpers.style_evaluation import Reference, draw_prompts, measure_templates, measure_unnamed
from helpers.style_training import draw_and_measure, miss, recalibrate, train_ruler
from helpers.training import train_proofreader

RESULTS = CHECKPOINTS / "style-comparisons.json"
PICTURE = Path(__file__).resolve().parents[1] / "notebooks" / "figures" / "11_ruined.png"
EPOCHS = 4
ROWS = ("no ruler", "a ruler moves the decoder", "a ruler moves the codes")


def compare_styles():
    """Train and measure every row; write results and a picture when all are done."""
    images, labels = load_splits()["train"]
    corpus, yardstick, reference = write_corpus(labels), Yardstick(), Reference()
    along, after = ruler_for_decoder(images, labels, corpus)
    changes = ({"moved": False}, {"moved": False, "penalty": along, "after_epoch": after}, {})
    results = {}
    for name, change in zip(ROWS, changes, strict=True):
        model = train_style(images, labels, corpus, epochs=EPOCHS, **change)
        results[name] = {"epochs": EPOCHS} | measure_row(model, yardstick, reference)
        print(name, results[name], flush=True)
        if name == ROWS[1]:
            drawn = draw_prompts(model, ["draw a zero", "write a one", "I need a nine"], 12, seed=4)
    paper = Image.fromarray(tile(drawn, columns=12))
    large = paper.resize((paper.width * 2, paper.height * 2), Image.Resampling.NEAREST)
    write_whole(PICTURE, png_bytes(large, {}))
    write_whole(RESULTS, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())


def ruler_for_decoder(images, labels, corpus, weight=40.0):
    """Let a ruler read along while the decoder learns, as the proofreader of notebook 8 does.

    Returns:
        A penalty for `train_cvae`, and a function to call after each epoch, which shows the ruler
        what the model draws by now, and what is measured on it.
    """
    proofreader = train_proofreader(images, labels)
    torch.manual_seed(0)
    ruler, real, captions = Ruler(), to_float(images), corpus.embeddings[: len(labels)]
    train_ruler(ruler, real, corpus.ranks)

    def along(model, inputs, generator):
        condition = model.head(inputs[:128], generator)
        z = torch.randn(len(condition), model.latent, generator=generator)
        pictures = model.decode(z, condition).sigmoid()
        misread = F.cross_entropy(proofreader(pictures), model.head.digit(condition).argmax(1))
        levels = model.head.levels(condition).argmax(2) - 2
        return 8 * misread + weight * miss(ruler(pictures), levels, silence=1.0)

    def after(average, epoch):
        drawn = draw_and_measure(average, captions, labels, corpus.measures, seed=epoch)
        recalibrate(ruler, [drawn], (real[:4000], corpus.ranks[:4000]), seed=epoch)

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
