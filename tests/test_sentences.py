"""The frozen sentence encoder: its vectors, its cache, and that it works offline.

What happens without its files is in faults/test_weights.py.
"""

import subprocess
import sys

import pytest
import torch

from helpers import sentences


@pytest.fixture(scope="module")
def reader():
    return sentences.SentenceEncoder()


def test_minilm_folder():
    folder = sentences.minilm_folder()
    assert (folder / "model.safetensors").stat().st_size > 90_000_000
    assert (folder / "tokenizer.json").is_file()


def test_vectors(reader):
    vectors = reader.encode(["number 5", "number 6", "a cat on a mat"])
    assert vectors.shape == (3, reader.size) == (3, 384)
    assert vectors.dtype == torch.float32 and not vectors.requires_grad
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    cosine = vectors @ vectors.T
    assert cosine[0, 1].item() == pytest.approx(0.843, abs=0.01)
    assert cosine[0, 2] < 0.3


def test_frozen(reader):
    assert not any(parameter.requires_grad for parameter in reader.model.parameters())
    assert not reader.model.training


def test_order_is_kept_and_repeats_are_allowed(reader):
    asked = ["a long sentence that names the number seven", "7", "a seven", "7"]
    vectors = reader.encode(asked)
    assert torch.equal(vectors[1], vectors[3])
    for sentence, vector in zip(asked, vectors, strict=True):
        alone = reader.model.encode(sentence, convert_to_tensor=True, show_progress_bar=False)
        assert torch.allclose(vector, alone, atol=1e-5), sentence


def test_reads_each_sentence_once(reader, monkeypatch):
    first = reader.encode(["read me once", "and me"])
    read = []
    plain = reader.model.encode
    monkeypatch.setattr(
        reader.model, "encode", lambda batch, **kwargs: read.extend(batch) or plain(batch, **kwargs)
    )
    again = reader.encode(["and me", "somebody new", "read me once", "somebody new"])
    assert read == ["somebody new"]
    assert torch.equal(again[[2, 0]], first)


def test_nothing_to_read(reader):
    assert reader.encode([]).shape == (0, 384)


@pytest.mark.parametrize("wrong", [[None], ["a seven", 7], [b"a seven"], [["a seven"]]])
def test_refuses_what_is_not_text(reader, wrong):
    with pytest.raises(TypeError, match="A prompt is text, not"):
        reader.encode(wrong)


def test_refuses_a_bare_sentence(reader):
    with pytest.raises(TypeError, match="Give a list of sentences"):
        reader.encode("a seven")


def test_offline_and_quiet():
    """In a process without a network: no attempt to reach it, nothing on the screen."""
    script = """
import socket
def refuse(*args, **kwargs):
    print("asked for the network:", args)
    raise OSError("the network is blocked")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
socket.getaddrinfo = refuse
from helpers.sentences import SentenceEncoder
print(tuple(SentenceEncoder().encode(["a seven", "7"]).shape))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "(2, 384)\n"
    assert done.stderr == ""
