"""Reading a prompt letter by letter: a tokenizer and an encoder (notebook 2)."""

import torch
from torch import nn

LETTERS = " abcdefghijklmnopqrstuvwxyz"  # token 0 is the pad, so a space is 1 and z is 27


def to_tokens(prompt, length):
    """Turn one prompt into a list of at most `length` numbers from 1 to 27.

    Text is lower-cased; any other character is dropped; what is longer is cut.

    Raises:
        TypeError: the prompt is not text.
        ValueError: the prompt has no letter in it.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"A prompt is text, not {type(prompt).__name__}: {prompt!r}.")
    tokens = [LETTERS.index(c) + 1 for c in prompt.lower() if c in LETTERS][:length]
    if max(tokens, default=0) < 2:  # nothing, or only spaces
        raise ValueError(f"The prompt {prompt[:40]!r} has no letter from a to z: write a word.")
    return tokens


class CharacterTokenizer:
    """Turn text into rows of 32 small integers: 0 pads, 1 is a space, 2 to 27 are a to z.

    Args:
        length: tokens per prompt.
    """

    def __init__(self, length=32):
        self.length = length
        self.vocabulary_size = len(LETTERS) + 1

    def encode(self, prompts):
        """Encode a list of n prompts: int64 tensor (n, length) with values 0 to 27.

        Raises:
            TypeError: a prompt is not text, or a text stands where a list of texts should.
            ValueError: a prompt has no letter in it.
        """
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
    """Embed letters, average those that are not pads, project: (n, 32) → (n, 64).

    Args:
        vocabulary_size: how many different tokens there are, the pad included.
        output: size of the condition vector.
    """

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
