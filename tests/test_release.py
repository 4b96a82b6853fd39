"""Measuring a released checkpoint rewrites its results and nothing else."""

import json
import shutil

import pytest

from helpers import evaluation, release
from helpers.checkpoints import checkpoint_paths, load_checkpoint
from helpers.metrics import train_shape_judge


def test_evaluation_writes_what_it_measures(tmp_path, monkeypatch, capsys):
    for path in checkpoint_paths("shapes-mlp"):
        shutil.copy(path, tmp_path)
    weights, facts_path = checkpoint_paths(tmp_path / "shapes-mlp.safetensors")
    before = json.loads(facts_path.read_text())
    facts_path.write_text(json.dumps(before | {"results": {"training seconds": 7}}))
    monkeypatch.setattr(evaluation, "train_shape_judge", lambda: train_shape_judge(steps=300))

    release.evaluate_released(str(weights))

    after = json.loads(facts_path.read_text())
    assert after["results"]["training seconds"] == 7
    assert after["results"]["parameters"] == before["results"]["parameters"]
    ratios = after["results"]["variance ratio"]
    assert ratios == pytest.approx(before["results"]["variance ratio"], abs=1e-4)
    assert {**after, "results": 0} == {**before, "results": 0}
    load_checkpoint(str(weights))
    assert "variance ratio" in capsys.readouterr().out


def test_a_name_without_a_recipe_is_refused():
    with pytest.raises(ValueError, match=r"no recipe for 'mnist-gan': choose shapes-mlp"):
        release.train_released("mnist-gan")


def test_every_recipe_belongs_to_a_released_checkpoint():
    assert all(path.is_file() for name in release.TRAINERS for path in checkpoint_paths(name))
