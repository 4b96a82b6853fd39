"""What training is fed with, and the prompt head's own training."""

import pytest
import torch
import torch.nn.functional as F

from helpers.mnist import load_mnist
from helpers.models import PromptHead
from helpers.training import caption_batches, group_by_digit, train_head


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
