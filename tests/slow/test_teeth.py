"""Teeth: a broken helper turns the suite red.

Each case copies `helpers` into an empty folder, breaks one line of the copy and runs unit tests
against it in a process of its own. The same tests pass on a copy that is whole.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

BREAKS = {
    "a guidance that is ignored": (
        "models.py",
        "return untold + guidance * (told - untold)",
        "return told",
        "test_flow_training.py::test_guidance_follows_its_formula",
    ),
    "a flow that runs from codes to noise": (
        "flow_training.py",
        "codes - noise)",
        "noise - codes)",
        "test_flow_training.py::test_the_flow_brings_each_condition_to_its_place",
    ),
    "a decoder that returns its mean": (
        "models.py",
        "self.expand(torch.cat([z, condition], dim=1))",
        "self.expand(torch.cat([z * 0, condition], dim=1))",
        "test_released_models.py::test_pictures_of_a_prompt_differ_as_real_ones_do",
    ),
    "a caption for the wrong digit": (
        "captions.py",
        "name = str(digit) if numeral else WORDS[digit]",
        "digit = (digit + 1) % 10; name = str(digit) if numeral else WORDS[digit]",
        "test_captions.py::test_write_caption",
    ),
    "a tokenizer that drops a letter": (
        "characters.py",
        "for c in prompt.lower() if c in LETTERS]",
        "for c in prompt.lower() if c in LETTERS and c != 'q']",
        "test_characters.py::test_every_letter_has_its_number",
    ),
    "a distance that forgets how wide the crowds are": (
        "metrics.py",
        "a.trace() + b.trace() - 2 * roots.sum()",
        "0 * roots.sum()",
        "test_metrics.py::test_frechet_distance_of_correlated_gaussians",
    ),
    "left taken for right": (
        "strokes.py",
        "torch.atan(-covariance",
        "torch.atan(covariance",
        "test_strokes.py::test_slant_of_bars",
    ),
    "captions that name a held-out cell": (
        "styles.py",
        "said[rng.randrange(2)] = UNSAID",
        "pass",
        "test_styles.py::test_held_out_cells_are_never_both_named",
    ),
    "training on the misspellings of the test": (
        "everyday.py",
        "shut = tested | taken",
        "shut = taken",
        "test_everyday.py::test_training_slips",
    ),
    "a penalty that lets unnamed styles collapse": (
        "style_training.py",
        "silence * (row - even)",
        "0 * (row - even)",
        "test_style_training.py::test_unnamed_ranks_should_be_spread_evenly",
    ),
    "training on the sentences of the test": (
        "everyday.py",
        "while normal_form(caption) in tested():",
        "while False:",
        "test_everyday.py::test_a_caption_that_is_tested_is_written_anew",
    ),
    "codes that stay where no caption wants them": (
        "generator.py",
        "z = self.model.place(z, conditions)",
        "pass",
        "test_generator.py::test_codes_are_placed_before_they_are_decoded",
    ),
    "a prior that is taught by drawings which it does not move": (
        "style_training.py",
        "model.decode(model.place(z, condition), condition)",
        "model.decode(z, condition)",
        "test_style_training.py::test_the_prior_learns_where_the_levels_lie",
    ),
    "a doubt that never comes": (
        "generator.py",
        "if score > 0.5:",
        "if score >= 0:",
        "test_generator.py::test_doubt_begins_at_one_half",
    ),
}

# Whatever is installed, the tests must import the copy.
GUARD = """
from pathlib import Path

import helpers

assert Path(helpers.__file__).parents[1] == Path(__file__).parents[1], helpers.__file__
"""


def copy_tree(folder):
    """Lay out a repository of its own: helpers and tests as copies, the large files as links."""
    shutil.copytree(ROOT / "helpers", folder / "helpers", ignore=lambda *_: ["__pycache__"])
    (folder / "tests").mkdir()
    (folder / "tests" / "conftest.py").write_text(GUARD)
    files = {test.partition("::")[0] for *_, test in BREAKS.values()}
    for file in files | {"test_captions.py"}:  # others import from it
        shutil.copy(ROOT / "tests" / file, folder / "tests" / file)
    for name in ("data", "checkpoints"):
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)


def run(folder, tests):
    """Run tests there; return the exit status (0 passed, 1 some failed) and what was printed."""
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider",
         *(f"tests/{test}" for test in tests)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True,
        check=False, timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_whole_copy_passes(tmp_path):
    copy_tree(tmp_path)
    status, printed = run(tmp_path, [test for *_, test in BREAKS.values()])
    assert status == 0, printed


@pytest.mark.parametrize("what", BREAKS)
def test_red(tmp_path, what):
    file, whole, broken, test = BREAKS[what]
    copy_tree(tmp_path)
    path = tmp_path / "helpers" / file
    source = path.read_text(encoding="utf-8")
    assert source.count(whole) == 1, f"{file} has changed: break it in another way here"
    path.write_text(source.replace(whole, broken), encoding="utf-8")
    status, printed = run(tmp_path, [test])
    assert status == 1 and "failed" in printed, printed
