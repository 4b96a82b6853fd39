"""The generators: a first MLP, the shapes CVAE, the convolutional CVAE and that with styles.

The latent flow of 13_latent_flow is in `helpers/flow.py`.
"""

import torch
import torch.nn.functional as F
from torch import nn

from helpers.text import CharacterEncoder


class Generator(nn.Module):
    """What every generator has: `read` makes a condition, `paint` a picture from z and condition.

    `latent` is the size of z, the vector that carries the variety.
    """

    reads = "sentences"   # or "characters": what its prompts are turned into first
    guided = False        # whether `paint` takes guidance and steps, as a flow does
    reads_styles = False  # whether its head reads how to draw, besides what

    def draw(self, inputs, z, **settings):
        """Read, then paint z (n, latent): pictures (n, 1, 28, 28) on the device of z."""
        device = next(self.parameters(), z).device
        return self.paint(z.to(device), self.read(inputs.to(device)), **settings).to(z.device)


class FirstGenerator(Generator):
    """Prompt and noise in, picture out, trained with squared error (03_first_generator)."""

    reads = "characters"

    def __init__(self, latent=32):
        super().__init__()
        self.latent = latent
        self.reader = CharacterEncoder()  # n×64
        self.net = nn.Sequential(
            nn.Linear(64 + latent, 256), nn.BatchNorm1d(256), nn.ReLU(),  # n×256
            nn.Linear(256, 512), nn.BatchNorm1d(512), nn.ReLU(),          # n×512
            nn.Linear(512, 784), nn.Sigmoid(),                            # n×784
            nn.Unflatten(1, (1, 28, 28)),                                 # n×1×28×28
        )

    def read(self, tokens):
        """Map tokens (n, 32) to conditions (n, 64)."""
        return self.reader(tokens)

    def paint(self, z, condition):
        """Map noise (n, latent) and conditions (n, 64) to pictures (n, 1, 28, 28) in [0, 1]."""
        return self.net(torch.cat([condition, z], dim=1))


def sample_posterior(mean, log_variance, generator=None):
    """Reparameterise (Kingma and Welling, 2014): mean + sigma * epsilon, all (n, latent)."""
    epsilon = torch.randn(mean.shape, generator=generator).to(mean.device)
    return mean + (log_variance / 2).exp() * epsilon


def kl_divergence(mean, log_variance):
    """KL from N(mean, exp(log_variance)) to N(0, I) in nats: (n, latent) → (n, latent)."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)


def elbo_terms(logits, pictures, mean, log_variance):
    """Reconstruction and KL, whose sum is the negative ELBO, in nats per picture: two scalars."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, pictures, reduction="none")
    return cross_entropy.sum((1, 2, 3)).mean(), kl_divergence(mean, log_variance).sum(1).mean()


class ScaledEmbeddings(nn.Module):
    """Base of what reads embeddings (n, 384): centre and scale, and add noise in training."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise
        self.register_buffer("centre", torch.zeros(384))
        self.register_buffer("scale", torch.ones(()))

    def fit_scale(self, embeddings):
        """Measure centre and scale on the embeddings (n, 384) of the training captions."""
        self.centre.copy_(embeddings.mean(0))
        self.scale.copy_((embeddings - self.centre).square().mean().clamp(min=1e-9).rsqrt())

    def prepare(self, embeddings, generator=None):
        """Map embeddings (n, 384) to numbers (n, 384) of about one in size."""
        x = (embeddings - self.centre) * self.scale
        if self.training:
            x = x + self.noise * torch.randn(x.shape, generator=generator).to(x.device)
        return x


class PromptHead(ScaledEmbeddings):
    """Embeddings (n, 384) → conditions that forget the phrasing (08_convolutional_cvae)."""

    def __init__(self, output=16, classes=10, noise=1.0):
        super().__init__(noise)
        self.net = nn.Sequential(
            nn.Linear(384, 64), nn.ReLU(),  # n×64
            nn.Linear(64, output),          # n×16
        )
        self.digit = nn.Linear(output, classes)  # auxiliary, for training

    def forward(self, embeddings, generator=None):
        """Map embeddings (n, 384) to condition vectors (n, output) of length √output."""
        x = self.net(self.prepare(embeddings, generator))
        return F.normalize(x, dim=1) * x.shape[1] ** 0.5


class ShapesLayers(Generator):
    """The layers of a `ShapesCVAE`; `strokes` pairs of row and column scores make a picture."""

    def __init__(self, latent=32, strokes=14):
        super().__init__()
        self.latent = latent
        self.reader = CharacterEncoder()             # n×64
        self.encoder = nn.Sequential(
            nn.Linear(784 + 64, 512), nn.SiLU(),     # n×512
            nn.Linear(512, 256), nn.SiLU(),          # n×256
            nn.Linear(256, 2 * latent),              # n×64: mean and log variance
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent + 64, 256), nn.SiLU(),  # n×256
            nn.Linear(256, 512), nn.SiLU(),          # n×512
            nn.Linear(512, 2 * strokes * 28),        # n×784
            nn.Unflatten(1, (2, strokes, 28)),       # n×2×14×28: scores of rows and of columns
        )
        self.ink = nn.Parameter(torch.randn(strokes))             # how much ink a stroke brings
        self.paper = nn.Parameter(torch.full((1, 28, 28), -2.0))  # the logits of empty paper


class ShapesCVAE(ShapesLayers):
    """Conditional variational autoencoder of shapes (Sohn et al., 2015; 05_shapes_cvae)."""

    reads = "characters"

    def encode(self, pictures, condition):
        """Map pictures (n, 1, 28, 28), condition (n, 64) to mean, log variance (n, latent)."""
        return self.encoder(torch.cat([pictures.flatten(1), condition], dim=1)).chunk(2, dim=1)

    def decode(self, z, condition):
        """Map z (n, latent) and condition (n, 64) to pixel logits (n, 1, 28, 28)."""
        rows, columns = self.decoder(torch.cat([z, condition], dim=1)).unbind(1)
        strokes = F.silu(rows[:, :, :, None] + columns[:, :, None, :])  # n×14×28×28
        return (strokes * self.ink[:, None, None]).sum(1, keepdim=True) + self.paper

    def forward(self, pictures, tokens, generator=None):
        """Reconstruct: logits (n, 1, 28, 28), mean and log variance (n, latent)."""
        condition = self.reader(tokens)
        mean, log_variance = self.encode(pictures, condition)
        z = sample_posterior(mean, log_variance, generator)
        return self.decode(z, condition), mean, log_variance

    def read(self, tokens):
        """Map tokens (n, 32) to conditions (n, 64)."""
        return self.reader(tokens)

    def paint(self, z, condition):
        """Map z (n, latent) and condition (n, 64) to mean pictures (n, 1, 28, 28) in [0, 1]."""
        return self.decode(z, condition).sigmoid()


def modulate(maps, film, condition):
    """Scale and shift maps (n, c, h, w) as the condition says (FiLM, Perez et al., 2018)."""
    if film is None:
        return maps
    gain, shift = film(condition)[:, :, None, None].chunk(2, dim=1)  # n×c×1×1 each
    return maps * (1 + gain) + shift


class ConvLayers(Generator):
    """The layers of a `ConvCVAE`; with `film` the condition also modulates the feature maps."""

    def __init__(self, latent=20, condition=16, film=True, classes=10):
        super().__init__()
        self.latent = latent
        self.head = PromptHead(condition, classes)                     # n×16
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.SiLU(),       # n×32×14×14
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.SiLU(),      # n×64×7×7
            nn.Flatten(),                                              # n×3136
        )
        self.posterior = nn.Sequential(
            nn.Linear(3136 + condition, 512), nn.SiLU(),               # n×512
            nn.Linear(512, 2 * latent),                                # n×40
        )
        self.expand = nn.Sequential(
            nn.Linear(latent + condition, 512), nn.SiLU(),             # n×512
            nn.Linear(512, 3136), nn.SiLU(),                           # n×3136
            nn.Unflatten(1, (64, 7, 7)),                               # n×64×7×7
        )
        self.film1 = nn.Linear(condition, 2 * 64) if film else None    # n×128
        self.up1 = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1)  # n×32×14×14
        self.film2 = nn.Linear(condition, 2 * 32) if film else None    # n×64
        self.up2 = nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1)   # n×1×28×28


class ConvCVAE(ConvLayers):
    """Convolutional CVAE of digits, conditioned on a sentence (08_convolutional_cvae)."""

    def encode(self, pictures, condition):
        """Map pictures (n, 1, 28, 28), conditions to mean and log variance (n, latent)."""
        h = torch.cat([self.convolutions(pictures), condition], dim=1)
        return self.posterior(h).chunk(2, dim=1)

    def decode(self, z, condition):
        """Map z (n, latent), conditions to pixel logits (n, 1, 28, 28)."""
        h = self.expand(torch.cat([z, condition], dim=1))
        h = modulate(h, self.film1, condition)
        h = F.silu(modulate(self.up1(h), self.film2, condition))
        return self.up2(h)

    def forward(self, pictures, embeddings, generator=None):
        """Reconstruct: logits (n, 1, 28, 28), mean and log variance (n, latent)."""
        condition = self.head(embeddings, generator)
        mean, log_variance = self.encode(pictures, condition)
        z = sample_posterior(mean, log_variance, generator)
        return self.decode(z, condition), mean, log_variance

    def read(self, embeddings, generator=None):
        """Map embeddings (n, 384) to conditions; the head is noisy only in training."""
        return self.head(embeddings, generator)

    def paint(self, z, condition):
        """Map z (n, latent), conditions to mean pictures (n, 1, 28, 28) in [0, 1]."""
        return self.decode(z, condition).sigmoid()


class Proofreader(nn.Sequential):
    """A quick classifier, (n, 1, 28, 28) → (n, 10) logits; it reads along and is no judge."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.SiLU(),   # n×16×14×14
            nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.SiLU(),  # n×32×7×7
            nn.Flatten(),                                          # n×1568
            nn.Linear(1568, 10),                                   # n×10
        )


class SentenceLayers(ScaledEmbeddings):
    """Two layers over scaled embeddings, with noise in training: (n, 384) → (n, output)."""

    def __init__(self, hidden, output, noise):
        super().__init__(noise)
        self.net = nn.Sequential(
            nn.Linear(384, hidden), nn.SiLU(),  # n×hidden
            nn.Linear(hidden, output),          # n×output
        )

    def forward(self, embeddings, generator=None):
        """Map embeddings (n, 384) to logits (n, output)."""
        return self.net(self.prepare(embeddings, generator))


class StyleHead(nn.Module):
    """Embeddings (n, 384) → probabilities (n, 34): ten digits; per style five levels and none."""

    def __init__(self):
        super().__init__()
        self.read = SentenceLayers(512, 10 + 4 * 6, noise=0.7)  # n×34

    def logits(self, embeddings, generator=None):
        """Map embeddings (n, 384) to logits of the digit (n, 10) and of the levels (n, 4, 6)."""
        out = self.read(embeddings, generator)
        return out[:, :10], out[:, 10:].unflatten(1, (4, 6))

    def forward(self, embeddings, generator=None):
        """Map embeddings (n, 384) to conditions (n, 34); noise only in training."""
        digit, levels = self.logits(embeddings, generator)
        return torch.cat([digit.softmax(1), levels.softmax(2).flatten(1)], dim=1)

    def digit(self, condition):
        """Take the digit's probabilities out of a condition (n, 34): (n, 10)."""
        return condition[:, :10]

    def levels(self, condition):
        """Take the levels' probabilities out of a condition (n, 34): (n, 4, 6)."""
        return condition[:, 10:].unflatten(1, (4, 6))


class StyleCVAE(ConvCVAE):
    """A `ConvCVAE` whose prior depends on a longer condition (Sohn et al., 2015; styles)."""

    reads_styles = True

    def __init__(self, latent=20):
        super().__init__(latent, condition=34)
        self.head = StyleHead()                 # n×34, in place of the PromptHead
        self.prior = nn.Sequential(
            nn.Linear(34, 64), nn.SiLU(),       # n×64
            nn.Linear(64, 2 * latent),          # n×40: mean and log of the standard deviation
        )
        nn.init.zeros_(self.prior[-1].weight)   # at first it changes nothing
        nn.init.zeros_(self.prior[-1].bias)

    def place(self, z, condition):
        """Move standard normal codes z (n, latent) to where the condition (n, 34) wants them."""
        mean, log_scale = self.prior(condition).chunk(2, dim=1)
        return mean + log_scale.exp() * z

    def paint(self, z, condition):
        """Map z (n, latent) and condition (n, 34) to mean pictures (n, 1, 28, 28) in [0, 1]."""
        return self.decode(self.place(z, condition), condition).sigmoid()


class Ruler(nn.Sequential):
    """A quick estimate of the four styles as ranks, with gradients: (n, 1, 28, 28) → (n, 4)."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.SiLU(),   # n×16×14×14
            nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.SiLU(),  # n×32×7×7
            nn.Flatten(),                                          # n×1568
            nn.Linear(1568, 64), nn.SiLU(),                        # n×64
            nn.Linear(64, 4), nn.Sigmoid(),                        # n×4: ranks within the digit
        )
