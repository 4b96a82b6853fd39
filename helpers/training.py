"""Training: batches, a plain fit, the CVAE's loop with stop and resume (09_training)."""

import copy
import functools
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm.auto import tqdm

from helpers import open_folder, write_whole
from helpers.doors import on_device, to_model
from helpers.mnist import to_float
from helpers.models import Proofreader, elbo_terms
from helpers.shapes import PROMPTS, draw_all_shapes
from helpers.text import CharacterTokenizer

# How the released checkpoints are trained, see checkpoints/recipes.
SHAPES_RECIPE = {"epochs": 80, "steps": 10 * len(PROMPTS), "beta": 4.0, "share": 0.5, "rate": 2e-3,
                 "seed": 0}
MNIST_RECIPE = {"epochs": 12, "steps": 220, "beta": 1.0, "share": 0.3, "rate": 3e-3, "seed": 0}


def make_adam(parameters, rate):
    """Make Adam (Kingma and Ba, 2015), which is one fused step where the device has it."""
    parameters = list(parameters)
    fused = parameters[0].device.type in ("cpu", "cuda", "mps")
    return torch.optim.Adam(parameters, lr=rate, fused=fused)


def check_loss(loss, step):
    """Stop a training whose loss is no number any more, with a sentence that says what to do."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"The loss is {loss} at step {step}: lower the learning rate.")


def one_cycle(optimizer, rate, steps):
    """Raise the learning rate to `rate` and let it fall again (Smith and Topin, 2018)."""
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)


def constant(optimizer, rate, steps):
    """Leave the learning rate where it is: at `rate`, which the optimiser was made with."""
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def falling(optimizer, rate, steps):
    """Let the learning rate fall from `rate` to 0 in a straight line."""
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)


def fit(parameters, loss_of, steps, rate, name="", schedule=one_cycle):
    """Minimise `loss_of(step)` with Adam, under a bar if it has a name: the loss of each step."""
    optimizer = make_adam(parameters, rate)
    schedule = schedule(optimizer, rate, steps)
    losses = []
    for step in (bar := tqdm(range(steps), desc=name, disable=not name)):
        loss = loss_of(step)
        losses.append(loss.item())
        check_loss(losses[-1], step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{losses[-1]:.4g}", refresh=False)
    return losses


def shape_batches(tokens, per_prompt, batch, generator):
    """Draw one epoch of fresh shapes: yield pictures (batch, 1, 28, 28), tokens (batch, 32)."""
    pictures, prompt_ids = draw_all_shapes(per_prompt, generator)
    order = torch.randperm(len(pictures), generator=generator)
    for rows in order[: len(order) // batch * batch].split(batch):
        yield pictures[rows, None], tokens[prompt_ids[rows]]


def caption_batches(images, labels, embeddings, batch, generator):
    """Yield pictures (batch, 1, 28, 28), each with one of its digit's captions (10, c, 384)."""
    order = torch.randperm(len(images), generator=generator)
    for rows in order[: len(order) // batch * batch].split(batch):
        digits = labels[rows]
        captions = torch.randint(embeddings.shape[1], digits.shape, generator=generator)
        yield to_float(images[rows]), embeddings[digits, captions]


def pair_batches(pictures, inputs, batch, generator):
    """Yield pictures (batch, 1, 28, 28), each with its own row of the inputs (n, 384)."""
    if len(pictures) < batch:
        raise ValueError(f"{len(pictures)} pictures do not fill a batch of {batch}: lower it.")
    order = torch.randperm(len(pictures), generator=generator)
    for rows in order[: len(order) // batch * batch].split(batch):
        yield pictures[rows], inputs[rows]


def toss_pixels(batches, generator):
    """Toss each pixel anew, grey as the chance of ink (Salakhutdinov and Murray, 2008)."""
    for pictures, inputs in batches:
        yield pictures.bernoulli(generator=generator), inputs


def group_by_digit(embeddings, digits):
    """Sort encoded captions (n, 384) by what they name: float32 tensor (k, n / k, 384), k = 10."""
    return torch.stack([embeddings[digits == digit] for digit in digits.unique()])


@on_device
def train_head(head, embeddings, digits, steps=1500, rate=2e-3, seed=0, pull=0.2):
    """Teach a prompt head to read digits (n,) from embeddings (n, 384), then freeze it."""
    generator = torch.Generator().manual_seed(seed)
    head.fit_scale(embeddings)
    head.train()

    def loss(step):
        rows = torch.randint(len(embeddings), (256,), generator=generator)
        condition = head(embeddings[rows], generator)
        member = F.one_hot(digits[rows], head.digit.out_features).float()
        centres = member.T @ condition / member.sum(0).clamp(min=1)[:, None]  # 10×16
        spread = (condition - member @ centres).square().sum(1).mean()
        return F.cross_entropy(head.digit(condition), digits[rows]) + pull * spread

    losses = fit(head.parameters(), loss, steps, rate, schedule=falling)
    head.requires_grad_(False)
    return losses


@on_device
def train_classifier(classifier, images, labels, epochs, batch=128):
    """Train a classifier of digits (n, 28, 28), shifted a little; seed torch's global generator."""
    if len(images) < batch:
        raise ValueError(f"{len(images)} pictures do not fill a batch of {batch}: give more.")
    batches = len(images) // batch
    order = []

    def loss(step):
        if step % batches == 0:
            order[:] = torch.randperm(len(images))[: batches * batch].split(batch)
        rows = order[step % batches]
        shift = torch.randint(-2, 3, (2,)).tolist()
        pictures = to_float(images[rows]).roll(shift, dims=(2, 3))
        return F.cross_entropy(classifier(pictures), labels[rows])

    fit(classifier.parameters(), loss, epochs * batches, 3e-3, "classifier")
    return classifier.eval()


def train_proofreader(images, labels, epochs=2, seed=77, device=None):
    """Train a `Proofreader` on real pictures, uint8 (n, 28, 28), and freeze it."""
    torch.manual_seed(seed)
    proofreader = train_classifier(Proofreader(), images, labels, epochs, 250, device=device)
    proofreader.zero_grad()
    return proofreader.requires_grad_(False)


def proofread(model, inputs, generator, proofreader, n=64, strictness=5.0):
    """Draw n captions and say how badly a proofreader reads them, in nats (Odena et al., 2017)."""
    condition = model.head(inputs[:n], generator)
    z = torch.randn(len(condition), model.latent, generator=generator).to(condition.device)
    pictures = model.decode(z, condition).sigmoid()
    asked = model.head.digit(condition).argmax(1)
    return strictness * F.cross_entropy(proofreader.to(z.device)(pictures), asked)


def warm_up(progress, beta, share):
    """Raise the KL's weight from 0 to beta over a share of the training (Bowman et al., 2016)."""
    return beta * min(1.0, progress / share) if share else beta


@torch.no_grad()
def update_average(average, model, step, decay=0.999):
    """Move averaged weights a little towards the current ones (Polyak and Juditsky, 1992)."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, current in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(current, 1 - decay)
    for mean, current in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(current)  # such as batch norm's, which are averages already


def loss_terms(model, pictures, inputs, generator):
    """Reconstruction and KL of a CVAE, in nats per picture, averaged over the batch."""
    logits, mean, log_variance = model(pictures, inputs, generator)
    return elbo_terms(logits, pictures, mean, log_variance)


@torch.no_grad()
def validate(model, batches):
    """Measure the negative ELBO in nats per picture on other batches, with the same noise."""
    training = model.training
    model.eval()
    generator, total, n = torch.Generator().manual_seed(0), 0, 0
    for batch in batches:
        terms = loss_terms(model, *to_model(model, *batch), generator)
        total += len(batch[0]) * torch.stack(terms)
        n += len(batch[0])
    model.train(training)
    reconstruction, kl = (total / n).tolist()
    row = {"validation reconstruction": reconstruction, "validation kl": kl}
    return row | {"validation loss": reconstruction + kl}


def first_loss(model, batches, seed, penalty=None):
    """What a model loses on the first batch: it tells other data or another penalty in a run."""
    generator = torch.Generator().manual_seed(seed)
    pictures, inputs = to_model(model, *next(iter(batches(generator))))
    with torch.no_grad():
        loss = sum(loss_terms(model, pictures, inputs, generator))
        return (loss + penalty(model, inputs, generator) if penalty else loss).item()


@on_device
def train_cvae(
    model, batches, epochs, steps, beta=1.0, share=0.2, rate=2e-3, seed=0,
    validation=(), after_epoch=None, folder=None, penalty=None, schedule=one_cycle,
):
    """Train a CVAE: fused Adam, one-cycle learning rate, KL warm-up, averaged weights.

    Args:
        model: a CVAE; its weights are changed. `device` says where, see `on_device`.
        batches: a function from a `torch.Generator` to one epoch of `steps` (pictures, inputs).
        beta, share: the KL's final weight, and the part of the training in which it rises from 0.
        rate: the highest learning rate.
        validation: batches to validate the averaged weights on after each epoch.
        after_epoch: called with (a copy of the averaged model on the CPU, number of epochs done).
        folder: where to keep `last.safetensors`; a training that was stopped goes on from there,
            and ValueError is raised if it was another.
        penalty: a function from (model, inputs, generator) to a scalar that joins the loss.
        schedule: a function from (optimizer, rate, steps) to a scheduler.

    Returns:
        The model with averaged weights, in evaluation mode, and one dict of numbers for each epoch.
        Once the loss is no number, FloatingPointError is raised; the weights are those before it.
    """
    generator, average = torch.Generator().manual_seed(seed), copy.deepcopy(model).eval()
    optimizer = make_adam(model.parameters(), rate)
    settings = {"epochs": epochs, "steps": steps, "beta": beta, "share": share, "rate": rate,
                "seed": seed, "validation": len(validation),
                "schedule": getattr(schedule, "__name__", "")}
    state = (model, average, optimizer, schedule(optimizer, rate, epochs * steps + 1), generator)
    probe = functools.partial(first_loss, batches=batches, seed=seed, penalty=penalty)
    history = resume_run(folder, settings, state, probe) if folder else []

    def price(step):
        return warm_up(step / (epochs * steps), beta, share)

    with tqdm(total=epochs * steps, initial=len(history) * steps, desc="training") as bar:
        while len(history) < epochs:
            row = train_epoch(state, batches, steps, price, penalty, bar)
            row["epoch"] = len(history) + 1
            if validation:
                row |= validate(average, validation)
                check_loss(row["validation loss"], row["epoch"] * steps)
            history.append(row)
            if folder:
                save_run(folder, settings, state, history, probe)
            if after_epoch:
                after_epoch(copy.deepcopy(average).cpu(), len(history))
    return average.cpu(), history


def train_epoch(state, batches, steps, price, penalty, bar):
    """Make one pass over the batches; return the mean of each loss term and the settings."""
    model, average, optimizer, schedule, generator = state
    model.train()
    start, sums, count = time.perf_counter(), 0, 0
    for given in batches(generator):
        step, batch = schedule.last_epoch, to_model(model, *given)
        reconstruction, kl = loss_terms(model, *batch, generator)
        loss = reconstruction + price(step) * kl
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
        bar.set_postfix(loss=f"{loss.item():.1f}", refresh=False)
        bar.update()
    if count != steps:
        raise ValueError(f"{count} batches are no epoch of {steps}: `steps` must be their number.")
    means, rate = (sums / count).tolist(), schedule.get_last_lr()[0]
    return {"reconstruction": means[0], "kl": means[1], "beta": price(step),
            "learning rate": rate, "seconds": time.perf_counter() - start}


def save_run(folder, settings, state, history, probe):
    """Keep what resuming needs; `state` is (model, average, optimizer, schedule, generator)."""
    model, average, optimizer, schedule, generator = state
    folder, adam = Path(folder).expanduser(), optimizer.state_dict()
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    tensors |= {f"adam.{i}.{k}": v for i, d in adam["state"].items() for k, v in d.items()}
    tensors["generator"] = generator.get_state()
    facts = {"settings": settings, "history": history, "groups": adam["param_groups"],
             "schedule": schedule.state_dict(), "probe": probe(average)}
    write_whole(folder / "last.safetensors", save(tensors, {"facts": json.dumps(facts)}))


def restore(state, tensors, facts):
    """Put back what `save_run` kept; an error where anything is missing or of another shape."""
    model, average, optimizer, schedule, generator = state
    for name, net in (("model.", model), ("average.", average)):
        kept = {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}
        net.load_state_dict(kept)
    adam = {}
    for i, weight in enumerate(optimizer.param_groups[0]["params"]):
        names = {k: f"adam.{i}.{k}" for k in ("step", "exp_avg", "exp_avg_sq")}
        moments = {k: tensors[name] for k, name in names.items() if name in tensors}
        if moments:  # frozen weights have none
            if [x.shape for x in moments.values()] != [(), weight.shape, weight.shape]:
                raise ValueError(f"what Adam knows of weight {i} has another shape")
            adam[i] = moments
    optimizer.load_state_dict({"state": adam, "param_groups": facts["groups"]})
    schedule.load_state_dict(facts["schedule"])
    generator.set_state(tensors["generator"])
    return facts["history"]


def resume_run(folder, settings, state, probe):
    """Restore what `save_run` kept: the history; ValueError for damage or another training."""
    path = open_folder(folder) / "last.safetensors"
    if not path.is_file():
        return []
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} is not finite")
        for name, value in settings.items():
            if facts["settings"][name] != value:
                raise ValueError(f"{name} was {facts['settings'][name]} and is {value}")
        tried = copy.deepcopy(state)  # on copies first
        restore(tried, tensors, facts)
        if not math.isclose(probe(tried[1]), facts["probe"], rel_tol=1e-3):
            raise ValueError("its pictures, captions or penalty were others")
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} does not fit this training: delete the folder to start anew, or give another "
            f"({reason})."
        ) from error
    return restore(state, tensors, facts)


@on_device
def train_first_generator(model, epochs=100, per_prompt=500, batch=64, seed=0):
    """Train with squared error on fresh shapes: the mean loss of each epoch."""
    if batch > len(PROMPTS) * per_prompt:
        n = len(PROMPTS) * per_prompt
        raise ValueError(f"{n} pictures do not fill a batch of {batch}: draw more.")
    generator = torch.Generator().manual_seed(seed)
    tokens, device = CharacterTokenizer().encode(PROMPTS), next(model.parameters()).device
    optimizer = make_adam(model.parameters(), rate=1e-3)
    losses = []
    model.train()
    for _ in (bar := tqdm(range(epochs), desc="training")):
        epoch = []
        for pictures, asked in shape_batches(tokens, per_prompt, batch, generator):
            noise = torch.randn(batch, model.latent, generator=generator).to(device)
            loss = F.mse_loss(model.draw(asked, noise), pictures.to(device))
            check_loss(loss.item(), len(losses))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch.append(loss.item())
        losses.append(sum(epoch) / len(epoch))
        bar.set_postfix(loss=f"{losses[-1]:.4f}")
    model.eval()
    return losses
