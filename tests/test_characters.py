"""The letter reader: tokens known by hand, a mean that pads cannot move, and what it cannot see."""

import pytest
import torch

from helpers.characters import LETTERS, CharacterEncoder, CharacterTokenizer, to_tokens
from helpers.shapes import PROMPTS


@pytest.fixture(name="encoder")
def fixture_encoder():
    torch.manual_seed(0)
    return CharacterEncoder().eval()


def read(encoder, *prompts, length=32):
    with torch.no_grad():
        return encoder(CharacterTokenizer(length).encode(prompts))


# ---- the tokenizer -----------------------------------------------------------------------------


def test_every_letter_has_its_number():
    assert to_tokens("abcdefghijklmnopqrstuvwxyz", 32) == list(range(2, 28))
    assert to_tokens("a z", 32) == [2, 1, 27]
    assert CharacterTokenizer().vocabulary_size == len(LETTERS) + 1 == 28


def test_rows_are_32_long_and_padded_with_0():
    tokens = CharacterTokenizer().encode(["cat", "q" * 40])
    assert tokens.dtype == torch.int64 and tokens.shape == (2, 32)
    assert tokens[0].tolist() == [4, 2, 21] + [0] * 29
    assert tokens[1].tolist() == [18] * 32


@pytest.mark.parametrize(
    ("typed", "read_as"),
    [
        ("CIRCLE", "circle"),
        ("Draw 2 circles!", "draw  circles"),
        ("  cross ", "  cross "),
        ("café\tnoir\n", "cafnoir"),
        ("seven-teen", "seventeen"),
        ("abcdefghijklmnopqrstuvwxyz abcdefghijklm", "abcdefghijklmnopqrstuvwxyz abcde"),
    ],
)
def test_what_is_lowered_dropped_and_cut(typed, read_as):
    tokenizer = CharacterTokenizer()
    assert tokenizer.decode(tokenizer.encode([typed])) == [read_as]


def test_round_trip_of_the_nine_prompts():
    tokenizer = CharacterTokenizer()
    assert tokenizer.decode(tokenizer.encode(PROMPTS)) == list(PROMPTS)


@pytest.mark.parametrize("prompt", ["", "   ", "5", "?!", " " * 32 + "late"])
def test_a_prompt_without_letters(prompt):
    with pytest.raises(ValueError, match="has no letter from a to z: write a word"):
        CharacterTokenizer().encode(["circle", prompt])


@pytest.mark.parametrize("prompt", [None, 5, b"circle", ["circle"]])
def test_a_prompt_that_is_not_text(prompt):
    with pytest.raises(TypeError, match="A prompt is text, not "):
        CharacterTokenizer().encode([prompt])


def test_a_text_where_a_list_should_be():
    with pytest.raises(TypeError, match=r"write \['circle'\]"):
        CharacterTokenizer().encode("circle")


# ---- the encoder -------------------------------------------------------------------------------


def test_shapes_and_parameters(encoder):
    for n in (1, 9):
        assert read(encoder, *["circle"] * n).shape == (n, 64)
    assert sum(p.numel() for p in encoder.parameters()) == 896 + 4224 + 8256
    assert CharacterEncoder(output=16)(torch.tensor([[2, 0]])).shape == (1, 16)


def test_against_a_mean_by_hand(encoder):
    rows = encoder.embedding.weight[torch.tensor([4, 2, 21])]  # c, a, t
    by_hand = encoder.project((rows[0] + rows[1] + rows[2]) / 3)
    assert torch.allclose(read(encoder, "cat")[0], by_hand, atol=1e-6)


def test_padding_does_not_change_the_vector(encoder):
    exact = read(encoder, "circle", length=6)
    for length in (7, 32, 64, 500):
        assert torch.allclose(read(encoder, "circle", length=length), exact, atol=1e-6)
    beside_longer_ones = read(encoder, "circle", "two vertical lines")[:1]
    assert torch.allclose(beside_longer_ones, exact, atol=1e-6)


def test_the_mask_holds_even_if_the_pad_has_a_vector(encoder):
    before = read(encoder, "circle")
    with torch.no_grad():
        encoder.embedding.weight[0] = 7.0
    assert torch.allclose(read(encoder, "circle"), before, atol=1e-6)


def test_only_pads_give_finite_numbers(encoder):
    assert encoder(torch.zeros(1, 32, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("circle", "cleric"),
        ("circle", "CIRCLE"),
        ("circle", "circlecircle"),
        ("circle above square", "square above circle"),
    ],
)
def test_equal_shares_of_letters_give_equal_vectors(encoder, one, other):
    assert torch.allclose(read(encoder, one), read(encoder, other), atol=1e-6)


def test_one_letter_moves_the_vector(encoder):
    assert (read(encoder, "circle") - read(encoder, "circles")).norm() > 0.05


def test_the_nine_prompts_do_not_collide():
    tokens = CharacterTokenizer().encode(PROMPTS)
    apart = ~torch.eye(9, dtype=torch.bool)
    for seed in range(5):
        torch.manual_seed(seed)
        vectors = CharacterEncoder()(tokens)
        assert torch.cdist(vectors, vectors)[apart].min() > 0.05


def test_only_the_letters_of_the_prompt_are_trained(encoder):
    encoder(CharacterTokenizer().encode(["circle"])).pow(2).sum().backward()
    touched = encoder.embedding.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == sorted({LETTERS.index(c) + 1 for c in "circle"})
