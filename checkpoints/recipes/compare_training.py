"""Controls and comparisons of 11_how_good_is_it: every row is trained anew.

Each row changes one thing of how `mnist-cvae` is trained, on a shorter budget: three epochs, or
four without the proofreader, which takes about as many CPU seconds. The last row is a loop written
without any of 09_training, given as many seconds as the released training. All rows together take
about half an hour on two cores.
"""

import functools
import json
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from measuring import Yardstick, measure_row
from PIL import Image
from running import compare
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from helpers.captions import TRAINING_PHRASINGS, WORDS, all_captions
from helpers.checkpoints import checkpoint_paths
from helpers.mnist import load_mnist, load_splits
from helpers.models import ConvCVAE, elbo_terms
from helpers.text import sentence_encoder
from helpers.training import (
    MNIST_RECIPE,
    caption_batches,
    constant,
    group_by_digit,
    one_cycle,
    proofread,
    toss_pixels,
    train_cvae,
    train_head,
    train_proofreader,
)

COLUMNS = dict.fromkeys((
    "prompt accuracy, training", "worst digit, training", "prompt accuracy, held-out",
    "worst digit, held-out", "Fréchet ratio", "coverage", "negative ELBO",
), 4)


@dataclass
class Change:
    """What a row changes of the released training, shortened to three epochs."""

    head: str = "released"    # or "no noise", "no pull", "one-hot"; trained along: "along", "plain"
    averaged: bool = True     # whether the weights are averaged
    film: bool = True         # see `ConvLayers`
    shuffled: bool = False    # whether each caption is given the digit of another one
    proofread: bool = True    # whether the proofreader reads along
    tossed: bool = True       # whether pixels are tossed
    constant: bool = False    # whether the learning rate stays at its highest, with no one-cycle
    epochs: int = 3
    recipe: dict = field(default_factory=dict)  # see `MNIST_RECIPE`


ROWS = {
    "as released, three epochs": Change(),
    "a digit instead of a sentence": Change(head="one-hot"),
    "captions shuffled": Change(shuffled=True),
    "condition concatenated, no FiLM": Change(film=False),
    "prompt head without noise": Change(head="no noise"),
    "prompt head without pull": Change(head="no pull"),
    "plain head, no proofreader": Change(head="plain", proofread=False, epochs=4),
    "head trained along, no proofreader": Change(head="along", proofread=False, epochs=4),
    "no proofreader": Change(proofread=False, epochs=4),
    "no proofreader, beta 2": Change(proofread=False, epochs=4, recipe={"beta": 2.0}),
    "beta 0.5": Change(recipe={"beta": 0.5}),
    "beta 2": Change(recipe={"beta": 2.0}),
    "no annealing": Change(recipe={"share": 0.0}),
    "grey pixels, not tossed": Change(tossed=False),
    "constant learning rate 1e-3": Change(constant=True, recipe={"rate": 1e-3}),
    "last weights, not averaged": Change(averaged=False),
    "last weights, constant rate 1e-3": Change(
        constant=True, recipe={"rate": 1e-3}, averaged=False),
}
STRAIGHTFORWARD = "straightforward loop"
ORDER = [*ROWS, STRAIGHTFORWARD]


class OneHotHead(nn.Module):
    """Turn digits (n,) into conditions (n, 10) of length 4, with nothing to read."""

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


def train_changed(change):
    """Train a `ConvCVAE` as the released one, but for one `Change`.

    Returns: the model; and what it reads, None for embeddings or a tensor (10,) of digits.
    """
    captions, digits = all_captions(TRAINING_PHRASINGS)
    embeddings = sentence_encoder().encode(captions)
    if change.shuffled:
        digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    by_digit = group_by_digit(embeddings, digits)
    images, labels = load_splits()["train"]
    penalty = None
    if change.proofread:
        penalty = functools.partial(proofread, proofreader=train_proofreader(images, labels))
    torch.manual_seed(0)
    one_hot = change.head == "one-hot"
    model = ConvCVAE(film=change.film, condition=10 if one_hot else 16)
    if one_hot:
        model.head, by_digit = OneHotHead(), torch.arange(10)[:, None]
    elif change.head == "plain":
        model.head = PlainHead()
    else:
        if change.head in ("no noise", "along"):  # noise makes the one trained along worse
            model.head.noise = 0.0
        if change.head == "along":
            model.head.fit_scale(embeddings)
        else:
            train_head(model.head, embeddings, digits, pull=0.2 * (change.head != "no pull"))

    def batches(generator):
        pairs = caption_batches(images, labels, by_digit, 250, generator)
        return toss_pixels(pairs, generator) if change.tossed else pairs

    average, _ = train_cvae(
        model, batches, **MNIST_RECIPE | change.recipe | {"epochs": change.epochs},
        penalty=penalty, schedule=constant if change.constant else one_cycle,
    )
    return average if change.averaged else model, torch.arange(10) if one_hot else None


class CaptionedDigits(Dataset):
    """MNIST as a first draft would read it: every item is decoded and captioned when asked for."""

    def __init__(self):
        self.images, self.labels = load_mnist(train=True)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        picture = np.array(Image.fromarray(self.images[index].numpy()))
        caption = f"a handwritten {WORDS[self.labels[index]]}"
        return torch.tensor(picture)[None] / 255, caption


def train_straightforward(budget):
    """Train for so many seconds, the way a first draft would: the model, and how many epochs.

    Batches of 32 from a DataLoader, sentences encoded in every batch, Adam at 1e-4, and a KL whose
    weight rises over 30 epochs.
    """
    data, encoder = CaptionedDigits(), sentence_encoder()
    torch.manual_seed(0)
    model = ConvCVAE(film=False)
    model.head = PlainHead()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    start, seen = time.perf_counter(), 0
    with tqdm(total=budget, desc="seconds") as bar:
        while time.perf_counter() - start < budget:
            for pictures, captions in DataLoader(data, batch_size=32, shuffle=True):
                encoder.cache.clear()
                embeddings = encoder.encode(list(captions))
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
    return model, seen / len(data)


def measure(names):
    """Train and measure the rows of these names, one after the other."""
    yardstick = Yardstick()
    for name in names:
        if name == STRAIGHTFORWARD:
            facts = json.loads(checkpoint_paths("mnist-cvae")[1].read_text(encoding="utf-8"))
            budget, inputs = facts["results"]["training seconds"], None
            model, epochs = train_straightforward(budget)
            spent = {"epochs": round(epochs, 2), "seconds": budget}
        else:
            start = time.process_time()
            model, inputs = train_changed(ROWS[name])
            seconds = time.process_time() - start
            spent = {"epochs": ROWS[name].epochs, "CPU seconds": round(seconds)}
        yield name, spent | measure_row(model.eval(), yardstick, COLUMNS, inputs)


if __name__ == "__main__":
    compare("comparisons", ORDER, measure, minutes=2, choice=True)
