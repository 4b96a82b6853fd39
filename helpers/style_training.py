"""Training what notebook 11 adds: the style head, the ruler, the sense for what is no digit."""

import torch
import torch.nn.functional as F

from helpers.mnist import to_float
from helpers.models import Ruler, SentenceLayers, kl_divergence
from helpers.strokes import measure_strokes, measure_styles
from helpers.styles import UNSAID, rank_within_digit
from helpers.training import check_loss

# The ranks that a drawing of each level should have: a little inside the level, so that what is
# blurred at its ends stays in the third that it belongs to.
LOW, HIGH = torch.tensor([0.0, 0.1, 0.4, 0.7, 0.9]), torch.tensor([0.1, 0.3, 0.6, 0.9, 1.0])


def fit(parameters, loss_of, steps, rate):
    """Minimise `loss_of()` for some steps with Adam and a one-cycle rate; return the losses.

    Raises:
        FloatingPointError: the loss is not a number any more.
    """
    optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    losses = []
    for step in range(steps):
        loss = loss_of()
        check_loss(loss.item(), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def train_style_head(head, embeddings, digits, said, steps=4000, batch=512, seed=0):
    """Teach a style head to read digit and levels from captions, then freeze it.

    Args:
        head: a `StyleHead`; its weights are changed.
        embeddings: float32 tensor (n, 384), encoded captions.
        digits: int64 tensor (n,), what they name.
        said: int64 tensor (n, 4), the level of each attribute, or `UNSAID`.
        steps, batch: how long, and how many captions a step.
        seed: for the order and the noise.

    Returns:
        A list with the loss of each step, in nats per caption.
    """
    generator = torch.Generator().manual_seed(seed)
    head.read.fit_scale(embeddings)
    head.train()

    def loss():
        rows = torch.randint(len(embeddings), (batch,), generator=generator)
        digit, levels = head.logits(embeddings[rows], generator)
        wrong_level = F.cross_entropy(levels.flatten(0, 1), said[rows].flatten() + 2)
        return F.cross_entropy(digit, digits[rows]) + 4 * wrong_level

    losses = fit(head.parameters(), loss, steps, 3e-3)
    head.requires_grad_(False)
    return losses


def pair_batches(images, embeddings, batch, generator):
    """Go once through the pictures in random order, each with the caption written for it.

    Args:
        images: uint8 tensor (n, 28, 28).
        embeddings: float32 tensor (n, 384) or longer, the first n belong to the pictures.
        batch: pictures in a batch; an incomplete last batch is left out.
        generator: a `torch.Generator`, used up further.

    Yields:
        pictures (batch, 1, 28, 28) in [0, 1], embeddings (batch, 384).
    """
    order = torch.randperm(len(images), generator=generator)
    for rows in order[: len(order) // batch * batch].split(batch):
        yield to_float(images[rows]), embeddings[rows]


def train_ruler(ruler, pictures, ranks, steps=1500, rate=3e-3, seed=0):
    """Teach a `Ruler` the ranks of measured pictures, then freeze it.

    Args:
        ruler: a `Ruler`; its weights are changed.
        pictures: float32 tensor (n, 1, 28, 28) with values in [0, 1].
        ranks: float32 tensor (n, 4), see `styles.rank_within_digit`.
        steps, rate, seed: how long, with 250 pictures a step, the highest learning rate, and the
            seed of the order.

    Returns:
        A list with the mean squared error of each step.
    """
    generator = torch.Generator().manual_seed(seed)
    ruler.requires_grad_(True)

    def loss():
        rows = torch.randint(len(pictures), (250,), generator=generator)
        return F.mse_loss(ruler(pictures[rows]), ranks[rows])

    losses = fit(ruler.parameters(), loss, steps, rate)
    ruler.zero_grad()
    ruler.requires_grad_(False)
    return losses


@torch.no_grad()
def draw_and_measure(model, embeddings, digits, measures, n=3000, seed=0):
    """Draw the captions of n training pictures and measure what comes out.

    Args:
        model: a `StyleCVAE`.
        embeddings, digits: the captions (m, 384), and what the pictures show (m,).
        measures: float32 tensor (m, 4), the styles of the real pictures.
        n, seed: how many, and the seed of the choice and of the codes.

    Returns:
        pictures: float32 tensor (n, 1, 28, 28) with values in [0, 1].
        ranks: float32 tensor (n, 4), measured, within the digit.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(digits), (n,), generator=generator)
    z = torch.randn(n, model.latent, generator=generator)
    pairs = zip(embeddings[rows].split(500), z.split(500), strict=True)
    pictures = torch.cat([model.draw(*pair) for pair in pairs])
    drawn = measure_styles(measure_strokes(pictures))
    return pictures, rank_within_digit(drawn, digits[rows], measures, digits)


def miss(ranks, levels, silence=0.15):
    """Say how far drawings miss what was asked of them, averaged over pictures.

    Where a level is named, it is the distance from its range of ranks. Where nothing is said, the
    ranks of all drawings together should be spread evenly: the distance of each from its place in
    such a row (the Wasserstein distance between them and a uniform distribution).

    Args:
        ranks: float32 tensor (n, 4) with values in [0, 1].
        levels: int64 tensor (n, 4), -2 to 2, or `UNSAID`.
        silence: how much the second kind counts beside the first.

    Returns:
        A scalar, in ranks.
    """
    named = levels != UNSAID
    place = (levels + 2).clamp(max=4)
    outside = F.relu(LOW[place] - ranks) + F.relu(ranks - HIGH[place])
    total = (outside * named).sum() / len(ranks)
    for column, silent in zip(ranks.T, ~named.T, strict=True):
        row = column[silent].sort().values
        even = (torch.arange(len(row)) + 0.5) / max(len(row), 1)
        total = total + silence * (row - even).abs().sum() / len(ranks)
    return total


def train_prior(model, embeddings, images, labels, measures, ranks, proofreader, steps=900, seed=0):
    """Teach the prior of a `StyleCVAE` which codes draw what a caption asks; nothing else changes.

    The loss counts what the `Ruler` finds amiss (150 nats for a miss of 1, the whole range of
    ranks), what the proofreader misreads (20 nats per nat), and the KL from the moved prior to
    N(0, I), which keeps codes where the decoder has learned to draw. Every 150 steps the ruler
    learns from 3,000 drawings measured anew.

    Args:
        model: a `StyleCVAE` whose decoder and head are trained; its prior is changed.
        embeddings: float32 tensor (m, 384), encoded captions; the first n belong to the pictures.
        images: uint8 tensor (n, 28, 28), training pictures.
        labels: int64 tensor (n,).
        measures, ranks: float32 tensors (n, 4), the styles of the pictures and their ranks.
        proofreader: a frozen classifier of digits, see `training.proofread`.
        steps, seed: how long, with 256 drawings a step, and the seed.

    Returns:
        A list of (miss in ranks, misreading in nats, KL in nats), one row for each step.
    """
    torch.manual_seed(seed)
    generator, ruler, real = torch.Generator().manual_seed(seed), Ruler(), to_float(images)
    train_ruler(ruler, real, ranks)
    drawn, history = [], []

    def loss():
        if len(history) % 150 == 0:
            round_ = len(history) // 150
            drawn.append(draw_and_measure(model, embeddings, labels, measures, seed=round_))
            recalibrate(ruler, drawn[-4:], (real[:4000], ranks[:4000]), seed=round_)
        rows = torch.randint(len(embeddings), (256,), generator=generator)
        with torch.no_grad():
            condition = model.head(embeddings[rows])
        z = torch.randn(len(rows), model.latent, generator=generator)
        pictures = model.decode(model.place(z, condition), condition).sigmoid()
        mean, log_scale = model.prior(condition).chunk(2, dim=1)
        terms = (
            miss(ruler(pictures), model.head.levels(condition).argmax(2) - 2),
            F.cross_entropy(proofreader(pictures), model.head.digit(condition).argmax(1)),
            kl_divergence(mean, 2 * log_scale).sum(1).mean(),
        )
        history.append([term.item() for term in terms])
        return 150 * terms[0] + 20 * terms[1] + terms[2]

    model.eval().requires_grad_(False)
    model.prior.requires_grad_(True)
    fit(model.prior.parameters(), loss, steps, 3e-3)
    model.prior.requires_grad_(False)
    return history


def recalibrate(ruler, drawn, real, seed):
    """Let a ruler go on learning from drawings and real pictures, each (pictures, ranks)."""
    pictures, ranks = (torch.cat(parts) for parts in zip(*drawn, real, strict=True))
    train_ruler(ruler, pictures, ranks, steps=300, rate=1e-3, seed=seed)


def train_familiarity(known, digits, others, steps=3000, seed=0):
    """Teach a small network which digit a sentence asks for, or that it asks for something else.

    Args:
        known: embeddings (n, 384) of captions.
        digits: int64 tensor (n,), what they name.
        others: embeddings (m, 384) of sentences that ask for no single digit, near and far.
        steps, seed: how long, with 300 captions and 200 others a step, and the seed.

    Returns:
        A `SentenceLayers` with eleven outputs, logits of the ten digits and of something else;
        frozen, in evaluation mode.
    """
    torch.manual_seed(seed)
    net, generator = SentenceLayers(256, 11, noise=1.0), torch.Generator().manual_seed(seed)
    net.fit_scale(torch.cat([known, others]))

    def loss():
        rows = torch.randint(len(known), (300,), generator=generator)
        more = torch.randint(len(others), (200,), generator=generator)
        logits = net(torch.cat([known[rows], others[more]]), generator)
        return F.cross_entropy(logits, torch.cat([digits[rows], torch.full((200,), 10)]))

    fit(net.parameters(), loss, steps, 3e-3)
    return net.requires_grad_(False).eval()
