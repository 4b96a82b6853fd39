"""Both branches of `repair_torchvision`, each in a process with a small torchvision of its own."""

import subprocess
import sys
import textwrap

import pytest

WELL = "GOOD = True"
# What a CUDA build does beside a torch for the CPU: the import fails where the operator is used.
MIXED = """
import torch, torchvision.half
for operator in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, operator):
        raise RuntimeError(f"operator torchvision::{operator} does not exist")
GOOD = True
"""
NMS_LOADED = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    KEEP = torch.library.Library("torchvision", "FRAGMENT")
    KEEP.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.KEEP = KEEP
""" + MIXED
REPORT = """
import helpers, torch, sys
print(sys.modules["torchvision"].GOOD, len(helpers._DECLARED))
print(*(hasattr(torch.ops.torchvision, name) for name in ("nms", "qnms")))
print(helpers.repair_torchvision())
"""


@pytest.fixture
def run(tmp_path):
    """Run code in a process that finds a torchvision with this source first."""

    def run(source, code=REPORT):
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "half.py").write_text("")
        (package / "__init__.py").write_text(textwrap.dedent(source))
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )

    return run


def test_a_torchvision_that_imports_is_left_alone(run):
    done = run(WELL)
    assert done.stdout.split("\n")[:3] == ["True 0", "False False", "False"], done.stderr


def test_missing_operators_are_declared(run):
    done = run(MIXED)
    assert done.stdout.split("\n")[:3] == ["True 1", "True True", "False"], done.stderr


def test_an_operator_that_loaded_is_not_declared_again(run):
    """Declaring it twice would raise; the schema would say from where it came."""
    watch = """
import torch
defined, define = [], torch.library.Library.define
def spy(self, schema, *args, **kwargs):
    defined.append(schema.split("(")[0])
    return define(self, schema, *args, **kwargs)
torch.library.Library.define = spy
import helpers
print(defined.count("nms"), defined.count("qnms"), sys.modules["torchvision"].GOOD)
"""
    done = run(NMS_LOADED, watch)
    assert done.stdout.strip() == "1 1 True", done.stderr


@pytest.mark.parametrize(
    "error",
    ["RuntimeError('something else')", "ImportError('libcudart.so.13 not found')", "KeyError(1)"],
)
def test_any_other_error_is_passed_on(run, error):
    done = run(f"raise {error}", "import helpers")
    assert done.returncode == 1 and error.split("(")[0] in done.stderr.splitlines()[-1]
    assert "_DECLARED" not in done.stderr


def test_an_error_that_the_repair_does_not_cure_is_passed_on(run):
    done = run("raise RuntimeError('operator torchvision::roi_align does not exist')")
    assert done.returncode == 1 and "roi_align does not exist" in done.stderr.splitlines()[-1]
