"""`shapes-mlp`: the first generator, prompt and noise to a shape (03_first_generator).

Half a minute on two cores, and another for measuring.
"""

import time

import torch
from measuring import measure_shapes
from running import run

from helpers.models import FirstGenerator
from helpers.training import train_first_generator


def train():
    """Train on fresh drawings with squared error."""
    start = time.perf_counter()
    torch.manual_seed(0)
    model = FirstGenerator()
    train_first_generator(model, seed=0)
    results = {"training seconds": round(time.perf_counter() - start)}
    return model, {"seed": 0, "results": results}, {}


if __name__ == "__main__":
    run("shapes-mlp", train, measure_shapes, minutes={"train": 1, "evaluate": 1})
