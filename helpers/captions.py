"""The caption grammar: phrasings × digit words and numerals; training and held-out phrasings.

A phrasing is a sentence with one gap. `{digit}` takes the name of the digit ("eight", "8"), `{a}`
takes it with its article ("an eight"), `{digits}` takes the plural ("eights", "8s"). How a digit
is drawn is said in `helpers/styles.py`; people's own ways of typing are in `helpers/everyday.py`.
"""

import torch

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_COMMANDS = (
    "draw", "print", "write", "show", "make", "generate", "create", "give me", "paint", "sketch",
    "display", "render", "produce", "show me", "write me", "let me see",
)
_REQUESTS = (
    "can you draw", "could you write", "would you show me", "can I see", "could I get",
    "will you make", "can you give me", "is it possible to draw", "are you able to write",
)
_WISHES = (
    "I want", "I need", "I would like", "I'd love to see", "I am looking for", "I want to see",
    "we need", "I am waiting for",
)
_MEDIA = (
    "a picture of", "an image of", "a drawing of", "a photo of", "a sketch of", "a painting of",
    "a sample of", "an example of", "the shape of",
)
_THINGS = ("{a}", "the number {digit}", "the digit {digit}")
_FRAGMENTS = (
    "{digit}", "{a}", "{digit}.", "{digit}!", "{digit}?", "the number {digit}", "number {digit}",
    "the digit {digit}", "digit {digit}", "digit: {digit}", "number: {digit}", "no. {digit}",
    "the {digit}", "just {digit}", "just {a}", "only {a}", "a single {digit}", "{digit} please",
    "a handwritten {digit}", "handwritten {digit}", "handwritten digit {digit}", "a nice {digit}",
    "a written {digit}", "a clear {digit}", "a random {digit}", "another {digit}",
    "one more {digit}",
    "{digit}, handwritten", "{digit} in handwriting", "{digit} by hand", "the numeral {digit}",
    "numeral {digit}", "the figure {digit}", "some {digits}", "a few {digits}", "many {digits}",
    "{digits}", "a page of {digits}", "a row of {digits}", "class {digit}", "label {digit}",
    "an MNIST {digit}", "{digit} from MNIST", "MNIST digit {digit}", "value {digit}",
)
_SENTENCES = (
    "this is {a}", "here is {a}", "it is {a}", "that is the number {digit}",
    "the picture shows {a}", "the image shows the digit {digit}", "somebody wrote {a}",
    "a person has written the number {digit}", "a child wrote {a}", "there is {a} on the paper",
    "a sheet of paper with {a} on it", "the number on the page is {digit}",
    "the digit in this picture is {digit}", "we see {a} here", "you can see {a} in the image",
    "the number should be {digit}", "it has to be {a}", "make it {a}", "I choose {digit}",
    "I pick the number {digit}", "let it be {a}", "my number is {digit}", "today I want {a}",
    "show me how to write {a}", "how do you write {a}?", "how do you write the number {digit}?",
    "how is the digit {digit} written?", "what is the shape of {a}?",
    "do you know the number {digit}?",
    "do you have {a}?", "where is the number {digit}?", "is there {a}?", "may I have {a}?",
    "hello, draw {a}", "hi, I need {a}", "ok, now {a}", "now write {a}", "next, the number {digit}",
    "try {a}", "try to draw {a}", "do {a}", "go for {a}", "I want you to write {a}",
    "write the number {digit} by hand", "write down the digit {digit}", "draw {a} by hand",
    "draw {a} on white paper", "draw me {a} with a pencil", "put {a} here",
    "use the number {digit}",
)


def _training_phrasings():
    combined = [f"{command} {thing}" for command in _COMMANDS for thing in _THINGS]
    combined += [f"{command} {{digit}}" for command in _COMMANDS]
    combined += [f"{request} {thing}?" for request in _REQUESTS for thing in _THINGS]
    combined += [f"{wish} {thing}" for wish in _WISHES for thing in _THINGS]
    combined += [f"{medium} {thing}" for medium in _MEDIA for thing in _THINGS]
    combined += [f"please {command} {{a}}" for command in _COMMANDS]
    combined += [f"{command} the number {{digit}}, please" for command in _COMMANDS]
    return tuple(dict.fromkeys(combined + list(_FRAGMENTS) + list(_SENTENCES)))


TRAINING_PHRASINGS = _training_phrasings()

# Never used in any training. Each takes at least two changed words to become one of the above.
HELD_OUT_PHRASINGS = (
    "Can you show me what {digit} looks like?",
    "What would {a} look like if you jotted it down?",
    "scribble {a} for me",
    "doodle the numeral {digit} in ink",
    "jot down {a}",
    "Sign the cheque with {a}.",
    "trace {a} with your finger in the sand",
    "depict the numeral {digit} in charcoal",
    "illustrate the value {digit}",
    "chalk {a} on the blackboard",
    "carve {a} into the tree",
    "my favourite digit happens to be {digit}",
    "the answer to my homework is {digit}",
    "her house has the number {digit} on its door",
    "I rolled the dice and counted {digit}",
    "the bus with line number {digit}",
    "put {a} on the birthday cake",
    "he scrawled {a} in the margin",
    "my telephone number ends in {digit}",
    "Grandma turned {digit} into a work of art",
    "the player wearing number {digit}",
    "we scored {digit} in the last game",
    "pretend you are a pupil practising {digits}",
    "I rather fancy {a} today",
    "how about {a} this time",
    "would you mind doodling {a}?",
    "kindly provide {a}",
    "imagine {a} written with a thick marker",
    "a scanned {digit} from an old form",
    "the postcode contains {a}",
    "a calligraphy exercise: {digit}",
    "the glyph for {digit}",
    "which symbol stands for {digit}?",
    "in your best penmanship, {digit}",
    "{digit} as the postman would scrawl it",
    "{digit} is what I'm after",
    "the character {digit}, drawn freehand",
    "an inked {digit} on parchment",
    "a tiny bitmap of {a}",
    "pixels that form {a}",
    "type out {digit} in pen strokes",
    "one of those {digits} that bank clerks scrawl",
    "surprise me with {a}",
    "teach me the strokes of {a}",
    "turn to page {digit}",
    "channel {digit} on the radio",
    "the clock strikes {digit}",
    "a price tag reading {digit}",
)


def write_caption(phrasing, digit, numeral=False):
    """Fill the gap of one phrasing.

    Args:
        phrasing: a sentence with `{digit}`, `{a}` or `{digits}` in it.
        digit: 0 to 9.
        numeral: write "8" instead of "eight".

    Returns:
        The caption as text.

    Raises:
        ValueError: digit is not a whole number from 0 to 9.
    """
    if type(digit) is not int or not 0 <= digit <= 9:
        raise ValueError(f"digit is {digit!r}: give a whole number from 0 to 9.")
    name = str(digit) if numeral else WORDS[digit]
    plural = name + ("es" if name == "six" else "s")
    article = "an" if digit == 8 else "a"
    return phrasing.format(digit=name, a=f"{article} {name}", digits=plural)


def all_captions(phrasings):
    """Write every caption that some phrasings allow: each digit as a word and as a numeral.

    Args:
        phrasings: a sequence of p phrasings.

    Returns:
        captions: a list of 20 * p sentences; the captions of one phrasing stand together.
        digits: int64 tensor (20 * p,), the digit that each caption names.
    """
    kinds = [(digit, numeral) for digit in range(10) for numeral in (False, True)]
    captions = [write_caption(p, digit, numeral) for p in phrasings for digit, numeral in kinds]
    return captions, torch.tensor([digit for digit, _ in kinds]).repeat(len(phrasings))
