"""Independent judges and what they measure. A judge never takes part in training a generator."""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import nn
from tqdm.auto import tqdm

from helpers.characters import CharacterTokenizer
from helpers.mnist import to_float
from helpers.shapes import PROMPTS, draw_all_shapes, draw_shapes

JUDGE = Path(__file__).resolve().parents[1] / "checkpoints" / "judges" / "digits.safetensors"
JUDGE_SHA256 = "ce9cddc64cad320690796023ae6d04188a7a010b4c19b54d8e995831dc97f2aa"


class DigitJudge(nn.Sequential):
    """A LeNet-like classifier of digits (LeCun et al., 1998): (n, 1, 28, 28) → (n, 10) logits.

    Trained on real MNIST alone, with its own architecture and seed.
    """

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2),   # 32×12×12
            nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2),  # 64×4×4
            nn.Flatten(),                                      # 1024
            nn.Dropout(0.4),
            nn.Linear(1024, 128), nn.ReLU(),                   # 128
            nn.Dropout(0.4),
            nn.Linear(128, 10),                                # 10
        )


def load_digit_judge(path=JUDGE):
    """Load the released judge: a `DigitJudge` in evaluation mode.

    Raises:
        ValueError: the file is missing, damaged, or not the one that was released.
    """
    restore = "restore it with 'git checkout -- checkpoints'"
    if not path.is_file():
        raise ValueError(f"{path} is missing: {restore}.")
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != JUDGE_SHA256:
        raise ValueError(f"{path} is not the released judge: {restore}.")
    judge = DigitJudge()
    judge.load_state_dict(load(packed))
    return judge.eval()


def train_digit_judge(images, labels, epochs=14, batch=128, seed=1234):
    """Train a judge on real pictures, each batch shifted by up to two pixels.

    Args:
        images: uint8 tensor (n, 28, 28), real training pictures.
        labels: int64 tensor (n,).
        epochs: passes over the pictures.
        batch: pictures per step.
        seed: for the weights, the order and the shifts.

    Returns:
        A `DigitJudge` in evaluation mode.
    """
    torch.manual_seed(seed)
    judge = DigitJudge()
    optimizer = torch.optim.Adam(judge.parameters(), fused=True)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    with tqdm(total=steps, desc="judge") as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(images))[: steps // epochs * batch].split(batch):
                shift = torch.randint(-2, 3, (2,)).tolist()
                pictures = to_float(images[rows]).roll(shift, dims=(2, 3))
                loss = F.cross_entropy(judge(pictures), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    return judge.eval()


@torch.no_grad()
def name_digits(judge, pictures, batch=1000):
    """Ask a judge which digit each picture shows.

    Args:
        judge: a module from (n, 1, 28, 28) to (n, 10) logits, in evaluation mode.
        pictures: float32 tensor (n, 1, 28, 28) with values in [0, 1].
        batch: pictures per call.

    Returns:
        int64 tensor (n,), the digits 0 to 9.
    """
    return torch.cat([judge(part).argmax(1) for part in pictures.split(batch)])


class ShapeJudge(nn.Sequential):
    """A small classifier of the nine shapes: (n, 1, 28, 28) → (n, 9) logits (notebook 4)."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),   # n×16×14×14
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),  # n×32×7×7
            nn.Flatten(),                                          # n×1568
            nn.Linear(1568, 64), nn.ReLU(),                        # n×64
            nn.Linear(64, 9),                                      # n×9
        )


def train_shape_judge(steps=1500, seed=99):
    """Train a judge of shapes on fresh drawings whose grey values are read as probabilities.

    Args:
        steps: steps of 144 pictures, 16 of each prompt.
        seed: for the weights and the drawings.

    Returns:
        A `ShapeJudge` in evaluation mode.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    judge = ShapeJudge()
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3, fused=True)
    for _ in tqdm(range(steps), desc="judge"):
        pictures, prompt_ids = draw_all_shapes(16, generator)
        pixels = pictures.bernoulli(generator=generator)[:, None]
        loss = F.cross_entropy(judge(pixels), prompt_ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval()


@torch.no_grad()
def prompt_accuracy(model, inputs, digits, judge, n=10_000, seed=0):
    """Draw straight from the prior and count how many pictures show the digit that was asked for.

    Args:
        model: a generator in evaluation mode, with `latent` and `draw(inputs, z)`.
        inputs: what it reads, as for embeddings a float32 tensor (m, 384).
        digits: int64 tensor (m,), the digit that each input asks for.
        judge: see `name_digits`.
        n: pictures; each digit gets n / 10 of them, from inputs drawn at random among its own.
        seed: for the choice of inputs and for the latents.

    Returns:
        The share of correct pictures over all, and a float32 tensor (10,) with the share per digit.
    """
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for digit in range(10):
        rows = (digits == digit).nonzero()[:, 0]
        rows = rows[torch.randint(len(rows), (n // 10,), generator=generator)]
        z = torch.randn(n // 10, model.latent, generator=generator)
        pictures = model.draw(inputs[rows], z)
        shares.append((name_digits(judge, pictures) == digit).float().mean())
    shares = torch.stack(shares)
    return shares.mean().item(), shares


@torch.no_grad()
def shape_accuracy_and_variety(model, judge, n=500):
    """Judge what a generator of shapes draws straight from the prior, and how much it varies.

    Args:
        model: a generator in evaluation mode that reads tokens.
        judge: a `ShapeJudge`.
        n: pictures of each prompt.

    Returns:
        accuracies: float32 tensor (9,), the share of pixel-sampled pictures that show the prompt.
        ratios: float32 tensor (9,), the variance of the mean pictures over that of the program's.
    """
    tokens = CharacterTokenizer().encode(PROMPTS)
    z = torch.randn(n, model.latent, generator=torch.Generator().manual_seed(0))
    toss = torch.Generator().manual_seed(1)
    accuracies, ratios = torch.zeros(9), torch.zeros(9)
    for k, prompt in enumerate(PROMPTS):
        pictures = model.draw(tokens[[k]].expand(n, -1), z)
        named = name_digits(judge, pictures.bernoulli(generator=toss))
        accuracies[k] = (named == k).float().mean()
        ratios[k] = pictures.var(0).mean() / draw_shapes(prompt, n, seed=5).var(0).mean()
    return accuracies, ratios
