"""Controls and comparisons of notebook 10: `python -m helpers compare` trains every row anew.

Each row changes one thing of how `mnist-cvae` is trained, on a shorter budget: three epochs, or
four without the proofreader, which takes about as many CPU seconds. The last row is a loop written
without any of notebook 8, given as many seconds as the released training.
"""

import functools
import json
import time
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST
from tqdm.auto import tqdm

from helpers.captions import TRAINING_PHRASINGS, WORDS, all_captions
from helpers.checkpoints import CHECKPOINTS, checkpoint_paths
from helpers.evaluation import Yardstick, accuracies, elbo
from helpers.files import write_whole
from helpers.generator import sentence_encoder
from helpers.metrics import binarise
from helpers.mnist import DATA, load_mnist, load_splits
from helpers.models import ConvCVAE, elbo_terms
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

RESULTS = CHECKPOINTS / "comparisons.json"
EPOCHS = 3
ROWS = {
    "as released, three epochs": {},
    "a digit instead of a sentence": {"head": "one-hot"},
    "captions shuffled": {"shuffled": True},
    "condition concatenated, no FiLM": {"film": False},
    "prompt head without noise": {"head": "no noise"},
    "plain head, no proofreader": {"head": "plain", "strict": False, "epochs": 4},
    "no proofreader": {"strict": False, "epochs": 4},
    "no proofreader, beta 2": {"strict": False, "beta": 2.0, "epochs": 4},
    "beta 0.5": {"beta": 0.5},
    "beta 2": {"beta": 2.0},
    "no annealing": {"share": 0.0},
    "grey pixels, not tossed": {"tossed": False},
    "constant learning rate 1e-3": {"constant": True, "rate": 1e-3},
}
STRAIGHTFORWARD = "straightforward loop"


class OneHotHead(nn.Module):
    """Turn digits (n,) into conditions (n, 10) of length 4, with nothing to read (notebook 7)."""

    digit = nn.Identity()

    def forward(self, digits, generator=None):
        """Map digits (n,) to conditions (n, 10)."""
        return 4.0 * F.one_hot(digits, 10)


class PlainHead(nn.Sequential):
    """Map raw embeddings (n, 384) to conditions (n, 16), with no measure against phrasing."""

    def __init__(self):
        super().__init__(nn.Linear(384, 128), nn.ReLU(), nn.Linear(128, 16))

    def forward(self, embeddings, generator=None):
        """Map embeddings (n, 384) to conditions (n, 16)."""
        return super().forward(embeddings)


def compare(names=()):
    """Train and measure rows of the table; each is written to `checkpoints/comparisons.json`.

    Args:
        names: some of `ROWS`, or `STRAIGHTFORWARD`; all of them if empty.

    Raises:
        ValueError: a name is not a row.
    """
    known = [*ROWS, STRAIGHTFORWARD]
    for name in names:
        if name not in known:
            rows = ", ".join(map(repr, known))
            raise ValueError(f"There is no row {name!r}: choose among {rows}.")
    yardstick = Yardstick()
    for name in names or known:
        row = _row(ROWS[name], yardstick) if name in ROWS else _straightforward(yardstick)
        _keep(name, row)
        print(name, row, flush=True)


def _row(changes, yardstick):
    start = time.process_time()
    model, inputs = train_variant(**changes)
    seconds = round(time.process_time() - start)
    epochs = {"epochs": changes.get("epochs", EPOCHS), "CPU seconds": seconds}
    return epochs | _measure(model.eval(), yardstick, inputs)


def train_variant(
    head="released", film=True, shuffled=False, strict=True, tossed=True, constant=False,
    epochs=EPOCHS, **recipe,
):
    """Train a `ConvCVAE` as the released one, but for what the arguments change.

    Args:
        head: "released", "no noise", "plain" (trained along, on raw embeddings) or "one-hot".
        film: see `ConvLayers`.
        shuffled: whether each caption is given the digit of another one, at random.
        strict: whether the proofreader reads along.
        tossed: whether pixels are tossed.
        constant: whether the learning rate stays at its highest instead of one cycle.
        epochs, recipe: see `MNIST_RECIPE`.

    Returns:
        model: with averaged weights, in evaluation mode.
        inputs: None if it reads embeddings, or a tensor (10,) of digits.
    """
    captions, digits = all_captions(TRAINING_PHRASINGS)
    embeddings = sentence_encoder().encode(captions)
    if shuffled:
        digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    by_digit = group_by_digit(embeddings, digits)
    images, labels = load_splits()["train"]
    penalty = None
    if strict:
        proofreader = train_proofreader(images, labels)
        penalty = functools.partial(proofread, proofreader=proofreader)
    torch.manual_seed(0)
    model = ConvCVAE(film=film, condition=10 if head == "one-hot" else 16)
    if head == "one-hot":
        model.head, by_digit = OneHotHead(), torch.arange(10)[:, None]
    elif head == "plain":
        model.head = PlainHead()
    else:
        model.head.noise = 0.0 if head == "no noise" else model.head.noise
        train_head(model.head, embeddings, digits)

    def batches(generator):
        found = caption_batches(images, labels, by_digit, 250, generator)
        return toss_pixels(found, generator) if tossed else found

    recipe = MNIST_RECIPE | recipe | {"epochs": epochs}
    schedule = _stay if constant else torch.optim.lr_scheduler.OneCycleLR
    with patch("torch.optim.lr_scheduler.OneCycleLR", schedule):
        model, _ = train_cvae(model, batches, **recipe, penalty=penalty)
    return model, by_digit[:, 0] if head == "one-hot" else None


def _stay(optimizer, rate, total_steps):
    """Take the place of one cycle: a learning rate that stays where it is."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def _measure(model, yardstick, inputs=None):
    """Draw 10,000 pictures with seed 0 for each kind of phrasing and measure those held out."""
    row = {}
    for kind, (embeddings, digits) in yardstick.prompts.items():
        asked = (embeddings, digits) if inputs is None else (inputs, inputs)
        pictures, right, _ = yardstick.draw(model, *asked)
        row |= accuracies(right, kind)
    fidelity = yardstick.fidelity(pictures)
    row["Fréchet ratio"] = fidelity["Fréchet distance"] / yardstick.floor
    row["coverage"] = fidelity["coverage"]
    row["negative ELBO"] = _negative_elbo(model, yardstick, inputs)
    return {key: round(value, 4) for key, value in row.items()}


def _negative_elbo(model, yardstick, inputs):
    """Average over the tossed test set in nats, each picture with a held-out caption."""
    labels, pictures = yardstick.test_labels, binarise(yardstick.test_images)
    generator = torch.Generator().manual_seed(0)
    if inputs is None:
        captions = group_by_digit(*yardstick.prompts["held-out"])
        rows = torch.randint(captions.shape[1], labels.shape, generator=generator)
        inputs = captions[labels, rows]
    else:
        inputs = labels
    return -elbo(model, pictures, inputs, generator).mean().item()


class _Captioned(MNIST):
    """MNIST as a data set of its own: every item is decoded, transformed and given a caption."""

    raw_folder = str(DATA / "unpacked" / "MNIST" / "raw")  # the class's own name otherwise

    def __getitem__(self, index):
        picture, digit = super().__getitem__(index)
        return picture, f"a handwritten {WORDS[digit]}"


def _straightforward(yardstick):
    """Train for as many seconds as the released model took, the way a first draft would.

    Batches of 32 from a DataLoader, sentences encoded in every batch, Adam at 1e-4, and a KL whose
    weight rises over 30 epochs.
    """
    load_mnist(train=True)  # unpacks the files if need be
    data = _Captioned(DATA / "unpacked", train=True, transform=transforms.ToTensor())
    facts = json.loads(checkpoint_paths("mnist-cvae")[1].read_text(encoding="utf-8"))
    budget = facts["results"]["training seconds"]
    encoder = sentence_encoder().model
    torch.manual_seed(0)
    model = ConvCVAE(film=False)
    model.head = PlainHead()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    start, seen = time.perf_counter(), 0
    with tqdm(total=budget, desc="seconds") as bar:
        while time.perf_counter() - start < budget:
            for pictures, captions in DataLoader(data, batch_size=32, shuffle=True):
                embeddings = encoder.encode(captions, convert_to_tensor=True).clone()
                logits, mean, log_variance = model(pictures, embeddings)
                reconstruction, kl = elbo_terms(logits, pictures, mean, log_variance)
                loss = reconstruction + min(1.0, seen / len(data) / 30) * kl
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen += len(pictures)
                bar.n = round(time.perf_counter() - start)
                bar.refresh()
                if bar.n >= budget:
                    break
    facts = {"epochs": round(seen / len(data), 2), "seconds": budget}
    return facts | _measure(model.eval(), yardstick)


def _keep(name, row):
    """Write a row into the results; the file is replaced when complete."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    results[name] = row
    order = [*ROWS, STRAIGHTFORWARD]
    kept = {key: results[key] for key in order if key in results}
    write_whole(RESULTS, (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode())
