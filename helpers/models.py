"""The generators: a first MLP (notebook 3), the shapes CVAE (4), the convolutional CVAE (7, 8, 11),
and a latent flow (12).

Every generator has `latent`, the size of the vector that carries the variety, `reads`, what its
prompts are turned into first ("characters" or "sentences"), and `draw(inputs, z)`.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from helpers.characters import CharacterEncoder


class FirstGenerator(nn.Module):
    """Prompt and noise in, picture out, trained with squared error (notebook 3).

    Args:
        latent: size of the noise vector.
    """

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

    def draw(self, tokens, z):
        """Map tokens (n, 32) and noise (n, latent) to pictures (n, 1, 28, 28) in [0, 1]."""
        return self.net(torch.cat([self.reader(tokens), z], dim=1))


def sample_posterior(mean, log_variance, generator=None):
    """Reparameterise (Kingma and Welling, 2014): mean + sigma * epsilon, all (n, latent)."""
    epsilon = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + (log_variance / 2).exp() * epsilon


def kl_divergence(mean, log_variance):
    """KL from N(mean, exp(log_variance)) to N(0, I) in nats: (n, latent) → (n, latent)."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)


def elbo_terms(logits, pictures, mean, log_variance):
    """Compute both terms of the negative ELBO in nats per picture, averaged over the batch.

    Args:
        logits: float32 tensor (n, 1, 28, 28), Bernoulli logits of every pixel.
        pictures: float32 tensor of the same shape with values in [0, 1].
        mean, log_variance: the posterior, (n, latent) each.

    Returns:
        reconstruction and kl, two scalars; their sum is the negative ELBO.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, pictures, reduction="none")
    return cross_entropy.sum((1, 2, 3)).mean(), kl_divergence(mean, log_variance).sum(1).mean()


class PromptHead(nn.Module):
    """Turn sentence embeddings into short condition vectors that forget the phrasing (notebook 7).

    Centring and scaling make the components of the embedding about one in size; Gaussian noise in
    training hides small differences between phrasings; a narrow, normalised output leaves room for
    the digit and little else. An auxiliary layer reads the digit from that output.

    Args:
        output: size of the condition vector; its length is the square root of that.
        noise: standard deviation of the noise in training.
    """

    def __init__(self, output=16, noise=1.0):
        super().__init__()
        self.noise = noise
        self.register_buffer("centre", torch.zeros(384))
        self.register_buffer("scale", torch.ones(()))
        self.net = nn.Sequential(
            nn.Linear(384, 64), nn.ReLU(),  # n×64
            nn.Linear(64, output),          # n×16
        )
        self.digit = nn.Linear(output, 10)  # auxiliary, for training

    def fit_scale(self, embeddings):
        """Measure centre and scale on the embeddings (n, 384) of the training captions."""
        self.centre.copy_(embeddings.mean(0))
        self.scale.copy_((embeddings - self.centre).square().mean().rsqrt())

    def forward(self, embeddings, generator=None):
        """Map embeddings (n, 384) to condition vectors (n, output); noise only in training."""
        x = (embeddings - self.centre) * self.scale
        if self.training:
            x = x + self.noise * torch.randn(x.shape, generator=generator, device=x.device)
        x = self.net(x)
        return F.normalize(x, dim=1) * x.shape[1] ** 0.5


class ShapesLayers(nn.Module):
    """The layers of a `ShapesCVAE`.

    Args:
        latent: size of z.
        strokes: pairs of row scores and column scores that the decoder adds up into strokes.
    """

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
    """Conditional variational autoencoder of the nine shapes (Sohn et al., 2015; notebook 4)."""

    reads = "characters"

    def encode(self, pictures, condition):
        """Map pictures (n, 1, 28, 28), condition (n, 64) to mean, log variance (n, latent)."""
        return self.encoder(torch.cat([pictures.flatten(1), condition], dim=1)).chunk(2, dim=1)

    def decode(self, z, condition):
        """Map z (n, latent) and condition (n, 64) to pixel logits (n, 1, 28, 28)."""
        rows, columns = self.decoder(torch.cat([z, condition], dim=1)).unbind(1)
        strokes = F.silu(rows[:, :, :, None] + columns[:, :, None, :])  # n×14×28×28
        return torch.einsum("nkrc,k->nrc", strokes, self.ink)[:, None] + self.paper

    def forward(self, pictures, tokens, generator=None):
        """Reconstruct: logits (n, 1, 28, 28), mean and log variance (n, latent)."""
        condition = self.reader(tokens)
        mean, log_variance = self.encode(pictures, condition)
        z = sample_posterior(mean, log_variance, generator)
        return self.decode(z, condition), mean, log_variance

    def draw(self, tokens, z):
        """Map tokens (n, 32) and latents (n, latent) to mean pictures (n, 1, 28, 28) in [0, 1]."""
        return self.decode(z, self.reader(tokens)).sigmoid()


def modulate(maps, film, condition):
    """Scale and shift feature maps (n, c, h, w) as the condition says, if there is a `film`."""
    if film is None:
        return maps
    gain, shift = film(condition)[:, :, None, None].chunk(2, dim=1)  # n×c×1×1 each
    return maps * (1 + gain) + shift


class ConvLayers(nn.Module):
    """The layers of `ConvCVAE`, in the order in which a picture meets them (notebook 7).

    Args:
        latent: size of z.
        condition: size of the condition vector.
        film: whether the condition also modulates the decoder's feature maps (FiLM, Perez et al.,
            2018); otherwise it is concatenated to z and nothing more.
    """

    def __init__(self, latent=20, condition=16, film=True):
        super().__init__()
        self.latent = latent
        self.head = PromptHead(condition)                              # n×16
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
    """Convolutional CVAE of digits, conditioned on a sentence (notebooks 7 and 8).

    Takes the arguments of `ConvLayers`, which holds its layers; here are the ways through them.
    """

    reads = "sentences"

    def encode(self, pictures, condition):
        """Map pictures (n, 1, 28, 28), condition (n, 16) to mean, log variance (n, latent)."""
        h = torch.cat([self.convolutions(pictures), condition], dim=1)
        return self.posterior(h).chunk(2, dim=1)

    def decode(self, z, condition):
        """Map z (n, latent) and condition (n, 16) to pixel logits (n, 1, 28, 28)."""
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

    def draw(self, embeddings, z):
        """Map embeddings (n, 384) and latents (n, latent) to pictures (n, 1, 28, 28) in [0, 1]."""
        return self.decode(z, self.head(embeddings)).sigmoid()


class Proofreader(nn.Sequential):
    """A quick classifier of digits, (n, 1, 28, 28) → (n, 10) logits (notebook 8).

    It reads along while a `ConvCVAE` is trained, so it is no judge; its windows, strides and
    activation are its own.
    """

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.SiLU(),   # n×16×14×14
            nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.SiLU(),  # n×32×7×7
            nn.Flatten(),                                          # n×1568
            nn.Linear(1568, 10),                                   # n×10
        )


class SentenceLayers(nn.Module):
    """Two layers over centred and scaled sentence embeddings, with noise in training (notebook 11).

    Centring, scaling and noise are those of `PromptHead`.

    Args:
        hidden: units of the first layer.
        output: numbers that come out.
        noise: standard deviation of the noise in training.
    """

    def __init__(self, hidden, output, noise):
        super().__init__()
        self.noise = noise
        self.register_buffer("centre", torch.zeros(384))
        self.register_buffer("scale", torch.ones(()))
        self.net = nn.Sequential(
            nn.Linear(384, hidden), nn.SiLU(),  # n×hidden
            nn.Linear(hidden, output),          # n×output
        )

    def fit_scale(self, embeddings):
        """Measure centre and scale on the embeddings (n, 384) of the training captions."""
        self.centre.copy_(embeddings.mean(0))
        self.scale.copy_((embeddings - self.centre).square().mean().rsqrt())

    def forward(self, embeddings, generator=None):
        """Map embeddings (n, 384) to logits (n, output); noise only in training."""
        x = (embeddings - self.centre) * self.scale
        if self.training:
            x = x + self.noise * torch.randn(x.shape, generator=generator, device=x.device)
        return self.net(x)


class StyleHead(nn.Module):
    """Turn sentence embeddings into what they say: a digit and four graded attributes.

    The condition is made of probabilities that can be read one by one: ten for the digit, and for
    each attribute five for its levels and a sixth for "nothing said" (notebook 11).
    """

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
    """The `ConvCVAE` on a longer condition, and with a prior that depends on it (notebook 11).

    Each component of a code is shifted and scaled as the condition says before it is decoded (the
    conditional prior of Sohn et al., 2015, trained on what is drawn from it).
    """

    def __init__(self, latent=20):
        super().__init__(latent, condition=34)
        self.head = StyleHead()                 # n×34
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

    def draw(self, embeddings, z):
        """Map embeddings (n, 384) and latents (n, latent) to pictures (n, 1, 28, 28) in [0, 1]."""
        condition = self.head(embeddings)
        return self.decode(self.place(z, condition), condition).sigmoid()


class Ruler(nn.Sequential):
    """A quick estimate of thickness, slant, width and size as ranks: (n, 1, 28, 28) → (n, 4).

    Unlike the measures in `helpers/strokes.py` it has gradients, so it can read along while a
    `StyleCVAE` is trained. It judges nothing (notebook 11).
    """

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.SiLU(),   # n×16×14×14
            nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.SiLU(),  # n×32×7×7
            nn.Flatten(),                                          # n×1568
            nn.Linear(1568, 64), nn.SiLU(),                        # n×64
            nn.Linear(64, 4), nn.Sigmoid(),                        # n×4: ranks within the digit
        )


class FlowBlock(nn.Module):
    """A residual block whose normalised input is scaled and shifted by what is known (notebook 12).

    Args:
        width: numbers that go in and come out.
    """

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, 2 * width)   # n×512
        self.net = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(),   # n×256
            nn.Linear(width, width),              # n×256
        )

    def forward(self, x, known):
        """Map x (n, width) and what is known (n, width) to a new x (n, width)."""
        gain, shift = self.film(known).chunk(2, dim=1)
        return x + self.net(self.norm(x) * (1 + gain) + shift)


def time_waves(t, waves=16):
    """Write times (n,) from 0 to 1 as sines and cosines of rising frequency: (n, 2 * waves)."""
    angles = t[:, None] * torch.logspace(0, 2, waves, device=t.device) * math.pi / 2
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Velocity(nn.Module):
    """Where to move a point of a flow, given the time and a condition (notebook 12).

    Args:
        latent: size of the points.
        condition: size of the condition; one of zeros means that nothing was said.
        width, blocks: of the residual blocks.
    """

    def __init__(self, latent=24, condition=34, width=256, blocks=3):
        super().__init__()
        self.known = nn.Sequential(nn.Linear(32 + condition, width), nn.SiLU())  # n×256
        self.enter = nn.Linear(latent, width)                                    # n×256
        self.blocks = nn.ModuleList(FlowBlock(width) for _ in range(blocks))     # n×256
        self.leave = nn.Linear(width, latent)                                    # n×24

    def forward(self, x, t, condition):
        """Map points (n, latent), times (n,) and conditions (n, 34) to velocities (n, latent)."""
        known = self.known(torch.cat([time_waves(t), condition], dim=1))
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, known)
        return self.leave(x)


def guide(velocity, x, t, condition, guidance):
    """Exaggerate what the condition changes (Ho and Salimans, 2022).

    Args:
        velocity: a `Velocity`.
        x, t, condition: see its `forward`.
        guidance: 0 ignores the condition, 1 follows it, more goes further.

    Returns:
        v₀ + guidance · (v − v₀), (n, latent), with v and v₀ the velocities with and without the
        condition.
    """
    if guidance == 1:
        return velocity(x, t, condition)
    nothing = torch.zeros_like(condition)
    both = velocity(x.repeat(2, 1), t.repeat(2), torch.cat([condition, nothing]))
    told, untold = both.chunk(2)
    return untold + guidance * (told - untold)


def transport(velocity, x, condition, guidance=1.0, steps=20):
    """Carry noise (n, latent) along the velocities from time 0 to 1 in equal Euler steps."""
    for k in range(steps):
        t = torch.full((len(x),), k / steps, device=x.device)
        x = x + guide(velocity, x, t, condition, guidance) / steps
    return x


class FilmBlock(nn.Module):
    """Two convolutions added to what comes in; a code modulates between them (notebook 12).

    Args:
        channels: of the feature maps, in and out.
        code: size of the vector that modulates them (FiLM, Perez et al., 2018).
    """

    def __init__(self, channels, code=256):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(code, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)  # at first it changes nothing
        nn.init.zeros_(self.second.bias)

    def forward(self, maps, code):
        """Map feature maps (n, c, h, w) and codes (n, code) to feature maps (n, c, h, w)."""
        changed = modulate(self.first(F.silu(maps)), self.film, code)
        return maps + self.second(F.silu(changed))


class AutoencoderLayers(nn.Module):
    """The layers of an `Autoencoder`, in the order in which a picture meets them (notebook 12).

    Args:
        latent: size of the code.
    """

    def __init__(self, latent=24):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.SiLU(),        # n×32×14×14
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.SiLU(),       # n×64×7×7
            nn.Flatten(),                                               # n×3136
        )
        self.posterior = nn.Sequential(
            nn.Linear(3136, 256), nn.SiLU(),                            # n×256
            nn.Linear(256, 2 * latent),                                 # n×48
        )
        self.widen = nn.Sequential(nn.Linear(latent, 256), nn.SiLU())   # n×256
        self.expand = nn.Linear(256, 3136)                              # n×3136
        self.block1 = FilmBlock(64)                                     # n×64×7×7
        self.up1 = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1)   # n×32×14×14
        self.block2 = FilmBlock(32)                                     # n×32×14×14
        self.up2 = nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1)   # n×16×28×28
        self.ink = nn.Conv2d(16, 1, 3, padding=1)                       # n×1×28×28


class Autoencoder(AutoencoderLayers):
    """A VAE that knows no prompt: pictures to codes, codes to sharp pictures (notebook 12)."""

    def encode(self, pictures):
        """Map pictures (n, 1, 28, 28) to mean and log variance of the posterior, (n, latent)."""
        return self.posterior(self.convolutions(pictures)).chunk(2, dim=1)

    def decode(self, z):
        """Map codes (n, latent) to pictures (n, 1, 28, 28), which may leave [0, 1] a little."""
        code = self.widen(z)
        maps = self.block1(self.expand(code).view(-1, 64, 7, 7), code)
        maps = self.block2(self.up1(F.silu(maps)), code)
        return self.ink(F.silu(self.up2(F.silu(maps))))


class LatentFlow(nn.Module):
    """Text to image in miniature: a reader, a flow among codes, an autoencoder (notebook 12).

    A rectified flow (Liu et al., 2023) in the latent space of an autoencoder, as in latent
    diffusion (Rombach et al., 2022), guided without a classifier (Ho and Salimans, 2022).

    Args:
        latent: size of the autoencoder's code, and of the noise that the flow starts from.
    """

    reads = "sentences"
    guidance, steps = 1.3, 50  # of `draw`, unless told

    def __init__(self, latent=24):
        super().__init__()
        self.latent = latent
        self.head = StyleHead()                               # n×34
        self.velocity = Velocity(latent)                      # n×24
        self.autoencoder = Autoencoder(latent)                # n×1×28×28
        self.register_buffer("centre", torch.zeros(latent))   # of the codes of real pictures
        self.register_buffer("scale", torch.ones(latent))

    def place(self, z, condition, guidance=guidance, steps=steps):
        """Carry noise z (n, latent) to a code for each condition (n, 34)."""
        return self.centre + self.scale * transport(self.velocity, z, condition, guidance, steps)

    def paint(self, z, condition, guidance=guidance, steps=steps):
        """Turn noise (n, latent) and conditions (n, 34) into pictures (n, 1, 28, 28) in [0, 1]."""
        return self.autoencoder.decode(self.place(z, condition, guidance, steps)).clamp(0, 1)

    def draw(self, embeddings, z, guidance=guidance, steps=steps):
        """Map embeddings (n, 384) and noise (n, latent) to pictures (n, 1, 28, 28) in [0, 1]."""
        return self.paint(z, self.head(embeddings), guidance, steps)
