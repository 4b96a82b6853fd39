"""Prompt in, picture out, in the order in which a prompt travels: checked, read, drawn, written."""

import contextlib
import functools
import io
import itertools
import math
import numbers
import operator
import os
import random
import re
import secrets
import time
from collections import namedtuple
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from helpers import checkpoints
from helpers.captions import LEVEL_NAMES, STYLE_WORDS, STYLES, UNSAID, WORDS
from helpers.checkpoints import CheckpointError
from helpers.doors import choose_device
from helpers.models import Generator
from helpers.shapes import PROMPTS
from helpers.shapes import whole as as_whole
from helpers.text import CharacterTokenizer, check_prompts, sentence_encoder, to_tokens

DEFAULT = "mnist-flow"  # the checkpoint that draws unless another is named
FAMILIARITY = checkpoints.CHECKPOINTS / "readers" / "familiarity.safetensors"
MOST_PICTURES = 100_000  # at once: about 300 MB
MOST = 1000   # of temperature, guidance and steps: beyond any use, and still far from overflow
CHUNK = 1000  # pictures painted at once, so that memory stays bounded
# What denies a word of style that follows within three words
DENIAL = r"\b(?<!why )(?:not|no|never|nor|without|avoid|\w+n[’']t)\b(?:[ ,]+\w+){0,3}?[ ,]+"
SMALL = 64    # up to here a second thread costs more than it brings


def check_number(value, name, low, high, whole=False):
    """Return a number from low to high as a float or, if whole, int; else TypeError, ValueError."""
    try:
        number = as_whole(value, name) if whole else value
        is_number = isinstance(number, numbers.Real) and not isinstance(value, bool)
    except (TypeError, ValueError):
        is_number = False
    if is_number and low <= number <= high:  # which NaN is not
        return number if whole else float(number)
    given = "a whole number" if whole else "a number"
    given += "" if math.inf in (-low, high) else f" from {low:,} to {high:,}"
    shown = "too long to write"
    with contextlib.suppress(ValueError):  # Python writes no number of more than 4,300 digits
        shown = " ".join(repr(value).split())
        shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    raise (ValueError if is_number else TypeError)(f"{name} is {shown}: give {given}.")


def describe(error):
    """Say an error in one line; those that are no bad input and no bad file with their kind."""
    if isinstance(error, OSError):
        parts = [str(part) for part in (error.filename, error.strerror) if part]
        return f"{(': '.join(parts) or str(error)).rstrip('.')}."
    text = " ".join(str(error).split())
    expected = isinstance(error, ValueError | TypeError | FloatingPointError)
    return text if expected else f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _threads_for(pictures):
    """Compute small work in one thread: waiting for a second, busy core can take far longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if pictures <= SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def familiarity():
    """Load the network that tells requests for one digit from others, once per process."""
    return checkpoints.load_checkpoint(FAMILIARITY)[0]


# A score from 0 to 1, of sentences the likeliest digit's probability, and the nearest known prompt.
Understanding = namedtuple("Understanding", ("score", "nearest"))


class TextToImage:
    """A generator with its reader: prompts in, pictures out. Made by `TextToImage.load`.

    Of sentences it knows `captions` as embeddings (n, 384) and as `texts`; of letters it has a
    `tokenizer`. Wrong arguments raise TypeError or ValueError with one sentence.
    """

    def __init__(self, model, facts, name="", device="cpu"):
        self.name, self.model, self.facts, self.device = name, model, facts, torch.device(device)
        self.latent, self.guided, self.reads_styles = model.latent, model.guided, model.reads_styles
        self.tokenizer = CharacterTokenizer() if model.reads == "characters" else None
        self.captions = facts.get("extra", {}).get("captions")
        if self.captions is not None and self.captions.shape[1:] != (384,):
            raise CheckpointError("The checkpoint's captions are no embeddings: train it again.")
        self.texts = [] if self.captions is None else checkpoints.read_captions(facts)
        self.familiar = (facts.get("captions") or {}).get("familiar")  # of a reader's own captions

    @classmethod
    def load(cls, name=DEFAULT, device="cpu"):
        """Load a checkpoint by its name in `checkpoints/` or its path, or raise CheckpointError.

        It draws on the CPU unless told; `device=None` takes the best there is, see `choose_device`.
        """
        device = choose_device(device)
        model, facts = checkpoints.load_checkpoint(name, device)
        if not isinstance(model, Generator):
            raise CheckpointError(f"{name} holds a {facts['model']}, which draws nothing.")
        name = checkpoints.MINE * str(name).startswith(checkpoints.MINE) + Path(name).stem
        return cls(model, facts, name, device)

    def draw(self, prompts, n=1, seed=0, temperature=1.0, guidance=None, steps=None):
        """Draw n pictures of every prompt: (prompts * n, 1, 28, 28) in [0, 1], prompt by prompt.

        What a prompt gives does not depend on its neighbours in the list, nor picture k on n.

        Args:
            prompts: one text, or a list of texts.
            n: pictures of each prompt; 100,000 of all prompts together at most.
            seed: any whole number; the same one gives the same pictures.
            temperature: scales the latents, 0 to 1000; 0 gives the most typical picture n times.
            guidance: of a flow, 0 to 1000; 1 takes the prompt as it is, 0 ignores it.
            steps: of a flow, 1 to 1000; without these two the model's own are used.
        """
        prompts = check_prompts(prompts)
        z = self.latents(n, seed, temperature)
        check_number(len(z) * len(prompts), "The number of all pictures", 1, MOST_PICTURES)
        self._check_settings(guidance, steps)  # refused before anything is read or drawn
        conditions = self.conditions(prompts).repeat_interleave(len(z), dim=0)
        return self.decode(z.repeat(len(prompts), 1), conditions, guidance, steps)

    @torch.no_grad()
    def conditions(self, prompts):
        """Read one prompt or a list of n: float32 tensor (n, condition) for the decoder."""
        prompts = check_prompts(prompts)
        with _threads_for(len(prompts)):
            inputs = (self.tokenizer or sentence_encoder()).encode(prompts)
            return self.model.read(inputs.to(self.device)).cpu()

    def latents(self, n=1, seed=0, temperature=1.0):
        """Draw n latents, see `draw`: tensor (n, latent); its first k do not depend on n."""
        n = check_number(n, "n, the number of pictures,", 1, MOST_PICTURES, whole=True)
        seed = check_number(seed, "The seed", -math.inf, math.inf, whole=True)
        temperature = check_number(temperature, "The temperature", 0, MOST)
        if not 0 <= seed < 2**32:  # which is as far as PyTorch tells seeds apart
            seed = random.Random(hex(seed)).getrandbits(32)
        generator = torch.Generator().manual_seed(seed)
        # PyTorch draws normals in groups of 16 and redraws an incomplete last group; with a
        # multiple of 16 rows there is none, so a longer list begins like a shorter one.
        rows = -(-n // 16) * 16
        return torch.randn(rows, self.latent, generator=generator)[:n] * temperature

    @torch.no_grad()
    def decode(self, z, conditions, guidance=None, steps=None):
        """Paint latents (n, latent) and conditions (n, condition), or one row of either for all."""
        settings = self._check_settings(guidance, steps)
        n = max(len(z), len(conditions))
        check_number(n, "The number of all pictures", 1, MOST_PICTURES)
        if z.dim() != 2 or z.shape[1] != self.latent or not {len(z), len(conditions)} <= {1, n}:
            shapes = f"{tuple(z.shape)} and conditions {tuple(conditions.shape)}"
            raise ValueError(f"Latents {shapes} do not fit: give (n, {self.latent}) and n, or one.")
        z, conditions = z.expand(n, -1), conditions.expand(n, -1)
        pictures = torch.empty(n, 1, 28, 28)
        with _threads_for(n):
            for rows in torch.arange(n).split(CHUNK):
                part = z[rows].to(self.device), conditions[rows].to(self.device)
                pictures[rows] = self.model.paint(*part, **settings).cpu()
        return pictures

    def _check_settings(self, guidance, steps):
        settings = {}
        if guidance is not None:
            settings["guidance"] = check_number(guidance, "The guidance", 0, MOST)
        if steps is not None:
            settings["steps"] = check_number(steps, "The number of steps", 1, MOST, whole=True)
        if settings and not self.guided:
            name = self.name or "This model"
            raise ValueError(f"{name} is no flow: load \"mnist-flow\" for guidance and steps.")
        return settings

    def understands(self, prompt):
        """Say how far a prompt reads like those of the training: an `Understanding`.

        Of sentences a small network tells the probability that they ask for one digit; among
        nine prompts the same letters give 1 and others at most one half (12_say_how_to_draw_it).
        """
        (prompt,) = check_prompts([prompt])
        if self.tokenizer:
            return self._understands_letters(prompt)
        if self.captions is None:
            raise CheckpointError(f"{self.name} was saved without captions: train it again.")
        with _threads_for(1), torch.no_grad():
            embedding = sentence_encoder().encode([prompt])
            near, place = (self.captions.float() @ embedding[0]).max(0)
            if self.familiar is not None:
                score = ((near - self.familiar) / 0.05).sigmoid().item()
            else:  # the rest of the eleven answers is that it asks for no digit
                score = familiarity()(embedding).softmax(1)[0, :10].max().item()
        return Understanding(score, self.texts[place])

    def _understands_letters(self, prompt):
        known, spelled = self.tokenizer.encode(list(PROMPTS)), self.tokenizer.encode([prompt])
        conditions = self.conditions(list(PROMPTS))
        distances = torch.cdist(self.conditions(prompt), conditions)[0]
        nearest = distances.argmin().item()
        score = 0.5 * (-distances[nearest] / torch.pdist(conditions).mean()).exp().item()
        same = (known == spelled).all(1).any()
        return Understanding(1.0 if same else score, PROMPTS[nearest])

    def doubt(self, prompt):
        """Write a sentence when a prompt does not read like those of the training, else ""."""
        score, nearest = self.understands(prompt)
        what = "is none of the nine prompts" if self.tokenizer else "does not read like one digit"
        what = what if self.familiar is None else "does not read like what I learned"
        doubts = [] if score > 0.5 else [f"This {what}; the nearest I know is \"{nearest}\"."]
        (prompt,) = check_prompts(prompt)
        if self.tokenizer:
            more = to_tokens(prompt, len(prompt))[self.tokenizer.length :]
            end = "".join(self.tokenizer.decode(torch.tensor([more])))
        else:
            end = sentence_encoder().unread(prompt)
        if end:
            doubts.append(f"It is too long, and its end is not read: \"{end[:60]}\".")
        styles = sorted(STYLE_WORDS.intersection(re.findall(r"[a-z-]+", prompt.lower())))
        denied = [style for style in styles if re.search(rf"{DENIAL}{style}\b", prompt.lower())]
        if denied and self.reads_styles:
            doubts.append(f"I read \"{denied[0]}\" and no denial of it: leave out what it is not.")
        if styles and not (self.tokenizer or self.reads_styles or self.familiar is not None):
            words = " and ".join(f"\"{word}\"" for word in styles)
            doubts.append(f"{self.name} does not read {words}: {DEFAULT} does.")
        return " ".join(doubts)

    @property
    def examples(self):
        """Five prompts that suit the model."""
        if self.familiar is not None:
            return self.texts[:: max(1, len(self.texts) // 5)][:5]
        if self.tokenizer:
            return list(PROMPTS[:5])
        return ["a seven", "a thick 3 leaning left", "print number 5", "a tiny 8", "what is six?"]

    def settings(self, prompt, guidance=None, steps=None):
        """Say with which guidance and steps a flow draws a prompt: a dict, else an empty one."""
        given = self._check_settings(guidance, steps)
        if not self.guided:
            return given
        own = self.model.choose_guidance(self.conditions(prompt)).item()
        return {"guidance": round(own, 2), "steps": self.model.steps} | given

    def title(self, prompt):
        """Write the prompt as a picture's title, with a question mark when there is doubt."""
        return f"\"{prompt}\" (not what I know?)" if self.doubt(prompt) else f"\"{prompt}\""

    def reading(self, prompt):
        """Write what is read, as in "seven, thick, leaning left"; "" for a model of no styles."""
        if not self.reads_styles:
            return ""
        head, condition = self.model.head, self.conditions(prompt)
        words = [WORDS[head.digit(condition).argmax()]]
        levels = (head.levels(condition)[0].argmax(1) - 2).tolist()
        words += [LEVEL_NAMES[s][v + 2] for s, v in zip(STYLES, levels, strict=True) if v != UNSAID]
        return ", ".join(words)


def picture_to_image(picture, zoom=8):
    """Turn a picture (1, 28, 28) in [0, 1] into a PIL image: dark ink, 1 to 64 times as large."""
    zoom = check_number(zoom, "zoom", 1, 64, whole=True)
    ink = ((1 - picture.reshape(28, 28).clamp(0, 1)) * 255).round().to(torch.uint8)
    return Image.fromarray(ink.numpy()).resize((28 * zoom, 28 * zoom), Image.Resampling.NEAREST)


def png_bytes(image, facts):
    """Encode a PIL image as PNG with a dict of facts (prompt, seed, checkpoint) as its text."""
    info, buffer = PngInfo(), io.BytesIO()
    for key, value in facts.items():
        info.add_itxt(key, str(value).replace("\0", ""))
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def slug(prompt, longest=40):
    """Make a part of a file name that is safe on every system: a-z, 0-9 and dashes."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:longest].strip("-") or "prompt"


def file_stem(facts):
    """Name a file by the time, the prompt and the seed, as in `20261101-120000_a-seven_seed0`."""
    seed = operator.index(facts["seed"]) % 2**64
    return f"{time.strftime('%Y%m%d-%H%M%S')}_{slug(facts['prompt'])}_seed{seed}"


def save_picture(picture, folder, facts, index=1, zoom=8):
    """Write a picture (1, 28, 28) as PNG, named by `file_stem` and its number, from 1: a `Path`."""
    content = png_bytes(picture_to_image(picture, zoom), facts | {"index": index})
    return write_new(folder, f"{file_stem(facts)}_{index}", content)


def write_new(folder, stem, content):
    """Write bytes to stem.png, or stem-2.png … if that is taken, whole or not at all: a `Path`."""
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{secrets.token_hex(8)}.part"
    try:
        beside.write_bytes(content)
        for k in itertools.count(1):
            path = folder / (f"{stem}.png" if k == 1 else f"{stem}-{k}.png")
            with contextlib.suppress(FileExistsError):
                try:
                    os.link(beside, path)
                except OSError:  # it is taken, which touch says, or files here know no links
                    path.touch(exist_ok=False)
                    os.replace(beside, path)
                return path
    finally:
        beside.unlink(missing_ok=True)
