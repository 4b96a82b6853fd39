"""The training loop: its small machines, and that stopping changes nothing."""

import csv

import pytest
import torch

from helpers.characters import CharacterTokenizer
from helpers.models import ShapesCVAE
from helpers.shapes import PROMPTS
from helpers.training import (
    out_of_patience,
    resume_run,
    shape_batches,
    train_cvae,
    update_average,
    validate,
    warm_up,
    write_history,
    write_safetensors,
)

TOKENS = CharacterTokenizer().encode(PROMPTS)


def batches(generator):
    return shape_batches(TOKENS, per_prompt=40, batch=60, generator=generator)


def train(folder=None, **settings):
    torch.manual_seed(0)
    arguments = {"epochs": 3, "steps": 6, "beta": 2.0, "folder": folder} | settings
    return train_cvae(ShapesCVAE(latent=4), batches, **arguments)


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


def stop_after(epoch):
    def press_stop(average, done):
        if done == epoch:
            raise KeyboardInterrupt

    return press_stop


def test_warm_up_rises_in_a_straight_line_and_stays():
    assert [warm_up(p, 4.0, 0.5) for p in (0, 0.25, 0.5, 1)] == [0.0, 2.0, 4.0, 4.0]
    assert warm_up(0.0, 4.0, 0) == 4.0


def test_average_follows_the_model():
    average, model = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    before, target = average.weight.clone(), model.weight.clone()
    update_average(average, model, step=10_000, decay=0.9)
    assert torch.allclose(average.weight, 0.9 * before + 0.1 * target)
    assert torch.equal(model.weight, target)


def test_patience_counts_from_the_best_epoch():
    def history(*losses):
        return [{"validation loss": loss} for loss in losses]

    assert not out_of_patience(history(3, 2, 1), 2)
    assert not out_of_patience(history(3, 1, 2), 2)
    assert out_of_patience(history(3, 1, 2, 2), 2)
    assert not out_of_patience(history(3, 1, 2, 2), None)


def test_training_learns_and_the_same_seed_gives_the_same_weights():
    first, history = train(epochs=8)
    again, _ = train(epochs=8)
    other, _ = train(epochs=8, seed=1)
    assert history[-1]["reconstruction"] < 0.85 * history[0]["reconstruction"]
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert not first.training


@pytest.mark.parametrize("epoch", [1, 2])
def test_stopped_and_resumed_is_the_same_training(tmp_path, epoch):
    whole, history = train()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, after_epoch=stop_after(epoch))
    resumed, resumed_history = train(tmp_path)
    assert torch.equal(weights(whole), weights(resumed))
    assert [row["kl"] for row in history] == [row["kl"] for row in resumed_history]


def test_history_is_a_csv_with_a_line_for_each_epoch(tmp_path):
    _, history = train(tmp_path, validation=list(batches(torch.Generator().manual_seed(9))))
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["validation loss"]) == history[-1]["validation loss"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.safetensors", "history.csv", "last.safetensors",
    ]


def test_early_stopping_stops(tmp_path):
    validation = list(batches(torch.Generator().manual_seed(9)))
    # a learning rate of nearly nothing cannot improve much; an average that lags makes it worse
    _, history = train(epochs=30, rate=1e-12, patience=2, validation=validation)
    assert len(history) < 30


def test_another_trainings_folder_is_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match="does not fit this training: delete the folder"):
        train(tmp_path, epochs=5)


def test_a_truncated_state_is_refused(tmp_path):
    train(tmp_path)
    last = tmp_path / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(ValueError, match="does not fit this training: delete the folder"):
        train(tmp_path)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, after_epoch=stop_after(1))
    good = (tmp_path / "last.safetensors").read_bytes()

    def broken(generator):
        for pictures, tokens in batches(generator):
            yield pictures * float("nan"), tokens

    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train_cvae(ShapesCVAE(latent=4), broken, 3, 6, 2.0, folder=tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == good


@pytest.mark.parametrize("name", ["last.safetensors", "history.csv"])
def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch, name):
    _, history = train(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("helpers.training.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        if name == "history.csv":
            write_history(tmp_path / name, history * 2)
        else:
            write_safetensors(tmp_path / name, {"a": torch.zeros(3)}, {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_empty_folder_resumes_nothing(tmp_path):
    assert resume_run(tmp_path, None, None, None, None, None) == []


def test_validation_is_pinned_and_leaves_the_mode_alone():
    model, _ = train()
    batch = list(batches(torch.Generator().manual_seed(9)))
    model.train()
    first, second = validate(model, batch), validate(model, batch)
    assert first == second and model.training
    total = first["validation reconstruction"] + first["validation kl"]
    assert first["validation loss"] == pytest.approx(total)
