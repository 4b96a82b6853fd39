"""`shapes-cvae`: the conditional variational autoencoder of the nine shapes (05_shapes_cvae).

Two and a half minutes on two cores, and half a minute for measuring.
"""

import time

import torch
from measuring import measure_shapes
from running import run

from helpers.models import ShapesCVAE
from helpers.shapes import PROMPTS
from helpers.text import CharacterTokenizer
from helpers.training import SHAPES_RECIPE, shape_batches, train_cvae


def train():
    """Train on 1,250 fresh drawings of each prompt in every epoch."""
    start = time.perf_counter()
    tokens = CharacterTokenizer().encode(PROMPTS)
    torch.manual_seed(0)
    model, _ = train_cvae(
        ShapesCVAE(), lambda g: shape_batches(tokens, 1250, 125, g), **SHAPES_RECIPE
    )
    results = {"training seconds": round(time.perf_counter() - start)}
    return model, {"seed": 0, "results": results}, {}


if __name__ == "__main__":
    run("shapes-cvae", train, measure_shapes, minutes={"train": 3, "evaluate": 1})
