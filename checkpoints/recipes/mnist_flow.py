"""`mnist-flow`: a latent flow with the reader of `mnist-style` (13_latent_flow).

Four and a half minutes on two cores, and ten for measuring.
"""

import time

import torch
from mnist_style import measure
from running import run

from helpers.checkpoints import load_checkpoint
from helpers.doors import on_device
from helpers.flow import LatentFlow, collect_codes, gaussian_terms, standardise, train_velocity
from helpers.mnist import load_splits, to_float
from helpers.models import sample_posterior
from helpers.steering import conditions_of
from helpers.training import fit, warm_up


@on_device
def train_autoencoder(
    model, images, terms=gaussian_terms, penalty=None, steps=5400, batch=64, seed=0
):
    """Train an `Autoencoder` on uint8 pictures (n, 28, 28) alone, with a KL that is warmed up.

    `terms` is `gaussian_terms` or another function of the same arguments, `penalty` a function from
    (painted, pictures) to a scalar that joins the loss. Returns the loss of each step, in nats.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss(step):
        rows = torch.randint(len(images), (batch,), generator=generator)
        pictures = to_float(images[rows])
        mean, log_variance = model.encode(pictures)
        painted = model.decode(sample_posterior(mean, log_variance, generator))
        reconstruction, kl = terms(painted, pictures, mean, log_variance)
        total = reconstruction + warm_up(step / steps, beta=1.0, share=0.2) * kl
        return total + penalty(painted, pictures) if penalty else total

    losses = fit(model.train().parameters(), loss, steps, rate=4e-3, name="autoencoder")
    model.requires_grad_(False).eval()
    return losses


def train_flow(model, images, conditions, steps=5000, seed=0):
    """Train the flow of a `LatentFlow` whose autoencoder is trained, and keep centre and scale.

    Takes uint8 pictures (n, 28, 28) and conditions (n, 34); returns the loss of each step.
    """
    means, deviations = collect_codes(model.autoencoder, images)
    centre, scale = standardise(means, deviations)
    model.centre.copy_(centre)
    model.scale.copy_(scale)
    return train_velocity(
        model.velocity, (means - centre) / scale, deviations / scale, conditions, steps, seed=seed
    )


def train():
    """Train the autoencoder on pictures alone, then the flow among its codes."""
    start = time.perf_counter()
    images, labels = load_splits()["train"]
    reader, read = load_checkpoint("mnist-style")
    conditions = conditions_of(labels)
    prepared = time.perf_counter()
    torch.manual_seed(0)
    model = LatentFlow()
    model.head = reader.head
    train_autoencoder(model.autoencoder, images)
    encoded = time.perf_counter()
    train_flow(model, images, conditions)
    end = time.perf_counter()
    results = {
        "training seconds": round(end - start),
        "autoencoder seconds": round(encoded - prepared),
        "flow seconds": round(end - encoded),
    }
    facts = {"seed": 0, "results": results, "captions": read["captions"]}
    return model, facts, {"captions": read["extra"]["captions"]}


if __name__ == "__main__":
    run("mnist-flow", train, measure, minutes={"train": 15, "evaluate": 10})
