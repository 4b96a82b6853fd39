"""What the recipes measure: one generator, and the rows of a table (11_how_good_is_it)."""

import time

import torch
from tqdm.auto import tqdm

from helpers.captions import HELD_OUT_PHRASINGS, TRAINING_PHRASINGS, all_captions
from helpers.metrics import (
    accuracy_after_training_on,
    binarise,
    draw_balanced,
    frechet_distance,
    kernel_distance,
    load_judge,
    log_weights,
    name_digits,
    nearest_pictures,
    precision_recall_density_coverage,
    shape_accuracy_and_variety,
    train_shape_judge,
    wilson_interval,
)
from helpers.mnist import load_splits, to_float
from helpers.models import Generator
from helpers.shapes import PROMPTS
from helpers.text import sentence_encoder
from helpers.training import group_by_digit

SEEDS = (0, 1, 2)
PICTURES = 10_000


def measure_shapes(model):
    """Measure a generator of shapes: a dict of results."""
    start = time.perf_counter()
    results = {"parameters": sum(p.numel() for p in model.parameters())}
    measured = shape_accuracy_and_variety(model, train_shape_judge())
    for name, values in zip(("accuracy", "variance ratio"), measured, strict=True):
        by_prompt = zip(PROMPTS, values.tolist(), strict=True)
        results[name] = {"mean": round(values.mean().item(), 5)}
        results[name] |= {prompt: round(value, 5) for prompt, value in by_prompt}
    return results | {"evaluation seconds": round(time.perf_counter() - start)}


def measure_digits(model, more):
    """Measure a generator of digits: a dict of results.

    Args:
        model: it reads sentences.
        more: a function from (model, yardstick) to further results.
    """
    start = time.perf_counter()
    yardstick = Yardstick()
    rows, answers = [], []
    for seed in tqdm(SEEDS, "seeds"):
        row, right, captions = draw_and_measure(model, yardstick, seed)
        rows.append(row)
        answers.append((right, captions))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "pictures": PICTURES,
        "seeds": len(SEEDS),
        "measures": summarise(rows, measure_real(yardstick)),
        **by_digit_and_phrasing(answers),
        **more(model, yardstick),
        "milliseconds per picture": measure_speed(model),
        "evaluation seconds": round(time.perf_counter() - start),
    }


class Yardstick:
    """What drawn digits are measured against, computed once: judges, captions, real pictures.

    Attributes:
        judge, describe: judge A, and judge B's map from pictures to features (n, 96).
        prompts: "training" and "held-out", each with embeddings (m, 384) and digits (m,).
        images: the training pictures, uint8 (55000, 28, 28).
        real, real_digits: 10,000 of them, 1,000 per digit, and what they show.
        test_images, test_labels: the real test set; `test_features` describes it.
        floor: the Fréchet distance of the real training pictures.
    """

    def __init__(self):
        self.judge, self.describe = load_judge("digits"), load_judge("features").describe
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

    def compare_neighbours(self, features):
        """Measure precision, recall, density and coverage on half of the features (10000, 96)."""
        shuffled = torch.randperm(PICTURES, generator=torch.Generator().manual_seed(0))[:5000]
        return precision_recall_density_coverage(
            self.test_features[shuffled], features[shuffled.flip(0)]
        )

    def measure(self, pictures, digits, seed):
        """Measure 10,000 pictures, 1,000 per digit, by everything but the prompt."""
        features = self.describe(pictures)
        return {
            "Fréchet distance": frechet_distance(self.test_features, features),
            "KID": kernel_distance(self.test_features, features),
            **self.compare_neighbours(features),
            "train on these, test on real": accuracy_after_training_on(
                pictures, digits, self.test_images, self.test_labels, seed=seed
            ),
            "distance to the nearest training picture": self.distance_to_training(pictures),
        }

    def distance_to_training(self, pictures):
        """Measure the median distance from pictures to the nearest training picture."""
        return nearest_pictures(pictures, to_float(self.images))[0].median().item()


def draw_and_measure(model, yardstick, seed):
    """Measure one seed; also say which held-out pictures were right, and of which caption."""
    row = {}
    for kind, (embeddings, digits) in yardstick.prompts.items():
        pictures, right, captions = yardstick.draw(model, embeddings, digits, seed)
        row |= accuracies(right, kind)
    return row | yardstick.measure(pictures, digits[captions], seed), right, captions


def measure_real(yardstick):
    """Measure real pictures by what drawn ones are measured by: a dict without seeds."""
    real = yardstick.measure(yardstick.real, yardstick.real_digits, seed=0)
    test = to_float(yardstick.test_images)
    real["distance to the nearest training picture"] = yardstick.distance_to_training(test)
    right = (name_digits(yardstick.judge, test) == yardstick.test_labels).float()
    per_digit = torch.stack([right[yardstick.test_labels == digit].mean() for digit in range(10)])
    for kind in yardstick.prompts:
        real[f"prompt accuracy, {kind}"] = right.mean().item()
        real[f"worst digit, {kind}"] = per_digit.min().item()
    return real


def accuracies(right, kind):
    """Average what was right (10000,), digit by digit, over all and for the worst digit."""
    return {
        f"prompt accuracy, {kind}": right.mean().item(),
        f"worst digit, {kind}": right.reshape(10, -1).mean(1).min().item(),
    }


def summarise(rows, real):
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


def by_digit_and_phrasing(answers):
    """Pool (right, captions) of the seeds: interval of the whole, shares by digit and phrasing."""
    right = torch.stack([right for right, _ in answers])
    low, high = wilson_interval(right.mean().item(), right.numel())
    captions = torch.cat([captions for _, captions in answers])
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


@torch.no_grad()
def measure_speed(model, n=256):
    """Draw n pictures at once, ten times: the milliseconds of one picture."""
    z, inputs = torch.randn(n, model.latent), torch.randn(1, 384).expand(n, -1)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        model.draw(inputs, z)
        seconds.append(time.perf_counter() - start)
    return round(1000 * sorted(seconds)[5] / n, 4)


def elbo(model, pictures, inputs, generator):
    """Estimate the ELBO of tossed pictures (n, 1, 28, 28) with one code each: (n,) nats."""
    batches = zip(pictures.split(500), inputs.split(500), strict=True)
    return torch.cat([log_weights(model, x, c, 1, generator)[0] for x, c in batches])


class Snapshots:
    """Averaged weights after each epoch, with the seconds so far: `after_epoch` of `train_cvae`."""

    def __init__(self):
        self.start, self.kept = time.perf_counter(), []

    def seconds(self):
        """Tell the seconds since the start."""
        return time.perf_counter() - self.start

    def __call__(self, average, epoch):
        self.kept.append((self.seconds(), average))


def measure_curve(snapshots):
    """Measure what was drawn after each epoch: accuracy and Fréchet ratio by seconds."""
    yardstick, columns = Yardstick(), {"prompt accuracy, held-out": 4, "Fréchet ratio": 2}
    return [
        {"seconds": round(seconds, 1)} | measure_row(model, yardstick, columns)
        for seconds, model in tqdm(snapshots.kept, "curve")
    ]


class Variant(Generator):
    """A generator made of two functions, as a rule of another: `read` and `paint`."""

    def __init__(self, latent, read, paint):
        super().__init__()
        self.latent, self.read, self.paint = latent, read, paint


def measure_row(model, yardstick, columns, inputs=None):
    """Measure one row of a table on 10,000 pictures of held-out captions, drawn with seed 0.

    Args:
        model: a generator.
        yardstick: a `Yardstick`.
        columns: a dict from the names of measures to the decimals that are kept.
        inputs: the digits (10,), if that is what the model reads.

    Returns:
        A dict from column to number.
    """
    row, start = {}, time.perf_counter()
    for kind, (embeddings, digits) in yardstick.prompts.items():  # the held-out ones come last
        if f"prompt accuracy, {kind}" in columns:
            asked = (embeddings, digits) if inputs is None else (inputs, inputs)
            pictures, right, captions = yardstick.draw(model, *asked)
            row |= accuracies(right, kind)
    row["seconds for 10,000"] = time.perf_counter() - start
    features = yardstick.describe(pictures)
    row["Fréchet ratio"] = frechet_distance(yardstick.test_features, features) / yardstick.floor
    if "coverage" in columns:
        row |= yardstick.compare_neighbours(features)
    if "negative ELBO" in columns:
        row["negative ELBO"] = negative_elbo(model, yardstick, inputs)
    if "train on these, test on real" in columns:
        row["train on these, test on real"] = accuracy_after_training_on(
            pictures, digits[captions], yardstick.test_images, yardstick.test_labels
        )
    return {column: round(row[column], decimals) for column, decimals in columns.items()}


def negative_elbo(model, yardstick, inputs=None):
    """Average over the tossed test set in nats, each picture with a held-out caption."""
    labels, pictures = yardstick.test_labels, binarise(yardstick.test_images)
    generator = torch.Generator().manual_seed(0)
    captions = labels
    if inputs is None:
        by_digit = group_by_digit(*yardstick.prompts["held-out"])
        rows = torch.randint(by_digit.shape[1], labels.shape, generator=generator)
        captions = by_digit[labels, rows]
    return -elbo(model, pictures, captions, generator).mean().item()
