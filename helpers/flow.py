"""A latent flow: autoencoder, velocities, guidance, and the training of each (13_latent_flow)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from helpers.doors import on_device
from helpers.mnist import to_float
from helpers.models import Generator, StyleHead, kl_divergence, modulate
from helpers.training import fit


class FlowBlock(nn.Module):
    """A residual block, scaled and shifted by what is known: (n, width) each."""

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
    """Where to move a point, given the time and a condition; one of zeros says nothing."""

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
    """Exaggerate what the condition changes: v₀ + guidance · (v − v₀) (Ho and Salimans, 2022)."""
    if isinstance(guidance, int | float) and guidance == 1:
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


def transport_by_heun(velocity, x, condition, guidance, steps):
    """Carry noise (n, latent) from time 0 to 1 by Heun's method: two looks for each step."""
    for k in range(steps):
        now, then = (torch.full((len(x),), (k + j) / steps, device=x.device) for j in (0, 1))
        first = guide(velocity, x, now, condition, guidance)
        second = guide(velocity, x + first / steps, then, condition, guidance)
        x = x + (first + second) / 2 / steps
    return x


class FilmBlock(nn.Module):
    """Two convolutions added to what comes in; a code modulates between them (FiLM)."""

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
    """The layers of an `Autoencoder`, in the order in which a picture meets them."""

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
    """A VAE that knows no prompt: pictures to codes, codes to sharp pictures (13_latent_flow)."""

    def encode(self, pictures):
        """Map pictures (n, 1, 28, 28) to mean and log variance of the posterior, (n, latent)."""
        return self.posterior(self.convolutions(pictures)).chunk(2, dim=1)

    def decode(self, z):
        """Map codes (n, latent) to pictures (n, 1, 28, 28), which may leave [0, 1] a little."""
        code = self.widen(z)
        maps = self.block1(self.expand(code).view(-1, 64, 7, 7), code)
        maps = self.block2(self.up1(F.silu(maps)), code)
        return self.ink(F.silu(self.up2(F.silu(maps))))


class LatentFlow(Generator):
    """Text to image in miniature: a reader, a flow among codes, an autoencoder (13_latent_flow).

    A rectified flow (Liu et al., 2023) in the latent space of an autoencoder, as in latent
    diffusion (Rombach et al., 2022), guided without a classifier (Ho and Salimans, 2022).
    """

    guided = reads_styles = True
    guidance, styled_guidance, steps = 1.3, 2.0, 50  # unless told otherwise

    def __init__(self, latent=24):
        super().__init__()
        self.latent = latent
        self.head = StyleHead()                               # n×34
        self.velocity = Velocity(latent)                      # n×24
        self.autoencoder = Autoencoder(latent)                # n×1×28×28
        self.register_buffer("centre", torch.zeros(latent))   # of the codes of real pictures
        self.register_buffer("scale", torch.ones(latent))

    def read(self, embeddings, generator=None):
        """Map embeddings (n, 384) to conditions (n, 34); the head is noisy only in training."""
        return self.head(embeddings, generator)

    def choose_guidance(self, condition):
        """Choose more guidance the surer a condition (n, 34) names a style: (n, 1)."""
        silent = self.head.levels(condition)[:, :, -1].prod(1, keepdim=True)
        return self.styled_guidance + (self.guidance - self.styled_guidance) * silent

    def place(self, z, condition, guidance=None, steps=steps):
        """Carry noise z (n, latent) to a code for each condition (n, 34)."""
        guidance = self.choose_guidance(condition) if guidance is None else guidance
        return self.centre + self.scale * transport(self.velocity, z, condition, guidance, steps)

    def paint(self, z, condition, guidance=None, steps=steps):
        """Turn noise (n, latent) and conditions (n, 34) into pictures (n, 1, 28, 28) in [0, 1]."""
        return self.autoencoder.decode(self.place(z, condition, guidance, steps)).clamp(0, 1)


def gaussian_terms(painted, pictures, mean, log_variance):
    """As `elbo_terms`, with the Gaussian that fits the batch best (Rybkin et al., 2021)."""
    error = (painted - pictures).square().mean()
    reconstruction = 784 / 2 * (1 + (2 * math.pi * error).log())
    return reconstruction, kl_divergence(mean, log_variance).sum(1).mean()


@torch.no_grad()
def collect_codes(model, images, *conditions):
    """Encode uint8 pictures (n, 28, 28): means, deviations (n, latent); a CVAE needs conditions."""
    parts = zip(images.split(1000), *(given.split(1000) for given in conditions), strict=True)
    posteriors = [model.encode(to_float(part), *given) for part, *given in parts]
    means, log_variances = (torch.cat(part) for part in zip(*posteriors, strict=True))
    return means, (log_variances / 2).exp()


def standardise(means, deviations):
    """Find centre and scale of codes drawn from posteriors (n, latent): two tensors (latent,)."""
    spread = means.var(0) + deviations.square().mean(0)
    return means.mean(0), spread.sqrt()


def flow_loss(velocity, codes, conditions, generator, drop=0.1):
    """Compare velocities with straight lines from noise to codes (Lipman et al., 2023): a scalar.

    Times are drawn more often near the middle (Esser et al., 2024), and a share `drop` of the
    conditions (n, 34) becomes zeros, for guidance (Ho and Salimans, 2022).
    """
    noise = torch.randn(codes.shape, generator=generator).to(codes.device)
    t = torch.randn(len(codes), generator=generator).sigmoid().to(codes.device)
    kept = (torch.rand(len(codes), 1, generator=generator) >= drop).to(codes.device)
    x = (1 - t[:, None]) * noise + t[:, None] * codes
    return F.mse_loss(velocity(x, t, conditions * kept), codes - noise)


@on_device
def train_velocity(velocity, means, deviations, conditions, steps=5000, batch=256, seed=0):
    """Train a `Velocity` on codes (n, latent) of posteriors, then freeze it: the losses."""
    generator = torch.Generator().manual_seed(seed)

    def loss(step):
        rows = torch.randint(len(means), (batch,), generator=generator)
        noise = torch.randn(batch, means.shape[1], generator=generator)
        codes = means[rows] + deviations[rows] * noise.to(means.device)
        return flow_loss(velocity, codes, conditions[rows], generator)

    losses = fit(velocity.train().parameters(), loss, steps, rate=2e-3, name="flow")
    velocity.requires_grad_(False).eval()
    return losses
