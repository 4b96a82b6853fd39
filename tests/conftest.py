"""Property tests draw the same cases every time; the end of a run tells what was tried."""

from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")


def pytest_configure(config):
    """Keep what hypothesis writes out of the tree."""
    set_hypothesis_home_dir(config.rootpath / ".pytest_cache" / "hypothesis")


def pytest_terminal_summary(terminalreporter):
    """Print how many faults of each kind were tried, and what tests have measured."""
    passed = terminalreporter.getreports("passed")
    files = [Path(report.nodeid.partition("::")[0]) for report in passed]
    faults = Counter(file.stem.removeprefix("test_") for file in files if file.parts[1] == "faults")
    if faults:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items()))
        terminalreporter.write_line(f"faults tried: {kinds}; {faults.total()} in all")
    for name, value in (pair for report in passed for pair in report.user_properties):
        terminalreporter.write_line(f"{name}: {value}")
