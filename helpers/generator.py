"""Prompt in, picture out: `TextToImage`, and whether a prompt is one it can draw."""

import contextlib
import functools
import io
import numbers
import operator
import re
import time
import unicodedata
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from helpers.captions import TRAINING_PHRASINGS, WORDS
from helpers.characters import CharacterTokenizer
from helpers.checkpoints import CHECKPOINTS, CheckpointError, choose_device, load_checkpoint
from helpers.files import write_whole
from helpers.sentences import SentenceEncoder
from helpers.shapes import PROMPTS
from helpers.styles import LEVEL_NAMES, STYLES, UNSAID, known_captions

CHUNK = 1000  # pictures decoded at once, so that memory stays bounded
SMALL = 64    # up to here a second thread costs more than it brings
DEFAULT = "mnist-style"  # the checkpoint that draws unless another is named
MOST_PICTURES = 100_000  # at once: about 300 MB
MOST_STEPS = 1000  # of a flow
MOST_GUIDANCE = MOST_TEMPERATURE = 1000  # beyond any use, and still far from overflow
FAMILIARITY = CHECKPOINTS / "readers" / "familiarity.safetensors"


class Understanding(NamedTuple):
    """Whether a prompt asks for one of the things that the model draws."""

    score: float  # probability that it does, 0 to 1
    nearest: str  # the training prompt that is nearest to it


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
def sentence_encoder():
    """Load MiniLM on first use, once per process: a `SentenceEncoder`."""
    return SentenceEncoder()


@functools.cache
def familiarity():
    """Load the network that tells requests for one digit from others, once per process."""
    return load_checkpoint(FAMILIARITY)[0]


def check_prompts(prompts):
    """Turn one prompt or a list of prompts into a list, refusing what cannot be read.

    Raises:
        TypeError: a prompt is not text.
        ValueError: there is no prompt, or one has no visible character.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, list | tuple):
        raise TypeError(
            f"A prompt is text or a list of texts, not {type(prompts).__name__}: write \"a seven\"."
        )
    if not prompts:
        raise ValueError("The list of prompts is empty: give at least one.")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise TypeError(f"A prompt is text, not {type(prompt).__name__}: write \"a seven\".")
        if any("\ud800" <= c <= "\udfff" for c in prompt):
            raise ValueError("The prompt holds bytes that are not text: type it again.")
        if all(unicodedata.category(c)[0] in "CZM" for c in prompt):  # control, space, mark
            raise ValueError("The prompt is empty: write what to draw, as in \"a seven\".")
    return list(prompts)


def check_count(n, prompts=1):
    """Return n, the pictures of each prompt, as an int.

    Raises:
        TypeError, ValueError: n is no whole number from 1 up, or n * prompts is above 100,000.
    """
    n = _whole_number(n, "n, the number of pictures,")
    if n < 1:
        raise ValueError(f"n, the number of pictures, is {_brief(n)}: ask for at least 1.")
    _check_total(n * prompts)
    return n


def _check_total(pictures):
    if pictures > MOST_PICTURES:
        raise ValueError(
            f"The number of pictures is {_brief(pictures)}: ask for at most {MOST_PICTURES:,} at "
            "once, and for more with other seeds."
        )


def check_temperature(temperature):
    """Return it as a float; TypeError or ValueError unless it is a number from 0 to 1000."""
    return _number(temperature, "The temperature", MOST_TEMPERATURE, "1.0")


def check_guidance(guidance):
    """Return it as a float; TypeError or ValueError unless it is a number from 0 to 1000."""
    return _number(guidance, "The guidance", MOST_GUIDANCE, "1.5")


def check_steps(steps):
    """Return steps as an int; TypeError or ValueError unless they are whole and 1 to 1000."""
    what = "steps, the number of Euler steps,"
    steps = _whole_number(steps, what)
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"{what} is {_brief(steps)}: give 1 to {MOST_STEPS}.")
    return steps


def _number(value, what, most, example):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} is {_brief(value)}: give a number, as in {example}.")
    if not 0 <= value <= most:
        raise ValueError(f"{what} is {_brief(value)}: give a finite number, 0 to {most}.")
    return float(value)


def _whole_number(value, what):
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{what} is {_brief(value)}: give a whole number.")


def _brief(value):
    """Write a value for a message: on one line, and cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no number of more than 4300 digits
        return "too long to write"
    return text if len(text) <= 60 else f"{text[:60]}…"


def describe(error):
    """Say an error in one line; those that are no bad input and no bad file with their kind."""
    if isinstance(error, OSError):
        parts = [str(part) for part in (error.filename, error.strerror) if part]
        return f"{(': '.join(parts) or str(error)).rstrip('.')}."
    text = " ".join(str(error).split())
    expected = isinstance(error, ValueError | TypeError | FloatingPointError)
    return text if expected else f"{type(error).__name__}: {text}"


class TextToImage:
    """A generator with its reader: prompts in, pictures out.

    Made by `TextToImage.load`.

    Attributes:
        name: the checkpoint it came from.
        model: the generator, in evaluation mode.
        facts: the checkpoint's JSON as a dict.
        device: where the pictures are computed; they are always returned on the CPU.
    """

    def __init__(self, model, facts, name="", device="cpu"):
        self.name, self.model, self.facts, self.device = name, model, facts, torch.device(device)
        self.tokenizer = CharacterTokenizer() if model.reads == "characters" else None
        self.captions = facts.get("extra", {}).get("captions")
        counts = (20 * len(TRAINING_PHRASINGS), len(known_captions()))  # plain, and with styles
        if self.captions is not None and len(self.captions) not in counts:
            raise CheckpointError(
                f"{name} knows {len(self.captions)} captions and helpers writes {counts[0]} or "
                f"{counts[1]}: train it again."
            )

    @classmethod
    def load(cls, name=DEFAULT, device=None):
        """Load a checkpoint.

        Args:
            name: a name in `checkpoints/`, or a path.
            device: see `helpers.checkpoints.choose_device`.

        Raises:
            CheckpointError, ValueError: one sentence on what is wrong with the file or the device.
        """
        device = choose_device(device)
        model, facts = load_checkpoint(name, device)
        if not hasattr(model, "draw"):
            raise CheckpointError(f"{name} holds a {facts['model']}, which draws nothing.")
        return cls(model, facts, name=Path(name).stem, device=device)

    @property
    def latent(self):
        """Size of the vector that carries the variety."""
        return self.model.latent

    def latents(self, n=1, seed=0, temperature=1.0):
        """Draw n latents: float32 tensor (n, latent). The first k do not depend on n.

        Args:
            n: how many, 1 to 100,000.
            seed: any whole number.
            temperature: standard deviation of a component, 0 to 1000; 0 gives the centre n times.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
        """
        n, temperature = check_count(n), check_temperature(temperature)
        generator = torch.Generator().manual_seed(_whole_number(seed, "The seed") % 2**64)
        # PyTorch draws normals in groups of 16 and redraws an incomplete last group; with a
        # multiple of 16 rows there is none, so a longer list begins like a shorter one.
        rows = -(-n // 16) * 16
        return torch.randn(rows, self.latent, generator=generator)[:n] * temperature

    @torch.no_grad()
    def conditions(self, prompts):
        """Read prompts: float32 tensor (n, condition) that the decoder understands.

        Args:
            prompts: one text, or a list of n.

        Raises:
            TypeError, ValueError: a prompt cannot be read.
        """
        prompts = check_prompts(prompts)
        with _threads_for(len(prompts)):
            if self.tokenizer:
                return self.model.reader(self.tokenizer.encode(prompts).to(self.device)).cpu()
            return self.model.head(sentence_encoder().encode(prompts).to(self.device)).cpu()

    @property
    def guided(self):
        """Whether the model is a flow, which takes a guidance scale and a number of steps."""
        return hasattr(self.model, "guidance")

    @property
    def reads_styles(self):
        """Whether the model reads how to draw (thick, leaning …) besides what."""
        return hasattr(getattr(self.model, "head", None), "levels")

    def _flow_settings(self, guidance, steps):
        if guidance is None and steps is None:
            return {}
        if not self.guided:
            raise ValueError(
                f"{self.name or 'This model'} is no flow: leave out guidance and steps, or load "
                "\"mnist-flow\"."
            )
        settings = {}
        if guidance is not None:
            settings["guidance"] = check_guidance(guidance)
        if steps is not None:
            settings["steps"] = check_steps(steps)
        return settings

    @torch.no_grad()
    def decode(self, z, conditions, guidance=None, steps=None):
        """Turn latents (n, latent) and conditions (n, condition) into pictures (n, 1, 28, 28).

        One row of either serves for all rows of the other; 100,000 rows at most.

        Args:
            z, conditions: see `latents` and `conditions`.
            guidance, steps: see `draw`.

        Returns:
            float32 CPU tensor with values in [0, 1], 1 is ink.

        Raises:
            TypeError, ValueError: the shapes do not fit, or a setting is not what it should be.
        """
        settings = self._flow_settings(guidance, steps)
        n = max(len(z), len(conditions))
        _check_total(n)
        if z.dim() != 2 or z.shape[1] != self.latent or not {len(z), len(conditions)} <= {1, n}:
            raise ValueError(
                f"Latents {tuple(z.shape)} and conditions {tuple(conditions.shape)} do not fit: "
                f"give (n, {self.latent}) and as many conditions, or one."
            )
        z, conditions = z.expand(n, -1), conditions.expand(n, -1)
        pictures = torch.empty(n, 1, 28, 28)
        with _threads_for(n):
            for rows in torch.arange(n).split(CHUNK):
                part = z[rows].to(self.device), conditions[rows].to(self.device)
                pictures[rows] = self._decode(*part, settings).cpu()
        return pictures

    def _decode(self, z, conditions, settings):
        if self.guided:
            return self.model.paint(z, conditions, **settings)
        if hasattr(self.model, "place"):
            z = self.model.place(z, conditions)
        if hasattr(self.model, "decode"):
            return self.model.decode(z, conditions).sigmoid()
        return self.model.net(torch.cat([conditions, z], dim=1))  # FirstGenerator

    def draw(self, prompts, n=1, seed=0, temperature=1.0, guidance=None, steps=None):
        """Draw n pictures of every prompt.

        The n latents are the same for every prompt, so what a prompt gives does not depend on its
        neighbours in the list, and picture k does not depend on n.

        Args:
            prompts: one text, or a list of texts.
            n: pictures of each prompt, at least 1; 100,000 of all prompts together at most.
            seed: any whole number; the same one gives the same pictures.
            temperature: scales the latents, 0 to 1000; 0 gives the most typical picture n times.
            guidance: how far a flow exaggerates the prompt, 0 to 1000; 1 takes it as it is, 0
                ignores it, and without it the model's own is used.
            steps: of a flow, from noise to a code, 1 to 1000; without it the model's own number.

        Returns:
            float32 CPU tensor (prompts * n, 1, 28, 28) in [0, 1], prompt by prompt; 1 is ink.

        Raises:
            TypeError, ValueError: an argument is not what it should be, in one sentence.
        """
        prompts = check_prompts(prompts)
        check_count(n, len(prompts))
        self._flow_settings(guidance, steps)  # refused before anything is drawn or read
        z = self.latents(n, seed, temperature)
        conditions = self.conditions(prompts)
        n, m = len(z), len(conditions)
        return self.decode(
            z.repeat(m, 1), conditions.repeat_interleave(n, dim=0), guidance, steps
        )

    def understands(self, prompt):
        """Say how far a prompt reads like those of the training, and which of them is nearest.

        A small network names the digit that a sentence asks for or answers "something else"; the
        score is the probability of the likeliest digit (notebook 11 compares this with distances
        and measures how far it can be trusted). The nearest caption is the one with the greatest
        cosine. A character model knows nine prompts: the score is 1 for the same letters, else at
        most one half and falling with the distance between condition vectors.

        Returns:
            An `Understanding`: score from 0 to 1, nearest training prompt.

        Raises:
            TypeError, ValueError: the prompt cannot be read, or the checkpoint holds no captions.
        """
        (prompt,) = check_prompts([prompt])
        if self.tokenizer:
            return self._understands_letters(prompt)
        if self.captions is None:
            raise CheckpointError(f"{self.name} was saved without captions: train it again.")
        with _threads_for(1), torch.no_grad():
            embedding = sentence_encoder().encode([prompt])
            score = familiarity()(embedding).softmax(1)[0, :10].max().item()
            place = (self.captions.float() @ embedding[0]).argmax().item()
        return Understanding(score, known_captions()[place])

    def _understands_letters(self, prompt):
        known, spelled = self.tokenizer.encode(list(PROMPTS)), self.tokenizer.encode([prompt])
        conditions = self.conditions(list(PROMPTS))
        distances = torch.cdist(self.conditions(prompt), conditions)[0]
        nearest = distances.argmin().item()
        if (known == spelled).all(1).any():
            return Understanding(1.0, PROMPTS[nearest])
        typical = torch.pdist(conditions).mean()
        score = 0.5 * (-distances[nearest] / typical).exp().item()
        return Understanding(score, PROMPTS[nearest])

    def doubt(self, prompt):
        """Write a sentence when a prompt does not read like those of the training, else ""."""
        score, nearest = self.understands(prompt)
        if score > 0.5:
            return ""
        if self.tokenizer:
            return f"This is none of the nine prompts; the nearest I know is \"{nearest}\"."
        return f"This does not read like one digit; the nearest I know is \"{nearest}\"."

    def title(self, prompt):
        """Write the prompt as a picture's title, with a question mark when there is doubt."""
        return f"\"{prompt}\" (not what I know?)" if self.doubt(prompt) else f"\"{prompt}\""

    def reading(self, prompt):
        """Write what a model of styles reads in a prompt, as in "seven, thick, leaning left".

        Returns:
            Text; "" for a model that reads no styles.
        """
        if not self.reads_styles:
            return ""
        head = self.model.head
        condition = self.conditions(prompt)
        words = [WORDS[head.digit(condition).argmax()]]
        levels = (head.levels(condition)[0].argmax(1) - 2).tolist()
        words += [LEVEL_NAMES[s][v + 2] for s, v in zip(STYLES, levels, strict=True) if v != UNSAID]
        return ", ".join(words)


def slug(prompt, longest=40):
    """Make a part of a file name that is safe on every system: a-z, 0-9 and dashes."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:longest].strip("-") or "prompt"


def png_bytes(image, facts):
    """Encode a PIL image as PNG with a dict of facts (prompt, seed, checkpoint) as its text."""
    info = PngInfo()
    for key, value in facts.items():
        info.add_itxt(key, str(value).replace("\0", ""))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def picture_to_image(picture, zoom=8):
    """Turn a picture (1, 28, 28) with values in [0, 1] into a PIL image: dark ink, enlarged."""
    ink = ((1 - picture.reshape(28, 28).clamp(0, 1)) * 255).round().to(torch.uint8)
    return Image.fromarray(ink.numpy()).resize((28 * zoom, 28 * zoom), Image.Resampling.NEAREST)


def write_new(folder, stem, content):
    """Write bytes to `folder/stem.png`, or stem-2, stem-3 … if that is taken: a `Path`.

    Nothing is overwritten, and no half-written file is left behind.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(1, 10_000):
        path = folder / (f"{stem}.png" if k == 1 else f"{stem}-{k}.png")
        try:
            path.touch(exist_ok=False)  # ours from here on
        except FileExistsError:
            continue
        try:
            write_whole(path, content)
            return path
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    raise OSError(f"{folder} is full of pictures named {stem}: empty it.")


def save_pictures(pictures, folder, facts, zoom=8):
    """Write one PNG per picture, see `save_picture`: a list of n `Path`s.

    Args:
        pictures: tensor (n, 1, 28, 28) with values in [0, 1].
        folder, facts, zoom: see `save_picture`.

    Raises:
        OSError: the folder cannot be made or written.
    """
    return [save_picture(p, folder, facts, k, zoom) for k, p in enumerate(pictures, start=1)]


def save_picture(picture, folder, facts, index=1, zoom=8):
    """Write a picture as PNG, named by time, prompt, seed and number: a `Path`.

    Args:
        picture: tensor (1, 28, 28) with values in [0, 1].
        folder: made if it is missing.
        facts: a dict with "prompt" and "seed", written into the file with whatever else it has.
        index: which of the pictures of its seed it is, counted from 1.
        zoom: pixels of the file per pixel of the picture.

    Raises:
        OSError: the folder cannot be made or written.
    """
    content = png_bytes(picture_to_image(picture, zoom), facts | {"index": index})
    return write_new(folder, f"{file_stem(facts)}_{index}", content)


def file_stem(facts):
    """Name a file by the time, the prompt and the seed, as in `20261101-120000_a-seven_seed0`."""
    seed = operator.index(facts["seed"]) % 2**64
    return f"{time.strftime('%Y%m%d-%H%M%S')}_{slug(facts['prompt'])}_seed{seed}"
