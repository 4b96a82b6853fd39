"""What training is fed with, and the trainings of its helpers: prompt head and proofreader."""

import pytest
import torch
import torch.nn.functional as F

from helpers.mnist import load_mnist, to_float
from helpers.models import PromptHead, Proofreader
from helpers.training import (
    caption_batches,
    group_by_digit,
    toss_pixels,
    train_classifier,
    train_head,
    train_proofreader,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def coded_table(captions):
    """A table (10, captions, 2) whose entries say which digit and which caption they are."""
    digit, caption = torch.meshgrid(torch.arange(10), torch.arange(captions), indexing="ij")
    return torch.stack([digit, caption], dim=2).float()


@pytest.fixture(scope="module")
def pictures():
    images, labels = load_mnist(train=False)
    return images[:1030], labels[:1030]


def test_group_by_digit():
    digits = torch.arange(10).repeat(3)[torch.randperm(30, generator=seeded())]
    embeddings = torch.arange(30.0)[:, None].expand(-1, 384)
    grouped = group_by_digit(embeddings, digits)
    assert grouped.shape == (10, 3, 384)
    for digit in range(10):
        assert digits[grouped[digit, :, 0].long()].tolist() == [digit] * 3
    assert sorted(grouped[..., 0].flatten().tolist()) == list(range(30))


def test_group_by_digit_needs_as_many_captions_for_each():
    with pytest.raises(RuntimeError, match="equal size"):
        group_by_digit(torch.zeros(11, 384), torch.tensor([*range(10), 3]))


def test_caption_batches_fit_their_pictures(pictures):
    images, labels = pictures
    batches = list(caption_batches(images, labels, coded_table(7), 100, seeded()))
    assert len(batches) == 10  # the last 30 pictures do not fill a batch
    known = {image.numpy().tobytes(): label for image, label in zip(images, labels, strict=True)}
    captions = []
    for batch, inputs in batches:
        assert batch.shape == (100, 1, 28, 28) and batch.dtype == torch.float32
        assert 0 <= batch.min() and batch.max() <= 1
        back = (batch[:, 0] * 255).round().to(torch.uint8)
        found = [known[picture.numpy().tobytes()].item() for picture in back]
        assert inputs[:, 0].tolist() == found, "a caption for the wrong digit"
        captions += inputs[:, 1].tolist()
    counts = torch.tensor(captions).long().bincount(minlength=7)
    assert counts.min() > 90, "every caption comes up (143 times each on average)"


def test_caption_batches_see_every_picture_once(pictures):
    images = torch.arange(200, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28)
    seen = [
        batch[:, 0, 0, 0] * 255
        for batch, _ in caption_batches(images, pictures[1][:200], coded_table(2), 50, seeded())
    ]
    assert sorted(torch.cat(seen).round().int().tolist()) == list(range(200))


def test_caption_batches_follow_their_generator(pictures):
    def run(generator):
        return [inputs for _, inputs in caption_batches(*pictures, coded_table(5), 64, generator)]

    generator = seeded()
    first, second = run(generator), run(generator)
    assert all(map(torch.equal, first, run(seeded())))
    assert not all(map(torch.equal, first, second)), "the next epoch has another order"


# ---- tossed pixels -----------------------------------------------------------------------------


def grey(level, n=40):
    return torch.full((n, 1, 28, 28), level)


def test_tossed_pixels_are_white_as_often_as_they_are_grey():
    levels = [0.0, 0.25, 0.5, 0.9, 1.0]
    tossed = [x for x, _ in toss_pixels([(grey(level), None) for level in levels], seeded())]
    assert all(x.shape == (40, 1, 28, 28) and x.dtype == torch.float32 for x in tossed)
    assert set(torch.cat(tossed).unique().tolist()) == {0, 1}
    assert tossed[0].max() == 0 and tossed[-1].min() == 1, "black and white are no chance"
    # 31,360 tosses: four standard errors are 0.011 at most
    assert [x.mean().item() for x in tossed] == pytest.approx(levels, abs=0.012)


def test_each_pixel_has_a_toss_of_its_own():
    (tossed, _), = toss_pixels([(grey(0.5, 400), None)], seeded())
    means = tossed.mean(0)
    assert 0.3 < means.min() and means.max() < 0.7
    neighbours = torch.stack([tossed[..., 1:].flatten(), tossed[..., :-1].flatten()])
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.02


def test_tossed_batches_keep_their_inputs_and_their_grey_pictures():
    batches = [(grey(0.5), torch.arange(40)), (grey(0.5), torch.arange(40, 80))]
    tossed = list(toss_pixels(batches, seeded()))
    assert len(tossed) == 2
    assert all(mine is given for (_, mine), (_, given) in zip(tossed, batches, strict=True))
    assert all(torch.equal(pictures, grey(0.5)) for pictures, _ in batches)


def test_a_picture_is_tossed_anew_each_time_and_the_generator_decides_how():
    def run(generator):
        return torch.cat([x for x, _ in toss_pixels([(grey(0.5), None)] * 2, generator)])

    generator = seeded()
    first, second = run(generator), run(generator)
    torch.manual_seed(99)
    assert torch.equal(first, run(seeded()))
    assert not torch.equal(first, second) and not torch.equal(first[:40], first[40:])


@pytest.mark.parametrize("level", [-0.1, 1.1, 255.0, float("nan")])
def test_grey_levels_outside_0_and_1_cannot_be_tossed(level):
    with pytest.raises(RuntimeError, match="p_in >= 0 && p_in <= 1"):
        next(toss_pixels([(grey(level), None)], seeded()))


# ---- classifiers -------------------------------------------------------------------------------


class Recorder(torch.nn.Module):
    """A classifier that keeps what it is shown; where the ink is tells the shift."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(10))
        self.shown = []

    def forward(self, pictures):
        assert self.training
        self.shown.append(pictures.clone())
        return self.bias.expand(len(pictures), 10)


def test_a_classifier_is_shown_every_picture_once_an_epoch_and_shifted():
    images = torch.zeros(23, 28, 28, dtype=torch.uint8)
    images[:, 14, 14] = torch.arange(1, 24)
    torch.manual_seed(0)
    recorder = train_classifier(Recorder(), images, torch.zeros(23).long(), epochs=40, batch=4)
    assert not recorder.training
    assert len(recorder.shown) == 40 * 5, "the last three pictures do not fill a batch"
    places = set()
    for epoch in range(40):
        pictures = torch.cat(recorder.shown[5 * epoch : 5 * epoch + 5])
        marks = (pictures.amax((1, 2, 3)) * 255).round().int().tolist()
        assert len(set(marks)) == 20 and set(marks) <= set(range(1, 24))
    for pictures in recorder.shown:
        found = pictures[:, 0].nonzero()[:, 1:].unique(dim=0)
        assert len(found) == 1, "a batch is shifted as a whole"
        places.add(tuple((found[0] - 14).tolist()))
    assert {x for place in places for x in place} == {-2, -1, 0, 1, 2}
    assert recorder.bias.argmax() == 0 and recorder.bias[0] > 0.1, "and learns its labels"


def test_a_classifier_learns_and_depends_on_the_seed_alone(digits_to_read):
    def run(seed):
        torch.manual_seed(seed)
        return train_classifier(Proofreader(), *digits_to_read[:2], epochs=2, batch=50)

    first, again, other = run(0), run(0), run(1)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert share_read(first, *digits_to_read[2:]) > 0.7
    assert all(p.requires_grad for p in first.parameters()), "freezing is up to the caller"


def test_too_few_pictures_for_a_batch_are_refused(digits_to_read):
    images, labels = digits_to_read[:2]
    with pytest.raises(ValueError, match="do not fill a batch of 50: give more"):
        train_classifier(Proofreader(), images[:20], labels[:20], epochs=2, batch=50)


@pytest.fixture(scope="module")
def digits_to_read():
    """Pictures and labels to learn from, and others to be examined on."""
    images, labels = load_mnist(train=False)
    return images[:3000], labels[:3000], images[5000:6000], labels[5000:6000]


def share_read(classifier, images, labels):
    with torch.no_grad():
        return (classifier(to_float(images)).argmax(1) == labels).float().mean().item()


@pytest.fixture(scope="module")
def proofreader(digits_to_read):
    return train_proofreader(*digits_to_read[:2], epochs=4)


def test_a_proofreader_reads_and_is_frozen(proofreader, digits_to_read):
    assert isinstance(proofreader, Proofreader) and not proofreader.training
    assert not any(p.requires_grad for p in proofreader.parameters())
    assert proofreader(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert 0.75 < share_read(proofreader, *digits_to_read[2:]) < 0.99


def test_a_proofreader_repeats_itself_whatever_came_before(digits_to_read):
    def run(**settings):
        torch.rand(1)  # moves torch's global generator on
        reader = train_proofreader(digits_to_read[0][:500], digits_to_read[1][:500], 1, **settings)
        return torch.cat([p.flatten() for p in reader.parameters()])

    first = run()
    assert torch.equal(first, run()) and torch.equal(first, run(seed=77))
    assert not torch.equal(first, run(seed=78))


# ---- the prompt head ---------------------------------------------------------------------------


def make_sentences(per_digit, seed):
    """Ten directions for the digits, other directions for the phrasing, all of length 1."""
    towards = torch.randn(10, 384, generator=seeded(99))
    digits = torch.arange(10).repeat(per_digit)
    phrasing = torch.randn(len(digits), 384, generator=seeded(seed))
    return F.normalize(towards[digits] + 0.7 * phrasing, dim=1), digits


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    head = PromptHead()
    return head, train_head(head, *make_sentences(40, 1), steps=150)


def test_train_head_learns_to_read(trained):
    head, losses = trained
    assert len(losses) == 150
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])
    embeddings, digits = make_sentences(20, 2)  # phrasings that training did not see
    with torch.no_grad():
        assert (head.eval()(embeddings) @ head.digit.weight.T).argmax(1).eq(digits).all()


def test_train_head_forgets_the_phrasing(trained):
    head = trained[0].eval()
    embeddings, digits = make_sentences(20, 2)
    with torch.no_grad():
        grouped = group_by_digit(head(embeddings), digits)  # 10×20×16
    centres = grouped.mean(1)
    within = (grouped - centres[:, None]).norm(dim=2).mean()
    between = torch.pdist(centres).mean()
    assert within < 0.04 * between, "without the pull it is 0.05"


def test_train_head_freezes_and_measures_the_scale(trained):
    head = trained[0]
    assert not any(p.requires_grad for p in head.parameters())
    embeddings, _ = make_sentences(40, 1)
    assert torch.allclose(head.centre, embeddings.mean(0), atol=1e-6)


def test_train_head_repeats_itself():
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        runs.append(train_head(PromptHead(), *make_sentences(5, 1), steps=5, seed=seed))
    assert runs[0] == runs[1] != runs[2]
