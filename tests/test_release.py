"""Training and measuring released checkpoints: what is written where, and from what."""

import json
import shutil

import pytest
import torch

from helpers import evaluation, release
from helpers.captions import TRAINING_PHRASINGS, all_captions
from helpers.checkpoints import checkpoint_paths, load_checkpoint
from helpers.everyday import write_others
from helpers.metrics import train_shape_judge
from helpers.models import StyleCVAE
from helpers.style_training import train_familiarity
from helpers.styles import LEVELS, UNSAID, known_captions, level_of
from helpers.training import MNIST_RECIPE, proofread


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
    changed = {"results": 0, "versions": 0}  # the versions are those that measured last
    assert after | changed == before | changed
    load_checkpoint(str(weights))
    assert "variance ratio" in capsys.readouterr().out


def test_a_name_without_a_recipe_is_refused():
    with pytest.raises(ValueError, match=r"no recipe for 'mnist-gan': choose shapes-mlp") as caught:
        release.train_released("mnist-gan")
    message = str(caught.value)
    assert all(name in message for name in (*release.TRAINERS, "familiarity", "judges"))
    assert message.endswith(".") and "\n" not in message


class Letters:
    """Stand in for MiniLM: how often each of 384 characters occurs."""

    def encode(self, sentences):
        rows = torch.zeros(len(sentences), 384)
        for row, sentence in zip(rows, sentences, strict=True):
            for c in sentence:
                row[ord(c) % 384] += 1
        return rows


@pytest.fixture
def corpus(monkeypatch):
    """The corpus for 300 pictures that do not exist."""
    strokes = torch.rand(300, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(release, "load_strokes", lambda: strokes)
    monkeypatch.setattr(release, "sentence_encoder", Letters)
    return release.write_corpus(torch.arange(299) % 10, more=50)


def test_the_corpus_fits_together(corpus):
    n = 299 + 50 + len(known_captions())
    assert corpus.embeddings.shape == (n, 384) and corpus.digits.shape == (n,)
    assert corpus.said.shape == (n, 4) and set(corpus.said.unique().tolist()) == {*LEVELS, UNSAID}
    assert corpus.measures.shape == corpus.ranks.shape == (299, 4)
    assert torch.equal(corpus.digits[:299], torch.arange(299) % 10)
    assert torch.equal(corpus.embeddings[-len(known_captions()) :], corpus.known)
    told = corpus.said[:299] != UNSAID
    levels = level_of(corpus.ranks)
    assert torch.equal(corpus.said[:299][told], levels[told]), "captions tell what is measured"
    plain = slice(349, 349 + 5380)
    assert (corpus.said[plain] == UNSAID).all()
    assert torch.equal(corpus.digits[plain], all_captions(TRAINING_PHRASINGS)[1])


def test_the_familiarity_is_saved_where_it_is_looked_for(corpus, tmp_path, monkeypatch, capsys):
    """With the arguments that rebuild it; the training itself is cut short."""
    path = tmp_path / "readers" / "familiarity.safetensors"
    monkeypatch.setattr(release, "FAMILIARITY", path)
    monkeypatch.setattr(release, "load_splits", lambda: {"train": (None, torch.arange(299) % 10)})
    monkeypatch.setattr(release, "write_corpus", lambda labels: corpus)
    monkeypatch.setattr(release, "write_others", lambda n: write_others(200))
    monkeypatch.setattr(release, "measure_familiarity", lambda net: {"AUROC": 0.5})
    monkeypatch.setattr(
        release, "train_familiarity", lambda *data: train_familiarity(*data, steps=3)
    )
    release.train_released("familiarity")
    net, facts = load_checkpoint(path)
    assert facts["model"] == "SentenceLayers" and facts["results"] == {"AUROC": 0.5}
    assert net(corpus.known[:2]).shape == (2, 11) and "AUROC" in capsys.readouterr().out

    monkeypatch.setattr(release, "measure_familiarity", lambda net: {"AUROC": 0.7})
    release.evaluate_released("familiarity")
    again, measured = load_checkpoint(path)
    assert measured["results"] == {"AUROC": 0.7} and measured["arguments"] == facts["arguments"]
    assert torch.equal(again(corpus.known[:2]), net(corpus.known[:2])), "measured, not trained"


def test_every_recipe_belongs_to_a_released_checkpoint():
    assert set(release.TRAINERS) == {
        "shapes-mlp", "shapes-cvae", "mnist-cvae", "mnist-style", "mnist-flow"
    }
    for name in release.TRAINERS:
        assert all(path.is_file() for path in checkpoint_paths(name)), name


# mnist-style


@pytest.fixture
def steps(monkeypatch):
    """Train nothing; return what was called, as (name, arguments, keywords)."""
    calls = []

    def note(name, answer):
        def call(*data, **how):
            calls.append((name, data, how))
            return answer(*data) if answer else None

        monkeypatch.setattr(release, name, call)

    note("train_proofreader", lambda *_: "proofreader")
    note("train_style_head", None)
    note("train_cvae", lambda model, batches: (model, []))
    note("train_prior", None)
    return calls


def test_the_style_is_trained_in_order(corpus, steps, monkeypatch):
    """Reader, head, pictures, and the prior last: what it draws from must stand by then."""
    images, labels = torch.zeros(299, 28, 28, dtype=torch.uint8), torch.arange(299) % 10
    monkeypatch.setattr(release, "load_splits", lambda: {"train": (images, labels)})
    monkeypatch.setattr(release, "write_corpus", lambda labels: corpus)
    model, facts, extra = release.TRAINERS["mnist-style"]("seen")
    names = [name for name, *_ in steps]
    assert names == ["train_proofreader", "train_style_head", "train_cvae", "train_prior"]
    assert isinstance(model, StyleCVAE) and facts == {}
    _, read, _ = steps[1]
    assert read[0] is model.head and read[1] is corpus.embeddings
    _, (_, batches), recipe = steps[2]
    assert recipe["after_epoch"] == "seen" and recipe["penalty"].func is proofread
    assert {k: recipe[k] for k in MNIST_RECIPE} == MNIST_RECIPE
    pictures, captions = next(iter(batches(torch.Generator().manual_seed(0))))
    assert pictures.shape == (250, 1, 28, 28) and captions.shape == (250, 384)
    own = {row.numpy().tobytes() for row in corpus.embeddings[:299]}
    assert all(row.numpy().tobytes() in own for row in captions), "the captions of the pictures"
    _, data, _ = steps[3]
    assert data[0] is model and data[1] is corpus.embeddings and data[-1] == "proofreader"
    assert data[4] is corpus.measures and data[5] is corpus.ranks
    assert extra["captions"].shape == (len(known_captions()), 384), "what it names as nearest"
    assert extra["captions"].dtype == torch.float16
