"""Training a CVAE: annealing, schedule, averaged weights, history, stop and resume (notebook 8)."""

import contextlib
import copy
import csv
import hashlib
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm.auto import tqdm

from helpers.characters import CharacterTokenizer
from helpers.files import write_whole, writing
from helpers.mnist import to_float
from helpers.models import Proofreader, elbo_terms
from helpers.shapes import PROMPTS, draw_all_shapes

# How the released checkpoints are trained; the batches are in helpers/release.py.
SHAPES_RECIPE = {"epochs": 80, "steps": 90, "beta": 4.0, "share": 0.5, "rate": 2e-3, "seed": 0}
MNIST_RECIPE = {"epochs": 12, "steps": 220, "beta": 1.0, "share": 0.3, "rate": 3e-3, "seed": 0}


def shape_batches(tokens, per_prompt, batch, generator):
    """Draw one epoch of fresh shapes in random order.

    Args:
        tokens: int64 tensor (9, 32), the nine prompts as tokens.
        per_prompt: pictures of each prompt.
        batch: pictures in a batch; an incomplete last batch is left out.
        generator: a `torch.Generator`, used up further.

    Yields:
        pictures (batch, 1, 28, 28) in [0, 1], tokens (batch, 32).
    """
    pictures, prompt_ids = draw_all_shapes(per_prompt, generator)
    order = torch.randperm(len(pictures), generator=generator)
    for rows in order[: len(order) // batch * batch].split(batch):
        yield pictures[rows, None], tokens[prompt_ids[rows]]


def caption_batches(images, labels, embeddings, batch, generator):
    """Go once through MNIST in random order, with a random caption for every picture.

    Args:
        images: uint8 tensor (n, 28, 28).
        labels: int64 tensor (n,).
        embeddings: float32 tensor (10, c, 384): c encoded captions for each digit.
        batch: pictures in a batch; an incomplete last batch is left out.
        generator: a `torch.Generator`, used up further.

    Yields:
        pictures (batch, 1, 28, 28) in [0, 1], embeddings (batch, 384).
    """
    order = torch.randperm(len(images), generator=generator)
    for rows in order[: len(order) // batch * batch].split(batch):
        digits = labels[rows]
        captions = torch.randint(embeddings.shape[1], digits.shape, generator=generator)
        yield to_float(images[rows]), embeddings[digits, captions]


def toss_pixels(batches, generator):
    """Make every pixel black or white, with its grey level as the probability of white.

    A picture is tossed anew whenever it comes by (dynamic binarisation, Salakhutdinov and Murray,
    2008), so that the Bernoulli cross entropy is a likelihood.

    Args:
        batches: yields pictures (n, 1, 28, 28) in [0, 1] and their inputs.
        generator: a `torch.Generator`, used up further.

    Yields:
        pictures (n, 1, 28, 28) of zeros and ones, and the inputs as they are.
    """
    for pictures, inputs in batches:
        yield pictures.bernoulli(generator=generator), inputs


def group_by_digit(embeddings, digits):
    """Sort encoded captions (n, 384) by the digit they name: float32 tensor (10, n / 10, 384)."""
    return torch.stack([embeddings[digits == digit] for digit in range(10)])


def train_head(head, embeddings, digits, steps=1500, batch=256, rate=2e-3, seed=0):
    """Teach a prompt head to read the digit and to forget the phrasing, then freeze it.

    The loss is the cross entropy of the auxiliary layer plus the squared distance between each
    condition vector and the mean of its digit in the batch.

    Args:
        head: a `PromptHead`; its weights are changed and then frozen.
        embeddings: float32 tensor (n, 384), encoded training captions.
        digits: int64 tensor (n,), what they name.
        steps, batch, rate: how long, how many captions a step, and the first learning rate, which
            falls in a straight line to 0.
        seed: for the order and the noise.

    Returns:
        A list with the loss of each step.
    """
    generator = torch.Generator().manual_seed(seed)
    head.fit_scale(embeddings)
    head.train()
    optimizer = torch.optim.Adam(head.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(embeddings), (batch,), generator=generator)
        condition = head(embeddings[rows], generator)
        member = F.one_hot(digits[rows], 10).float()
        centres = member.T @ condition / member.sum(0).clamp(min=1)[:, None]  # 10×16
        pull = (condition - member @ centres).square().sum(1).mean()
        loss = F.cross_entropy(head.digit(condition), digits[rows]) + 0.2 * pull
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    head.requires_grad_(False)
    return losses


def train_classifier(classifier, images, labels, epochs, batch=128):
    """Train a classifier of digits, each batch shifted by up to two pixels.

    Order, shifts and dropout come from torch's global generator: seed it before the weights are
    made.

    Args:
        classifier: a module from (n, 1, 28, 28) to (n, 10) logits; its weights are changed.
        images: uint8 tensor (n, 28, 28).
        labels: int64 tensor (n,).
        epochs: passes over the pictures.
        batch: pictures per step.

    Returns:
        The classifier in evaluation mode.

    Raises:
        ValueError: there are fewer pictures than one batch.
        FloatingPointError: the loss is not a number any more.
    """
    if len(images) < batch:
        raise ValueError(f"{len(images)} pictures do not fill a batch of {batch}: give more.")
    optimizer = torch.optim.Adam(classifier.parameters(), fused=True)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    with tqdm(total=steps, desc="classifier") as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(images))[: steps // epochs * batch].split(batch):
                shift = torch.randint(-2, 3, (2,)).tolist()
                pictures = to_float(images[rows]).roll(shift, dims=(2, 3))
                loss = F.cross_entropy(classifier(pictures), labels[rows])
                check_loss(loss.item(), schedule.last_epoch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    return classifier.eval()


def train_proofreader(images, labels, epochs=2, seed=77):
    """Train a `Proofreader` on real training pictures, uint8 (n, 28, 28), and freeze it."""
    torch.manual_seed(seed)
    proofreader = train_classifier(Proofreader(), images, labels, epochs, batch=250)
    proofreader.zero_grad()
    return proofreader.requires_grad_(False)


def proofread(model, inputs, generator, proofreader, n=64, strictness=5.0):
    """Draw from the prior and say how badly a proofreader reads what was asked for.

    The ELBO decodes codes of real pictures alone; this looks at the codes that will be drawn
    (the auxiliary classifier of Odena et al., 2017, on the prior of a CVAE).

    Args:
        model: a `ConvCVAE` whose head names digits.
        inputs: embeddings (m, 384) of captions; the first n are drawn.
        generator: a `torch.Generator` for the codes and the prompt head's noise.
        proofreader: a frozen classifier from (n, 1, 28, 28) to (n, 10) logits.
        n: pictures to draw.
        strictness: weight of what comes out.

    Returns:
        `strictness` times the cross entropy of the digits that the head reads, in nats per picture.
    """
    condition = model.head(inputs[:n], generator)
    z = torch.randn(len(condition), model.latent, generator=generator)
    pictures = model.decode(z, condition).sigmoid()
    asked = model.head.digit(condition).argmax(1)
    return strictness * F.cross_entropy(proofreader(pictures), asked)


def warm_up(progress, beta, share):
    """Raise the weight of the KL in a straight line from 0 to beta (Bowman et al., 2016).

    Args:
        progress: how much of the training is done, 0 to 1.
        beta: the final weight.
        share: the part of the training that the rise takes; 0 means beta from the start.
    """
    return beta * min(1.0, progress / share) if share else beta


@torch.no_grad()
def update_average(average, model, step, decay=0.999):
    """Move averaged weights a little towards the current ones (Polyak and Juditsky, 1992).

    Early on the average moves faster, so that it forgets the untrained start.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for mean, current in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(current, 1 - decay)


def loss_terms(model, pictures, inputs, generator):
    """Compute both terms of a CVAE's negative ELBO, in nats per picture.

    Args:
        model: a `ShapesCVAE` or a `ConvCVAE`.
        pictures: float32 tensor (n, 1, 28, 28) with values in [0, 1].
        inputs: tokens (n, 32) or embeddings (n, 384), whichever the model reads.
        generator: a `torch.Generator` for the posterior and the prompt head's noise.

    Returns:
        reconstruction and kl, two scalars averaged over the batch.
    """
    logits, mean, log_variance = model(pictures, inputs, generator)
    return elbo_terms(logits, pictures, mean, log_variance)


@torch.no_grad()
def validate(model, batches):
    """Measure the negative ELBO in nats per picture on batches that training never sees.

    The posterior's noise is pinned, so two models meet the same draws. Training mode is restored.
    """
    training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(0)
    terms = [torch.stack(loss_terms(model, *batch, generator)) for batch in batches]
    model.train(training)
    reconstruction, kl = torch.stack(terms).mean(0).tolist()
    return {
        "validation reconstruction": reconstruction,
        "validation kl": kl,
        "validation loss": reconstruction + kl,
    }


def train_cvae(
    model, batches, epochs, steps, beta=1.0, share=0.2, rate=2e-3, seed=0,
    validation=(), after_epoch=None, folder=None, patience=None, penalty=None,
):
    """Train a CVAE: fused Adam, one-cycle learning rate, KL warm-up, averaged weights.

    Args:
        model: a `ShapesCVAE` or a `ConvCVAE`; its weights are changed.
        batches: a function from a `torch.Generator` to one epoch of (pictures, inputs).
        epochs: passes to make in all.
        steps: batches in an epoch.
        beta: final weight of the KL (Higgins et al., 2017); 1 gives the ELBO.
        share: the part of the training in which the weight rises from 0.
        rate: the highest learning rate of the one-cycle schedule (Smith and Topin, 2018).
        seed: for order, captions and noise.
        validation: batches to validate the averaged weights on after each epoch.
        after_epoch: called with (averaged model, number of epochs done).
        folder: where to keep `last.safetensors`, `best.safetensors` and `history.csv`; if a
            `last.safetensors` is there, training goes on from it. One training at a time.
        patience: stop after this many epochs without a better validation loss.
        penalty: a function from (model, inputs, generator) to a scalar that joins the loss, as
            `proofread` is.

    Returns:
        average: the model with averaged weights, in evaluation mode.
        history: a list with one dict of numbers for each epoch.

    Raises:
        ValueError: `folder` holds the state of another training or is in use, or an epoch has
            another number of batches than `steps`.
        FloatingPointError: the loss is not a number any more; the weights are those before it.
        OSError: `folder` cannot be written, or the disk is full; the files are as they were.
    """
    generator = torch.Generator().manual_seed(seed)
    average = copy.deepcopy(model).eval()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps + 1)
    state = (model, average, optimizer, schedule, generator)
    settings = {"epochs": epochs, "steps": steps, "beta": beta, "share": share, "rate": rate,
                "seed": seed, "validation": len(validation)}
    with hold_folder(folder):
        history = resume_run(folder, settings, *state) if folder else []
        with tqdm(total=epochs * steps, initial=len(history) * steps, desc="training") as bar:
            while len(history) < epochs and not out_of_patience(history, patience):
                row = train_epoch(*state, batches, epochs, steps, beta, share, bar, penalty)
                row["epoch"] = len(history) + 1
                if validation:
                    row |= validate(average, validation)
                    check_loss(row["validation loss"], schedule.last_epoch)
                history.append(row)
                if folder:
                    save_run(folder, settings, *state, history)
                if after_epoch:
                    after_epoch(average, len(history))
    return average, history


@contextlib.contextmanager
def hold_folder(folder):
    """Keep a run's folder to one training, and say what it holds if the training breaks off.

    Args:
        folder: made if it is not there; without one nothing is kept and nothing said.

    Raises:
        ValueError: another training holds the folder.
        OSError: the folder cannot be written.
    """
    if not folder:
        yield
        return
    folder = Path(folder)
    lock, last = FileLock(folder / ".lock"), folder / "last.safetensors"
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(
            f"Another training is using {folder}: wait for it to end, or give this one a folder "
            "of its own."
        ) from None
    try:
        for name in ("best.safetensors", "history.csv", "last.safetensors"):
            for left in folder.glob(f".{name}.*"):  # what a killed training had begun to write
                left.unlink()
        yield
    except KeyboardInterrupt:
        if last.exists():
            print(f"Stopped: {folder} holds the state after the last whole epoch; run the same "
                  "again to go on from there.")
        else:
            print(f"Stopped before the first epoch was whole: {folder} holds no state yet; run "
                  "the same again to begin anew.")
        raise
    except FloatingPointError as error:
        if not last.exists():
            raise
        raise FloatingPointError(
            f"{error} {folder} holds the state after the last whole epoch, from which the same "
            "would come again: delete it, or give another folder."
        ) from error
    finally:
        lock.release()


def train_epoch(model, average, optimizer, schedule, generator, batches, epochs, steps, beta,
                share, bar, penalty=None):
    """Make one pass over the batches; return the mean of each loss term and the settings."""
    model.train()
    start, sums, count = time.perf_counter(), torch.zeros(2), 0
    for batch in batches(generator):
        step = schedule.last_epoch
        weight = warm_up(step / (epochs * steps), beta, share)
        reconstruction, kl = loss_terms(model, *batch, generator)
        loss = reconstruction + weight * kl
        if penalty:
            loss = loss + penalty(model, batch[1], generator)
        check_loss(loss.item(), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        update_average(average, model, step)
        sums += torch.stack([reconstruction, kl]).detach()
        count += 1
        bar.update()
        if count % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.1f}")
    if count != steps:
        raise ValueError(f"{count} batches are no epoch of {steps}: `steps` must be their number.")
    means = (sums / count).tolist()
    return {
        "reconstruction": means[0], "kl": means[1], "beta": weight,
        "learning rate": schedule.get_last_lr()[0], "seconds": time.perf_counter() - start,
    }


def check_loss(loss, step):
    """Stop a training whose loss is no number any more, with a sentence that says what to do."""
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"The loss is {loss} at step {step}: lower the learning rate and start again."
        )


def out_of_patience(history, patience):
    """Say whether the last `patience` epochs brought no better validation loss."""
    if not patience or len(history) <= patience:
        return False
    losses = [row["validation loss"] for row in history]
    return min(losses[-patience:]) >= min(losses[:-patience])


def save_run(folder, settings, model, average, optimizer, schedule, generator, history):
    """Keep all that resuming needs, as safetensors; each file appears only when complete.

    `last.safetensors` comes last: whoever is stopped before it repeats the epoch and writes all.
    """
    folder = Path(folder)
    state = optimizer.state_dict()
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    tensors |= {f"adam.{i}.{k}": v for i, d in state["state"].items() for k, v in d.items()}
    tensors["generator"] = generator.get_state()
    facts = json.dumps({
        "settings": settings, "history": history,
        "groups": state["param_groups"], "schedule": schedule.state_dict(),
    })
    losses = [row.get("validation loss", row["reconstruction"] + row["kl"]) for row in history]
    if losses[-1] == min(losses):
        write_safetensors(folder / "best.safetensors", average.state_dict(), {})
    write_history(folder / "history.csv", history)
    checked = {"facts": facts, "sha256": fingerprint(tensors, facts)}
    write_safetensors(folder / "last.safetensors", tensors, checked)


def fingerprint(tensors, facts):
    """Compute the sha256 of tensors and a text, in hexadecimal digits."""
    packed = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return hashlib.sha256(packed + facts.encode()).hexdigest()


def resume_run(folder, settings, model, average, optimizer, schedule, generator):
    """Restore what `save_run` kept, in place; return the history (empty if there is none).

    Raises:
        ValueError: the state is damaged or of another training; nothing is restored.
    """
    path = Path(folder) / "last.safetensors"
    if not path.is_file():
        return []
    part = {"model": {}, "average": {}, "adam": {}}
    try:
        with safe_open(path, "pt") as file:
            kept = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if fingerprint(tensors, kept.get("facts", "")) != kept.get("sha256"):
            raise ValueError("it is damaged")
        facts = json.loads(kept["facts"])
        for name, value in settings.items():
            if facts["settings"][name] != value:
                raise ValueError(f"{name} was {facts['settings'][name]} and is {value}")
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if rest:
                part[head][rest] = tensor
        if _shapes(part["model"]) != _shapes(model.state_dict()):
            raise ValueError("the model was another")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not fit this training: delete the folder to start anew, or give another "
            f"({error})."
        ) from error
    model.load_state_dict(part["model"])
    average.load_state_dict(part["average"])
    adam = {}
    for name, tensor in part["adam"].items():
        index, key = name.split(".")
        adam.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": adam, "param_groups": facts["groups"]})
    schedule.load_state_dict(facts["schedule"])
    generator.set_state(tensors["generator"])
    write_history(path.with_name("history.csv"), facts["history"])
    return facts["history"]


def _shapes(weights):
    return {name: tensor.shape for name, tensor in weights.items()}


def write_safetensors(path, tensors, metadata):
    """Write tensors as safetensors; the file is replaced when complete."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(whole, metadata))


def write_history(path, history):
    """Write the history as CSV, one line for each epoch; the file is replaced when complete."""

    def write(beside):
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(history[0]))
            writer.writeheader()
            writer.writerows(history)

    write_whole(path, write)


def train_first_generator(model, epochs=100, per_prompt=500, batch=64, seed=0):
    """Train reader and decoder together with squared error on fresh shapes (notebook 3).

    Args:
        model: a `FirstGenerator`; it is trained in place and left in evaluation mode.
        epochs: how many times a new set of pictures is drawn and gone through.
        per_prompt: pictures of each of the nine prompts in an epoch.
        batch: pictures per step.
        seed: for pictures, order and noise. The weights are the caller's: seed torch before
            building the model.

    Returns:
        A list with the mean squared error per pixel of each epoch.

    Raises:
        ValueError: an epoch has fewer pictures than one batch.
    """
    if batch > 9 * per_prompt:
        raise ValueError(f"{9 * per_prompt} pictures do not fill a batch of {batch}: draw more.")
    generator = torch.Generator().manual_seed(seed)
    tokens = CharacterTokenizer().encode(PROMPTS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    losses = []
    model.train()
    for _ in (bar := tqdm(range(epochs), desc="training")):
        epoch = []
        for pictures, asked in shape_batches(tokens, per_prompt, batch, generator):
            noise = torch.randn(batch, model.latent, generator=generator)
            loss = F.mse_loss(model.draw(asked, noise), pictures)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch.append(loss.item())
        losses.append(sum(epoch) / len(epoch))
        bar.set_postfix(loss=f"{losses[-1]:.4f}")
    model.eval()
    return losses
