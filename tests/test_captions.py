"""Captions: their grammar, what they say of digit and style, and what is kept from training."""

import hashlib
import importlib.util
import json
import random
import re
import shutil
import sys
import tomllib

import pytest
import torch
from familiarity import write_others, write_wishes

from helpers import captions, mnist
from helpers.captions import LEVELS, STYLES, UNSAID, WORDS, all_captions, caption_pictures
from helpers.checkpoints import CAPTIONS, CHECKPOINTS

# "one" inside "someone" is no number, and a heart is none either.
NUMBER = re.compile(rf"(?<![a-z0-9<])({'|'.join(WORDS)}|\d)(?:e?s)?(?![a-z0-9])")
GRADED = "(?:very|extremely|really|super|extra|unusually|far|strong|strongly|a lot|heavily)"
WITNESS = {  # words of one side only: low, medium, high
    "thickness": ("thin|fine|light", "(medium|regular)-weight", "thick|bold|heavy|fat"),
    "slant": (
        "left|backward", "upright|straight|vertical|without any slant|not leaning at all",
        f"(?<!up)right|forward|slanted(?!( {GRADED})? to the left)",
    ),
    "width": ("narrow|compressed", "(medium|regular)-width", "wide|broad"),
    "size": ("small|little", "(medium|normal)-sized", "big|large"),
}
PROMPTS = {path.stem: captions.load_prompts(path.stem) for path in mnist.DATA.glob("prompts/*")}


def digits_in(text):
    """List the digits that a text names, in order; "one more" and "one of those" name none."""
    names = NUMBER.findall(re.sub(r"\bone\s+(more|of those)\b", "", text.lower()))
    return [int(name) if name.isdigit() else WORDS.index(name) for name in names]


def holds(pattern, text):
    return re.search(rf"(?<![\w-])(?:{pattern})(?!\w)", text) is not None


def words_of(phrasing):
    return re.findall(r"\{|[a-z']+", re.sub(r"(\ban? )?\{\w+\}", "{", phrasing.lower()))


def one_edit(a, b):
    """Say whether at most one word is exchanged, dropped or added between lists a and b."""
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    return a[1:] == b[1:] or a == b[1:] or a[1:] == b


def random_pictures(n):
    """Levels (n, 4) and digits (n,) of pictures that do not exist."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(len(LEVELS), (n, 4), generator=generator) - 2
    return levels, torch.randint(10, (n,), generator=generator)


def test_captions_by_hand():
    for phrasing, digit, numeral, caption in (
        ("draw {a}", 7, False, "draw a seven"), ("draw {a}", 8, False, "draw an eight"),
        ("draw {a}", 8, True, "draw an 8"), ("draw {a}", 1, False, "draw a one"),
        ("number {digit}", 0, True, "number 0"), ("some {digits}", 6, False, "some sixes"),
        ("some {digits}", 6, True, "some 6s"), ("some {digits}", 0, False, "some zeros"),
    ):
        assert captions.write_caption(phrasing, digit, numeral) == caption
    for digit in (-1, 10, 3.0, "3", None, True):
        with pytest.raises(ValueError, match="give a whole number"):
            captions.write_caption("draw {a}", digit)


def test_every_phrasing_is_a_sentence_that_names_its_digit():
    assert len(captions.TRAINING_PHRASINGS) >= 200 and len(captions.PHRASINGS) >= 300
    every = captions.PHRASINGS + captions.HELD_OUT_PHRASINGS
    texts, digits = all_captions(every)
    assert len({text.lower() for text in texts}) == len(texts) == len(digits) == 20 * len(every)
    failures = [p for p in every if not re.fullmatch(r"\S+( \S+)*", p) or p.count("{") != 1]
    wrong = r"\ba (8|eight)\b|\ban ([0-79]|one|two|seven)\b"
    failures += [text for text, digit in zip(texts, digits.tolist(), strict=True)
                 if digits_in(text) != [digit] or re.search(wrong, text)]
    assert not failures


def test_held_out_phrasings_differ_in_more_than_one_word():
    known = [words_of(phrasing) for phrasing in captions.PHRASINGS]
    vocabulary = {word for phrasing in captions.TRAINING_PHRASINGS for word in words_of(phrasing)}
    tested = [*captions.HELD_OUT_PHRASINGS, *(prompt.text for prompt in PROMPTS["styled"])]
    assert not [p for p in tested if any(one_edit(words_of(p), other) for other in known)]
    assert not [p for p in captions.HELD_OUT_PHRASINGS if set(words_of(p)) <= vocabulary]


def test_the_words_of_a_level_say_it_and_nothing_else():
    rng, failures = random.Random(0), []
    for place, style in enumerate(STYLES):
        elsewhere = [word for name in STYLES if name != style for word in WITNESS[name][::2]]
        for level in (*LEVELS, UNSAID):
            levels = [level if k == place else UNSAID for k in range(4)]
            side = None if level == UNSAID else (level > 0) - (level < 0)
            for text in {captions.write_styled(4, levels, rng, ("draw {a}",)) for _ in range(300)}:
                own = [holds(rf"[\w-]*(?:{words})[\w-]*", text) for words in WITNESS[style]]
                other = any(holds(words, text) for words in elsewhere)
                graded = holds(GRADED, text) == (level in (-2, 2))  # only the outer levels are
                if own != [side == k for k in (-1, 0, 1)] or other or not graded:
                    failures.append((style, level, text))
    assert not failures, failures[:9]


def test_sentences_with_styles_name_their_digit_in_grammar():
    rng, failures = random.Random(1), []
    # a or an by the letter; "one" begins like "won"
    wrong = r"\ba (?=[aeiou8])(?!one\b)|\ban (?=[^aeiou8\s]|one\b)|^\s|\s$|  | ,|,,| \.|\{"
    for place in range(3000):
        digit = rng.randrange(10)
        levels = [rng.choice((*LEVELS, UNSAID, UNSAID)) for _ in STYLES]
        frame = captions.FRAMES[place % len(captions.FRAMES)]
        text = captions.write_styled(digit, levels, rng, [frame])
        if digits_in(text) != [digit] or re.search(wrong, text, re.I):
            failures.append(text)
    assert not failures, failures[:9]
    text = captions.write_styled(0, [1, -1, UNSAID, 0], rng, ("draw {a}",), thing="letter k")
    assert "letter k" in text and not digits_in(text)
    for bad in ([], [0], [0] * 5, [0, 0, 0, 4], [-3, 0, 0, 0], [None] * 4, [0.5, 0, 0, 0]):
        with pytest.raises(ValueError, match=r"^levels are .*: give four from -2 to 2, or 3 .*\.$"):
            captions.write_styled(7, bad, rng)


def test_what_is_named_is_chosen_by_chance_and_held_out_cells_never():
    rng, levels = random.Random(0), [-2, 1, 0, 2]
    assert captions.choose_named(levels, 1, rng, talkative=1, share=1) == levels
    drawn = [captions.choose_named(levels, 1, rng) for _ in range(4000)]
    for column, level in zip(zip(*drawn, strict=True), levels, strict=True):
        assert set(column) == {level, UNSAID}
        assert 1 - column.count(UNSAID) / 4000 == pytest.approx(0.75 * 0.45, abs=0.02)
    for digit, thickness, slant in captions.HELD_OUT_CELLS:
        low, high, levels = (thickness, UNSAID), (UNSAID, slant), [thickness, slant, 1, -1]
        named = [captions.choose_named(levels, digit, rng, share=0.9)[:2] for _ in range(500)]
        assert {*map(tuple, named)} == {low, high, (UNSAID, UNSAID)}, "either, alone"
        assert captions.held_out(digit, [2 * thickness, 2 * slant, 0, 0])
        for other in ((-thickness, slant), (0, slant), low, high):
            assert not captions.held_out(digit, other)


def test_the_captions_that_released_models_name_are_those_of_the_grammar():
    known = captions.known_captions()
    content = (CHECKPOINTS / CAPTIONS).read_bytes().decode()
    assert content == "\n".join(known) + "\n" and len(known) == 7380
    assert list(known[:5380]) == all_captions(captions.TRAINING_PHRASINGS)[0]
    for name, n in (("mnist-cvae", 5380), ("mnist-style", 7380), ("mnist-flow", 7380)):
        facts = json.loads((CHECKPOINTS / f"{name}.json").read_text(encoding="utf-8"))
        sha256 = hashlib.sha256("\n".join(known[:n]).encode()).hexdigest()
        assert facts["captions"] == {"file": CAPTIONS, "sha256": sha256}, name
    texts, digits, named = captions.styled_captions(2000)
    assert texts == list(known[5380:]) and set(named.unique().tolist()) == {*LEVELS, UNSAID}
    assert [digits_in(text) for text in texts] == [[digit] for digit in digits.tolist()]
    assert not any(map(captions.held_out, digits.tolist(), named.tolist()))


def test_roughening_keeps_the_words_and_brings_no_other_digit():
    rng, failures = random.Random(0), []
    texts, digits = all_captions(captions.TRAINING_PHRASINGS)
    for text, digit in zip(texts, digits.tolist(), strict=True):
        rough = captions.roughen(text, rng)
        rest = iter(re.findall("[a-z0-9]+", rough.lower()))
        kept = all(word in rest for word in re.findall("[a-z0-9]+", text.lower()))
        fits = set(digits_in(rough)) == {digit} or "one more" in text  # a filler between the two
        if not kept or not fits or rough == text or len(rough) > 300:
            failures.append((text, rough))
    assert not failures, failures[:9]


def test_slips_to_train_on_are_one_letter_mean_one_digit_and_are_not_tested():
    abc = "abcdefghijklmnopqrstuvwxyz"
    by_hand = {"ba"} | {slip for x in abc for slip in
                        (x + "b", "a" + x, x + "ab", "a" + x + "b", "ab" + x)}
    assert set(captions.one_slip("ab")) == by_hand - {"ab"} and "sevn" in captions.one_slip("seven")
    near = {word: set(captions.one_slip(word)) for word in WORDS}
    own = "tow to too tree there for fire live fix sit even seventy night eighty line on won hero"
    shut = {*own.split(), *WORDS, *(prompt.text for prompt in PROMPTS["typos"])}
    for word, slips in zip(WORDS, captions.training_slips(), strict=True):
        others = set().union(*(near[other] for other in WORDS if other != word))
        assert len(slips) >= 100 and set(slips) <= near[word] - others - shut


def test_captions_of_pictures_say_what_these_have():
    levels, digits = random_pictures(4000)
    texts, named = caption_pictures(levels, digits)
    told, failures = named != UNSAID, []
    assert torch.equal(named[told], levels[told]) and len(texts) == 4000
    assert 0.30 < told.float().mean() < 0.36 and 0.28 < (~told).all(1).float().mean() < 0.36
    for text, digit, row in zip(texts, digits.tolist(), named.tolist(), strict=True):
        said = [WITNESS[style][1 + (level > 0) - (level < 0)] for style, level in
                zip(STYLES, row, strict=True) if level not in (0, UNSAID)]
        fits = all(re.search(words, text, re.I) for words in said) and text.strip()
        if not fits or captions.held_out(digit, row) or not set(digits_in(text)) <= {digit}:
            failures.append((text, digit, row))
    assert not failures, failures[:9]
    misspelled = sum(not digits_in(text) for text in texts) / 4000
    assert 0.06 < misspelled < 0.11 and 0.06 < sum(map(str.isupper, texts)) / 4000 < 0.12
    assert texts == caption_pictures(levels, digits)[0] != caption_pictures(levels, digits, 5)[0]
    # "eight" stands in "medium-weight" too, and "one" in "someone"
    odd = r"\b(medium|regular)-w(?!eight|idth)|\bsome(?!(one|body|times)?\b)"
    for digit in (8, 1):
        texts, _ = caption_pictures(levels, torch.full((4000,), digit))
        assert not [text for text in texts if re.search(odd, text, re.I)]


def test_what_is_tested_is_written_anew(monkeypatch):
    """One caption of three, and every other wish for something else, is said to be a prompt."""
    pictures = random_pictures(900)
    (texts, named), others = caption_pictures(*pictures), write_others(400)
    shut = frozenset(captions.normal_form(text) for text in texts[::3] + others[::2])
    for module in (captions, sys.modules[write_others.__module__]):
        monkeypatch.setattr(module, "held_out_forms", lambda: shut)
    again, others_again = caption_pictures(*pictures)[0], write_others(400)
    assert not shut & {captions.normal_form(text) for text in again + others_again}
    assert len(again) == 900 and len(others_again) == 400 and again[0] != texts[0]
    first = caption_pictures(pictures[0][:1], pictures[1][:1])[1]
    assert torch.equal(first, named[:1]), "the words change and not the styles"


def test_others_ask_for_no_single_digit_and_wishes_for_theirs():
    """A digit alone stands beside a denial, a unit, a neighbour, a larger number or a part."""
    lists = tomllib.loads((mnist.DATA / "phrases.toml").read_text("utf-8"))["others"]
    large = [s for word in (*lists["tens"], "hundred", "thousand") for s in captions.one_slip(word)]
    beside = (
        rf"(?<![a-z])(not?|any\w*|every\w*|all|but|never|avoid|without|opposite|stop|nothing|other"
        rf"|except|different|keep|ignore|away|free|\w+n't|minus|negative|point|hal\w+|quarters?|thirds?"
        rf"|tenths?|fifths?|percent|hundred|thousand|over|\w+ty|after|before|past|comes|next|follows"
        rf"|up|above|more|less|larger|smaller|greater|twice|double|\w+cessor"
        rf"|{'|'.join(lists['units'] + large)})(?![a-z])|(?<!\w)-\w|\d[.,/]\d|%"
    )
    others = write_others(4000)
    counts = [len(set(digits_in(text))) for text in others]
    assert len(set(others)) > 2600 and 300 < counts.count(1) < 1600 and counts.count(2) > 300
    alone = [text for text, count in zip(others, counts, strict=True) if count == 1]
    assert not [text for text in alone if not re.search(beside, text, re.I)]
    assert others == write_others(4000) != write_others(4000, seed=1) and write_others(0) == []
    wishes = zip(*write_wishes(2000), strict=True)
    assert not [text for text, digit in wishes if {*digits_in(text)} - {digit.item()}]


def test_normal_forms_drop_case_spaces_and_marks_but_no_sign_of_a_number():
    same = ("  Draw  a SEVEN!! ", '"draw a seven"', "- draw a seven :)", "draw a_seven <3")
    assert {captions.normal_form(text) for text in same} == {"draw a seven"}
    for text in ("3", "-3", "3.5", "35", "3/5", "3%", "3rd", "½", "猫の絵", "??!"):
        assert captions.normal_form(text) == text


def test_the_prompts_are_of_their_kind():
    assert {name: len(prompts) for name, prompts in PROMPTS.items()} == {
        "messy": 200, "typos": 120, "indirect": 80, "far": 160, "near": 140, "negations": 40,
        "styled": 86, "synonyms": 37, "languages": 265, "compounds": 75, "validation": 234}
    for name in ("messy", "indirect", "negations"):
        answers = [prompt.answer for prompt in PROMPTS[name]]
        assert {answers.count(str(digit)) for digit in range(10)} == {len(answers) / 10}
    for name in ("far", "near", "compounds"):
        assert {prompt.answer for prompt in PROMPTS[name]} == {"-"}
    assert not [prompt for prompt in PROMPTS["far"] if digits_in(prompt.text)]
    for _, answer, text in PROMPTS["typos"]:
        near = [str(d) for d, word in enumerate(WORDS) if text in captions.one_slip(word)]
        assert near == [answer], text
    for kind, answer, text in PROMPTS["styled"] + PROMPTS["synonyms"]:
        style, level = answer.split()
        assert holds(kind, captions.LEVEL_NAMES[style][int(level) + 2])
        assert digits_in(captions.write_caption(text, 4)) == [4], text


def test_nothing_trains_on_the_prompts():
    trained = caption_pictures(*random_pictures(9000))[0] + write_others(8000)
    trained += write_wishes(4000)[0]
    trained += [*captions.known_captions(), *all_captions(captions.PHRASINGS)[0]]
    known = {captions.normal_form(text) for text in trained}
    vocabulary = {word for text in known for word in re.findall(r"[^\W\d_]+", text)}
    for name, prompts in PROMPTS.items():
        texts = [prompt.text for prompt in prompts]
        if name == "synonyms":
            assert all({*words_of(text)} - vocabulary - {"{"} for text in texts), "all are new"
        if name in ("styled", "synonyms"):
            texts = all_captions(texts)[0]
        else:
            assert captions.held_out_forms() >= {*map(captions.normal_form, texts)}
        assert not known & {captions.normal_form(text) for text in texts}, name


def test_damaged_lists_and_prompts_are_named_with_a_way_out(tmp_path, monkeypatch):
    shutil.copytree(mnist.DATA / "prompts", tmp_path / "prompts")
    shutil.copy(mnist.DATA / "phrases.toml", tmp_path)
    for module in (captions, mnist):
        monkeypatch.setattr(module, "DATA", tmp_path)
    spec = importlib.util.spec_from_file_location("read_again", captions.__file__)
    phrases = (b"", b"[plain]\ncommands = [", b"\xff", None)
    for name, damages in {"phrases.toml": phrases, "prompts/typos.txt": (b"7\t\xff",)}.items():
        path, good = tmp_path / name, (tmp_path / name).read_bytes()
        for damage in damages:
            path.unlink()
            if damage is not None:
                path.write_bytes(damage)
            with pytest.raises(ValueError, match="cannot be read") as caught:
                spec.loader.exec_module(importlib.util.module_from_spec(spec))
                captions.training_slips()
            todo = ": restore it with 'git checkout -- data'."
            assert re.fullmatch(re.escape(str(path)) + ".*" + todo, str(caught.value))
            path.write_bytes(good)
    with pytest.raises(FileNotFoundError, match=r"no prompts 'typo': choose one of c.*dation\.$"):
        captions.load_prompts("typo")
