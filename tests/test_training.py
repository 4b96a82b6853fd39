"""The training loop: its small machines, and that stopping changes nothing."""

import csv
import functools
import math

import pytest
import torch

from helpers.characters import CharacterTokenizer
from helpers.models import ConvCVAE, Proofreader, ShapesCVAE
from helpers.shapes import PROMPTS
from helpers.training import (
    out_of_patience,
    proofread,
    shape_batches,
    train_cvae,
    update_average,
    validate,
    warm_up,
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
        ".lock", "best.safetensors", "history.csv", "last.safetensors",
    ]


def test_early_stopping_stops(tmp_path):
    validation = list(batches(torch.Generator().manual_seed(9)))
    # a learning rate of nearly nothing cannot improve much; an average that lags makes it worse
    _, history = train(epochs=30, rate=1e-12, patience=2, validation=validation)
    assert len(history) < 30


def test_validation_is_pinned_and_leaves_the_mode_alone():
    model, _ = train()
    batch = list(batches(torch.Generator().manual_seed(9)))
    model.train()
    first, second = validate(model, batch), validate(model, batch)
    assert first == second and model.training
    total = first["validation reconstruction"] + first["validation kl"]
    assert first["validation loss"] == pytest.approx(total)


# ---- a penalty, and the one that is used: proofreading -----------------------------------------


def redraw(model, tokens, generator):
    """Ask for little ink in what the prior draws: a penalty that uses up the generator."""
    z = torch.randn(len(tokens), model.latent, generator=generator)
    return 100 * model.draw(tokens, z).mean()


def test_a_penalty_joins_the_loss_and_stays_out_of_the_history():
    free, history = train()
    same, same_history = train(penalty=lambda model, tokens, generator: torch.zeros(()))
    assert torch.equal(weights(free), weights(same))
    known = lambda model, tokens, generator: torch.tensor(1e4)  # noqa: E731 (no gradient)
    dear, dear_history = train(penalty=known)
    assert torch.equal(weights(free), weights(dear))
    for row, other, third in zip(history, same_history, dear_history, strict=True):
        for name in ("reconstruction", "kl", "beta", "learning rate"):
            assert row[name] == other[name] == third[name]


def test_a_penalty_is_obeyed():
    def ink(model):
        return redraw(model, TOKENS.repeat(20, 1), torch.Generator().manual_seed(3)).item()

    def strict(*given):
        return 30 * redraw(*given)

    free, penalised = train(rate=1e-2)[0], train(rate=1e-2, penalty=strict)[0]
    assert ink(penalised) < 0.5 * ink(free)


def test_a_penalty_meets_each_batch_once():
    met = []

    def look(model, tokens, generator):
        assert model.training and isinstance(generator, torch.Generator)
        met.append(tokens)
        return torch.zeros(())

    train(penalty=look, epochs=2)
    generator = torch.Generator().manual_seed(0)
    assert len(met) == 2 * 6
    assert torch.equal(met[0], next(batches(generator))[1]), "the inputs of the batch"


@pytest.mark.parametrize("epoch", [1, 2])
def test_stopped_and_resumed_is_the_same_training_with_a_penalty(tmp_path, epoch):
    whole, history = train(penalty=redraw)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, after_epoch=stop_after(epoch), penalty=redraw)
    resumed, resumed_history = train(tmp_path, penalty=redraw)
    assert torch.equal(weights(whole), weights(resumed))
    assert not torch.equal(weights(whole), weights(train()[0])), "the penalty does something"
    assert [row["kl"] for row in history] == [row["kl"] for row in resumed_history]


class Reader(torch.nn.Module):
    """A proofreader that keeps what it is shown and always reads one digit, more or less surely."""

    def __init__(self, digit=0, surety=0.0):
        super().__init__()
        self.logits = torch.nn.Parameter(surety * torch.eye(10)[digit], requires_grad=False)
        self.shown = []

    def forward(self, pictures):
        self.shown.append(pictures.detach())
        return self.logits + 0 * pictures.mean((1, 2, 3))[:, None]


@pytest.fixture
def digit_model():
    torch.manual_seed(0)
    model = ConvCVAE()
    model.head.requires_grad_(False)
    return model.train()


@pytest.fixture
def embeddings():
    return torch.randn(100, 384, generator=torch.Generator().manual_seed(1)) / 384**0.5


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_proofreader_that_cannot_tell_costs_ln_10(digit_model, embeddings):
    reader = Reader()
    cost = proofread(digit_model, embeddings, seeded(), reader)
    assert cost.shape == () and cost.item() == pytest.approx(5 * math.log(10))
    half = proofread(digit_model, embeddings, seeded(), reader, n=7, strictness=0.5)
    assert half.item() == pytest.approx(0.5 * math.log(10))
    few = proofread(digit_model, embeddings[:3], seeded(), reader)
    assert few.item() == pytest.approx(5 * math.log(10))
    assert [x.shape for x in reader.shown] == [(n, 1, 28, 28) for n in (64, 7, 3)]
    assert all(0 <= x.min() and x.max() <= 1 for x in reader.shown)


def test_a_proofreader_asks_for_the_digit_that_the_head_reads(digit_model, embeddings):
    with torch.no_grad():
        digit_model.head.digit.weight.zero_()
        digit_model.head.digit.bias.copy_(torch.eye(10)[3])
    pleased = proofread(digit_model, embeddings, seeded(), Reader(3, surety=20.0))
    annoyed = proofread(digit_model, embeddings, seeded(), Reader(4, surety=20.0))
    assert pleased.item() == pytest.approx(0, abs=1e-4)
    assert annoyed.item() == pytest.approx(5 * 20, abs=1e-3)


def test_a_proofreader_is_shown_the_prior(digit_model, embeddings):
    """Codes are standard normal, come from the generator, and no picture is encoded."""
    met = []

    def decode(z, condition):
        met.append((z, condition))
        return torch.zeros(len(z), 1, 28, 28)

    digit_model.decode, digit_model.encode = decode, None
    for _ in range(2):
        proofread(digit_model, embeddings.repeat(40, 1), seeded(), Reader(), n=4000)
    (z, condition), (again, _) = met
    assert torch.equal(z, again) and condition.shape == (4000, 16)
    assert z.shape == (4000, 20)
    assert z.mean().abs() < 0.02 and z.std().item() == pytest.approx(1, abs=0.02)


def test_the_gradient_of_proofreading_reaches_the_decoder_alone(digit_model, embeddings):
    torch.manual_seed(1)
    reader = Proofreader().eval().requires_grad_(False)
    proofread(digit_model, embeddings, seeded(), reader).backward()
    assert all(p.grad is None for p in reader.parameters()), "the proofreader is frozen"
    reached = {name.split(".")[0] for name, p in digit_model.named_parameters()
               if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {"expand", "film1", "up1", "film2", "up2"}


def picture_batches(generator):
    for _ in range(3):
        pictures = torch.rand(16, 1, 28, 28, generator=generator).round()
        yield pictures, torch.randn(16, 384, generator=generator) / 384**0.5


def test_training_with_a_proofreader_pleases_it_leaves_it_alone_and_resumes(tmp_path):
    torch.manual_seed(1)
    reader = Proofreader().eval().requires_grad_(False)
    reader[-1].weight.mul_(20)  # untrained, but sure of what it reads
    before = weights(reader).clone()

    def run(penalty, **settings):
        torch.manual_seed(0)
        model = ConvCVAE()
        model.head.requires_grad_(False)
        model.head.digit.bias[3] = 9  # threes are asked for
        return train_cvae(model, picture_batches, 2, 3, rate=5e-3, penalty=penalty, **settings)[0]

    def cost(model):
        inputs = torch.randn(64, 384, generator=seeded(5)) / 384**0.5
        return proofread(model, inputs, seeded(6), reader).item()

    read = functools.partial(proofread, proofreader=reader)
    whole = run(read)
    assert torch.equal(weights(reader), before)
    assert cost(whole) < cost(run(None)) - 0.4
    with pytest.raises(KeyboardInterrupt):
        run(read, folder=tmp_path, after_epoch=stop_after(1))
    assert torch.equal(weights(whole), weights(run(read, folder=tmp_path)))


def test_a_model_without_a_head_cannot_be_proofread():
    with pytest.raises(AttributeError, match="head"):
        train(penalty=functools.partial(proofread, proofreader=Reader()))
