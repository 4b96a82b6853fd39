"""The package itself: torchvision is repaired, files are written whole."""

import errno
import os
import re
import subprocess
import sys

import pytest

import helpers

# What a CUDA build does beside a torch for the CPU: the import fails where the operator is used.
MIXED = """
import torch
for operator in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, operator):
        raise RuntimeError(f"operator torchvision::{operator} does not exist")
GOOD = True
"""
HALF_LOADED = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    torch.KEPT = torch.library.Library("torchvision", "FRAGMENT")
    torch.KEPT.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
KINDS = {
    "good": "GOOD = True",
    "libcudart": "raise ImportError('libcudart not found')",
    "roi_align": "raise RuntimeError('operator torchvision::roi_align does not exist')",
    "mixed": MIXED,
    "half loaded": HALF_LOADED + MIXED,
}
TRY = """
import sys
folder, first, *others = sys.argv[1:]
sys.path.insert(0, f"{folder}/{first}")
import helpers, torch
print(first, [hasattr(torch.ops.torchvision, name) for name in ("nms", "qnms")])
print(sys.modules["torchvision"].GOOD, "helpers.generator" in sys.modules)
for kind in others:
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    sys.path[0] = f"{folder}/{kind}"
    try:
        print(kind, helpers.repair_torchvision())
    except Exception as error:
        print(kind, type(error).__name__, kind in str(error))
"""


@pytest.mark.parametrize(
    "printed",
    [
        ["mixed [True, True]", "True False"],
        ["good [False, False]", "True False", "good False", "libcudart ImportError True",
         "half loaded True", "roi_align RuntimeError True"],
    ],
)
def test_missing_operators_are_declared_and_other_errors_passed_on(tmp_path, printed):
    """On torchvisions of the test's own; to declare an operator twice would raise."""
    kinds = [re.match("[a-z_]+( loaded)?", line).group() for line in printed if line[0].islower()]
    for kind in kinds:
        package = tmp_path / kind / "torchvision"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(KINDS[kind])
    done = subprocess.run(
        [sys.executable, "-c", TRY, tmp_path, *kinds], capture_output=True, text=True, check=False,
        timeout=120, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.splitlines() == printed, done.stderr


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    helpers.write_whole(path, b"old")
    helpers.write_whole(str(path), b"new")
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large.*: free some disk space"):
            helpers.write_whole(path, bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
    for error, todo in (
        (OSError(errno.ENOSPC, "full"), "free some disk space"), (KeyboardInterrupt(), None),
        (OSError(errno.EROFS, "read-only"), "choose a folder that you may write to"),
    ):
        def fail(*args, error=error):
            raise error

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(type(error), match=todo) as caught:
            helpers.write_whole(path, b"newer")
        assert todo is None or caught.value.filename == str(path)
        assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
