"""What `python -m helpers evaluate NAME` measures (notebook 10 explains every measure)."""

import time

import torch
from tqdm.auto import tqdm

from helpers.captions import HELD_OUT_PHRASINGS, TRAINING_PHRASINGS, all_captions
from helpers.generator import sentence_encoder
from helpers.metrics import (
    accuracy_after_training_on,
    binarise,
    bounds_by_digit,
    draw_balanced,
    frechet_distance,
    kernel_distance,
    load_digit_judge,
    load_feature_judge,
    log_mean,
    log_weights,
    name_digits,
    nearest_pictures,
    precision_recall_density_coverage,
    shape_accuracy_and_variety,
    train_shape_judge,
    wilson_interval,
)
from helpers.mnist import load_splits, to_float
from helpers.shapes import PROMPTS
from helpers.style_evaluation import measure_styles_of
from helpers.training import group_by_digit

SEEDS = (0, 1, 2)
PICTURES = 10_000


def measure(model):
    """Measure a generator of shapes or of digits: a dict of results, ready for JSON."""
    return _measure_digits(model) if model.reads == "sentences" else _measure_shapes(model)


def _measure_shapes(model):
    accuracies, ratios = shape_accuracy_and_variety(model, train_shape_judge())
    return {
        "accuracy": _by_prompt(accuracies),
        "variance ratio": _by_prompt(ratios),
    }


def _by_prompt(values):
    by_prompt = {prompt: round(v, 5) for prompt, v in zip(PROMPTS, values.tolist(), strict=True)}
    return {"mean": round(values.mean().item(), 5)} | by_prompt


class Yardstick:
    """What drawn digits are measured against, computed once: judges, captions, real pictures.

    Attributes:
        judge, describe: judge A, and judge B's map from pictures to features (n, 96).
        prompts: "training" and "held-out", each with embeddings (m, 384) and digits (m,).
        real, real_digits: 10,000 training pictures, 1,000 per digit, and what they show.
        test_images, test_labels: the real test set; `test_features` describes it.
        floor: the Fréchet distance of the real training pictures.
    """

    def __init__(self):
        self.judge, self.describe = load_digit_judge(), load_feature_judge().describe
        self.prompts = {}
        for kind, phrasings in (("training", TRAINING_PHRASINGS), ("held-out", HELD_OUT_PHRASINGS)):
            captions, digits = all_captions(phrasings)
            self.prompts[kind] = sentence_encoder().encode(captions), digits
        splits = load_splits()
        self.images, labels = splits["train"]
        rows = torch.cat([(labels == digit).nonzero()[: PICTURES // 10, 0] for digit in range(10)])
        self.real, self.real_digits = to_float(self.images[rows]), labels[rows]
        self.test_images, self.test_labels = splits["test"]
        self.test_features = self.describe(to_float(self.test_images))
        self.floor = frechet_distance(self.test_features, self.describe(self.real))

    def draw(self, model, inputs, digits, seed=0):
        """Draw 10,000 pictures; say which show what was asked (10000,), and from which input."""
        pictures, rows = draw_balanced(model, inputs, digits, PICTURES, seed)
        return pictures, (name_digits(self.judge, pictures) == digits[rows]).float(), rows

    def fidelity(self, pictures):
        """Measure 10,000 pictures by judge B's features against those of the real test set."""
        features = self.describe(pictures)
        shuffled = torch.randperm(PICTURES, generator=torch.Generator().manual_seed(0))[:5000]
        return {
            "Fréchet distance": frechet_distance(self.test_features, features),
            "KID": kernel_distance(self.test_features, features),
            **precision_recall_density_coverage(
                self.test_features[shuffled], features[shuffled.flip(0)]
            ),
        }

    def measure(self, pictures, digits, seed):
        """Measure 10,000 pictures, 1,000 per digit, by everything but the prompt."""
        distances, _ = nearest_pictures(pictures, to_float(self.images))
        return self.fidelity(pictures) | {
            "train on these, test on real": accuracy_after_training_on(
                pictures, digits, self.test_images, self.test_labels, seed=seed
            ),
            "distance to the nearest training picture": distances.median().item(),
        }


def _measure_digits(model):
    yardstick = Yardstick()
    real = yardstick.measure(yardstick.real, yardstick.real_digits, seed=0)
    distances, _ = nearest_pictures(to_float(yardstick.test_images), to_float(yardstick.images))
    real["distance to the nearest training picture"] = distances.median().item()
    named = name_digits(yardstick.judge, to_float(yardstick.test_images))
    right = (named == yardstick.test_labels).float()
    per_digit = torch.stack([right[yardstick.test_labels == digit].mean() for digit in range(10)])
    for kind in yardstick.prompts:
        real[f"prompt accuracy, {kind}"] = right.mean().item()
        real[f"worst digit, {kind}"] = per_digit.min().item()
    rows, asked = [], []
    for seed in tqdm(SEEDS, "seeds"):
        row, right, captions = _draw_and_measure(model, yardstick, seed)
        rows.append(row)
        asked.append((right, captions))
    results = {"pictures": PICTURES, "seeds": len(SEEDS), "measures": _summarise(rows, real)}
    results |= _by_digit_and_phrasing(asked)
    if hasattr(model, "place"):  # what it draws from is not the prior of its ELBO: no nats
        return results | {"styles": measure_styles_of(model, yardstick)} | _measure_speed(model)
    return results | {"nats": _measure_likelihood(model, yardstick)} | _measure_speed(model)


def _draw_and_measure(model, yardstick, seed):
    """Measure one seed; also say which held-out pictures were right, and of which caption."""
    row = {}
    for kind, (embeddings, digits) in yardstick.prompts.items():
        pictures, right, captions = yardstick.draw(model, embeddings, digits, seed)
        row |= accuracies(right, kind)
    return row | yardstick.measure(pictures, digits[captions], seed), right, captions


def accuracies(right, kind):
    """Average what was right (10000,), digit by digit, over all and for the worst digit."""
    return {
        f"prompt accuracy, {kind}": right.mean().item(),
        f"worst digit, {kind}": right.reshape(10, -1).mean(1).min().item(),
    }


def _summarise(rows, real):
    """Give mean and spread (largest minus smallest) over the seeds, beside the real pictures'."""
    summary = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        mean, spread = sum(values) / len(values), max(values) - min(values)
        summary[key] = {"mean": mean, "spread": spread, "real": real[key]}
    distance = summary["Fréchet distance"]
    summary["Fréchet ratio"] = {
        key: distance[key] / distance["real"] for key in ("mean", "spread", "real")
    }
    return {key: {k: round(v, 5) for k, v in value.items()} for key, value in summary.items()}


def _by_digit_and_phrasing(asked):
    """Pool the seeds: the interval of the whole, shares by digit and by held-out phrasing."""
    right = torch.stack([right for right, _ in asked])
    low, high = wilson_interval(right.mean().item(), right.numel())
    captions = torch.cat([captions for _, captions in asked])
    phrasing = captions // 20  # `all_captions` writes 20 captions of each
    counts = torch.bincount(phrasing, minlength=len(HELD_OUT_PHRASINGS))
    hits = torch.bincount(phrasing, right.flatten().double(), len(HELD_OUT_PHRASINGS))
    shares = (hits / counts).tolist()
    return {
        "interval, held-out": [round(low, 5), round(high, 5)],
        "by digit, held-out": [round(x, 5) for x in right.mean(0).reshape(10, -1).mean(1).tolist()],
        "by phrasing, held-out": {
            phrasing: round(share, 4)
            for share, phrasing in sorted(zip(shares, HELD_OUT_PHRASINGS, strict=True))
        },
    }


def elbo(model, pictures, inputs, generator):
    """Estimate the ELBO of tossed pictures (n, 1, 28, 28) with one code each: (n,) nats."""
    batches = zip(pictures.split(500), inputs.split(500), strict=True)
    return torch.cat([log_weights(model, x, c, 1, generator)[0] for x, c in batches])


def _measure_likelihood(model, yardstick, subset=1000, samples=1000):
    """Bound −log p in nats per tossed test picture: on all of them, then tightly on a subset."""
    embeddings, digits = yardstick.prompts["held-out"]
    captions = group_by_digit(embeddings, digits)
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


def _measure_speed(model, n=256):
    z, inputs = torch.randn(n, model.latent), torch.randn(1, 384).expand(n, -1)
    seconds = []
    with torch.no_grad():
        for _ in range(10):
            start = time.perf_counter()
            model.draw(inputs, z)
            seconds.append(time.perf_counter() - start)
    return {"milliseconds per picture": round(1000 * sorted(seconds)[5] / n, 4)}


def measure_curve(snapshots):
    """Measure averaged weights kept during a training: accuracy and Fréchet ratio by seconds."""
    yardstick = Yardstick()
    curve = []
    for seconds, model in tqdm(snapshots, "curve"):
        pictures, right, _ = yardstick.draw(model, *yardstick.prompts["held-out"])
        distance = frechet_distance(yardstick.test_features, yardstick.describe(pictures))
        curve.append({
            "seconds": round(seconds, 1),
            "prompt accuracy, held-out": round(right.mean().item(), 4),
            "Fréchet ratio": round(distance / yardstick.floor, 2),
        })
    return curve
