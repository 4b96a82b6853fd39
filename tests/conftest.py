"""What all tests share: recipes can be imported, property tests draw the same cases each time."""

import sys
from pathlib import Path

from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "checkpoints" / "recipes"), str(ROOT / "notebooks" / "book")]

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")


def pytest_configure(config):
    """Keep what hypothesis writes out of the tree."""
    set_hypothesis_home_dir(config.rootpath / ".pytest_cache" / "hypothesis")


def pytest_terminal_summary(terminalreporter):
    """Print what tests have measured."""
    passed = terminalreporter.getreports("passed")
    for name, value in (pair for report in passed for pair in report.user_properties):
        terminalreporter.write_line(f"{name}: {value}")
