"""Prior, decoder, guidance and steps, compared (notebook 12): `python -m helpers compare flows`."""

import copy
import functools
import json
import time
from types import SimpleNamespace

import torch
from sklearn.mixture import GaussianMixture
from torch import nn

from helpers.checkpoints import CHECKPOINTS, load_checkpoint
from helpers.evaluation import Yardstick, accuracies
from helpers.files import write_whole
from helpers.flow_training import (
    collect_codes,
    conditions_of,
    gaussian_terms,
    match_features,
    standardise,
    train_autoencoder,
    train_flow,
    train_velocity,
)
from helpers.metrics import accuracy_after_training_on, frechet_distance
from helpers.mnist import load_splits
from helpers.models import LatentFlow, Velocity, elbo_terms, guide, transport
from helpers.training import train_proofreader

RESULTS = CHECKPOINTS / "flow-comparisons.json"
GUIDANCE = (1.0, 1.3, 1.5, 2.0, 3.0, 4.0, 5.0)
STEPS = (1, 2, 4, 8, 20, 50)


def compare_flows():
    """Train and measure every row; each part is written to `checkpoints/flow-comparisons.json`."""
    yardstick, (images, labels) = Yardstick(), load_splits()["train"]
    conditions = conditions_of(labels)
    released, _ = load_checkpoint("mnist-flow")
    results = {}
    for name, compare in (
        ("priors", functools.partial(compare_priors, images, labels, conditions)),
        ("priors of sharp codes", functools.partial(compare_sharp, images, labels, released)),
        ("guidance", functools.partial(compare_guidance, released)),
        ("steps", functools.partial(compare_steps, released)),
        ("decoders", functools.partial(compare_decoders, images, labels, conditions)),
    ):
        results[name] = compare(yardstick)
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        write_whole(RESULTS, text.encode())
        print(name, results[name], flush=True)


def measure_row(model, yardstick, trained_on=False):
    """Measure 10,000 pictures of held-out captions by accuracy, Fréchet ratio and coverage.

    Args:
        model: anything with `latent` and `draw(embeddings, z)`.
        yardstick: a `Yardstick`.
        trained_on: whether a classifier is trained on the pictures and tested on real ones, too.
    """
    with torch.no_grad():
        pictures, right, rows = yardstick.draw(model, *yardstick.prompts["held-out"])
    fidelity = yardstick.fidelity(pictures)
    row = accuracies(right, "held-out")
    row |= {key: fidelity[key] for key in ("precision", "recall", "coverage")}
    row["Fréchet ratio"] = fidelity["Fréchet distance"] / yardstick.floor
    if trained_on:
        row["train on these, test on real"] = accuracy_after_training_on(
            pictures, yardstick.prompts["held-out"][1][rows],
            yardstick.test_images, yardstick.test_labels,
        )
    return {key: round(value, 4) for key, value in row.items()}


def compare_priors(images, labels, conditions, yardstick):
    """Draw codes for the CVAE of notebook 11 in six ways; its decoder stays what it is."""
    model, _ = load_checkpoint("mnist-style")
    means, deviations = collect_codes(model, images, conditions)
    centre, scale = standardise(means, deviations)
    torch.manual_seed(0)
    velocity = Velocity(model.latent)
    train_velocity(velocity, (means - centre) / scale, deviations / scale, conditions, steps=4000)

    def flow(z, condition, guidance):
        return centre + scale * transport(velocity, z, condition, guidance, 50)

    rows = {"the prior of notebook 11": model.place}
    rows |= simple_priors(means, deviations, labels) | {
        "a flow": functools.partial(flow, guidance=1.0),
        "a flow, guidance 1.3": functools.partial(flow, guidance=1.3),
    }
    return {
        name: measure_row(with_prior(model, place), yardstick, trained_on=True)
        for name, place in rows.items()
    }


def compare_sharp(images, labels, model, yardstick):
    """Draw codes for the autoencoder of notebook 12 without its flow, digit by digit."""
    means, deviations = collect_codes(model.autoencoder, images)

    def draw(place, embeddings, z):
        return model.autoencoder.decode(place(z, model.head(embeddings))).clamp(0, 1)

    return {
        name: measure_row(
            SimpleNamespace(latent=model.latent, draw=functools.partial(draw, place)), yardstick,
            trained_on=True,
        )
        for name, place in simple_priors(means, deviations, labels).items()
    }


def simple_priors(means, deviations, labels):
    """Make the priors that take no training from codes drawn from posteriors (n, latent).

    Returns:
        A dict from name to a function like that of `fit_by_digit`.
    """
    generator = torch.Generator().manual_seed(0)
    codes = means + deviations * torch.randn(means.shape, generator=generator)
    return {
        "N(0, I)": lambda z, condition: z,
        "a Gaussian for each digit": fit_by_digit(codes, labels, 1),
        "a mixture of ten for each digit": fit_by_digit(codes, labels, 10),
    }


def with_prior(model, place):
    """Make a CVAE draw from codes that `place(z, condition)` gives."""

    def draw(embeddings, z):
        condition = model.head(embeddings)
        return model.decode(place(z, condition), condition).sigmoid()

    return SimpleNamespace(latent=model.latent, draw=draw)


def fit_by_digit(codes, labels, components, seed=0):
    """Fit a mixture of Gaussians to the codes (n, latent) of every digit.

    Returns:
        A function from standard normal z (n, latent) and conditions (n, 34) to codes (n, latent).
    """
    mixtures = [
        GaussianMixture(components, random_state=seed).fit(codes[labels == digit].numpy())
        for digit in range(10)
    ]
    weights, means, roots = (
        torch.stack([torch.tensor(value, dtype=torch.float32) for value in values])
        for values in (
            [m.weights_ for m in mixtures], [m.means_ for m in mixtures],
            [torch.linalg.cholesky(torch.tensor(m.covariances_)).numpy() for m in mixtures],
        )
    )
    generator = torch.Generator().manual_seed(seed)

    def place(z, condition):
        digit = condition[:, :10].argmax(1)
        k = torch.multinomial(weights[digit], 1, generator=generator)[:, 0]
        return means[digit, k] + torch.einsum("nij,nj->ni", roots[digit, k], z)

    return place


def compare_guidance(model, yardstick):
    """Draw with more and more guidance."""
    return {
        str(guidance): measure_row(
            SimpleNamespace(
                latent=model.latent, draw=functools.partial(model.draw, guidance=guidance)
            ), yardstick, trained_on=True,
        )
        for guidance in GUIDANCE
    }


def transport_by_heun(velocity, x, condition, guidance, steps):
    """Carry noise (n, latent) from time 0 to 1 by Heun's method: two looks for each step."""
    for k in range(steps):
        now, then = (torch.full((len(x),), (k + j) / steps) for j in (0, 1))
        first = guide(velocity, x, now, condition, guidance)
        second = guide(velocity, x + first / steps, then, condition, guidance)
        x = x + (first + second) / 2 / steps
    return x


def compare_steps(model, yardstick):
    """Draw with few and many steps, by Euler and by Heun, at the released guidance."""

    def by_heun(embeddings, z, steps):
        condition = model.head(embeddings)
        codes = transport_by_heun(model.velocity, z, condition, model.guidance, steps)
        return model.autoencoder.decode(model.centre + model.scale * codes).clamp(0, 1)

    results = {"Euler": {}, "Heun": {}}
    for name, draw in (("Euler", model.draw), ("Heun", by_heun)):
        for steps in STEPS:
            drawn = SimpleNamespace(
                latent=model.latent, draw=functools.partial(draw, steps=steps)
            )
            start = time.perf_counter()
            pictures, right, _ = yardstick.draw(drawn, *yardstick.prompts["held-out"])
            seconds = time.perf_counter() - start
            distance = frechet_distance(yardstick.test_features, yardstick.describe(pictures))
            row = accuracies(right, "held-out") | {
                "Fréchet ratio": distance / yardstick.floor, "seconds for 10,000": seconds,
            }
            results[name][str(steps)] = {key: round(value, 4) for key, value in row.items()}
    return results


DECODERS = {  # each changes one thing of the row above it: blocks, likelihood, weight of features
    "plain decoder, grey-level cross entropy": (False, elbo_terms, 0.0),
    "Gaussian likelihood": (False, gaussian_terms, 0.0),
    "FiLM blocks": (True, gaussian_terms, 0.0),
    "feature matching": (True, gaussian_terms, 100.0),
}


class Unchanged(nn.Module):
    """Stands where a `FilmBlock` was, and does nothing."""

    def forward(self, maps, code):
        """Return maps (n, c, h, w)."""
        return maps


def compare_decoders(images, labels, conditions, yardstick, steps=1600):
    """Train autoencoders and their flows, step by step, on a smaller budget."""
    reader, _ = load_checkpoint("mnist-style")
    proofreader = train_proofreader(images, labels)
    results = {}
    for name, (film, terms, weight) in DECODERS.items():
        torch.manual_seed(0)
        model = LatentFlow()
        model.head = copy.deepcopy(reader.head)
        if not film:
            model.autoencoder.block1, model.autoencoder.block2 = Unchanged(), Unchanged()
        penalty = feature_penalty(proofreader, weight) if weight else None
        start = time.process_time()
        train_autoencoder(model.autoencoder, images, terms, penalty, steps)
        seconds = round(time.process_time() - start)
        if terms is elbo_terms:  # it was trained on logits
            model.autoencoder.ink = nn.Sequential(model.autoencoder.ink, nn.Sigmoid())
        train_flow(model, images, conditions, steps=2500)
        results[name] = {"CPU seconds": seconds} | measure_rebuilt(model, yardstick)
        results[name] |= measure_row(model.eval(), yardstick)
    return results


def feature_penalty(network, weight):
    """Make a penalty for `train_autoencoder` from `match_features`, on the scale of nats."""
    return lambda painted, pictures: weight * match_features(painted, pictures, network).log()


@torch.no_grad()
def measure_rebuilt(model, yardstick):
    """Encode and decode 10,000 real pictures: their Fréchet ratio, their squared error."""
    rebuilt = torch.cat([
        model.autoencoder.decode(model.autoencoder.encode(part)[0]).clamp(0, 1)
        for part in yardstick.real.split(500)
    ])
    distance = frechet_distance(yardstick.test_features, yardstick.describe(rebuilt))
    return {
        "rebuilt, Fréchet ratio": round(distance / yardstick.floor, 4),
        "rebuilt, squared error": round((rebuilt - yardstick.real).square().mean().item(), 5),
    }
