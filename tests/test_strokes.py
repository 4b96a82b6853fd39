"""Strokes: bars and boxes of known measures, real digits, the cache, ranks and levels."""

import math

import pytest
import torch
from safetensors.torch import load_file, save
from skimage.morphology import medial_axis
from skimage.transform import rescale

from helpers import strokes
from helpers.mnist import load_mnist, to_float
from helpers.strokes import Reference, level_of, load_strokes, measure_strokes


@pytest.fixture(scope="module", name="real")
def fixture_real():
    return to_float(load_mnist(train=False)[0][:300])


def box(width, height):
    """Draw a filled box in the middle, all ink: (28, 28)."""
    picture = torch.zeros(28, 28)
    top, left = (28 - height) // 2, (28 - width) // 2
    picture[top : top + height, left : left + width] = 1
    return picture


def bar(degrees, thickness=3.0):
    """Draw a bar over rows 4 to 23 that leans by an angle, with soft edges: (28, 28)."""
    rows, columns = torch.arange(28.0)[:, None], torch.arange(28.0)
    middle = 13.5 + math.tan(math.radians(degrees)) * (13.5 - rows)
    picture = ((thickness + 1) / 2 - (columns - middle).abs()).clamp(0, 1)
    picture[:4] = picture[24:] = 0
    return picture


def measure(*pictures):
    measures = measure_strokes(torch.stack(pictures)[:, None])
    return dict(zip(strokes.ATTRIBUTES, measures.T.tolist(), strict=True))


def test_thickness_of_bars():
    known = (1, 2, 3, 4, 6)
    bars = [box(t, 18) for t in known]
    assert measure(*bars)["thickness"] == pytest.approx(known, abs=0.01)
    assert measure(*(b.T for b in bars))["thickness"] == pytest.approx(known, abs=0.01)
    leaning = measure(*(bar(degrees, 4.0) for degrees in (-30, 0, 30)))["thickness"]
    across = 4 * math.cos(math.radians(30))  # thinner than its rows
    assert leaning == pytest.approx([across, 4, across], abs=0.6)


def test_width_height_and_size_of_boxes():
    sizes = ((4, 20), (10, 10), (20, 4), (3, 3), (1, 1), (6, 17))
    found = measure(*(box(*size) for size in sizes))
    assert found["width"] == pytest.approx([width for width, _ in sizes], abs=0.1)
    assert found["height"] == pytest.approx([height for _, height in sizes], abs=0.1)
    styles = strokes.measure_styles(torch.tensor([[2.0, -5.0, 4.0, 16.0]])).tolist()
    assert styles == [[2.0, -5.0, 4.0, 8.0]], "the size is the side of a square as large"


def test_leaning_right_is_positive_and_does_not_widen_the_box():
    known = (-40, -25, -10, 0, 5, 20, 35)
    found = measure(*map(bar, known))
    assert found["slant"] == pytest.approx(known, abs=2)
    assert max(found["width"]) < min(found["width"]) + 1.6 < 7
    assert found["height"] == pytest.approx([20] * 7, abs=0.1)


def test_one_percent_of_the_ink_on_either_side_is_left_out():
    """Specks beside a box of a hundred pixels, in two rows above and below its middle."""
    for share, reach in ((0.85, 10), (1.2, 18)):
        picture = box(10, 10)
        picture[[10, 17], 26] = share / 2
        found = measure(picture, picture.T)
        assert found["width"][0] == pytest.approx(reach, abs=0.1) == found["height"][1], share


def test_every_picture_has_a_measure():
    """All ink has no paper but the rim, a line may lie along the border, and paper has no ink."""
    full, line = torch.ones(28, 28), box(28, 3)
    found = measure(full, 0.3 * full, line, line.roll(13, 0), 0 * full)
    assert found["thickness"] == pytest.approx([28, 28, 3, 3, 0], abs=0.3)
    assert found["width"] == pytest.approx([28] * 4 + [0], abs=0.1)
    assert found["height"] == pytest.approx([28, 28, 3, 3, 0], abs=0.1)
    assert found["slant"] == pytest.approx([0] * 5, abs=0.1)
    big = strokes.enlarge(torch.stack([box(2, 18), full, 0 * full])[:, None])
    assert big.min() == 0 and big.max() == 1, "without a clamp edges are blacker than ink"
    assert (big[1, 1:-1, 1:-1] == 1).all() and big[1].sum() == 112**2, "paper all around"
    for shape in ((28, 28), (2, 28, 28), (2, 28, 28, 1), (2, 3, 28, 28), (784,)):
        with pytest.raises(ValueError, match=r"^Pictures have .* not \(.*\): reshape them\.$") as e:
            measure_strokes(torch.zeros(shape))
        assert str(shape) in str(e.value)


def test_each_digit_has_measures_of_its_own_which_moving_and_mirroring_keep(real):
    digits, before = real[2:9], real[2:9].clone()  # these may move by two pixels
    together, moved = measure_strokes(digits), measure_strokes(digits.roll((2, 2), (2, 3)))
    assert torch.equal(digits, before) and together.dtype == torch.float32
    alone = torch.cat([measure_strokes(picture[None]) for picture in digits])
    assert torch.allclose(together, alone, atol=0.001)
    assert torch.allclose(together, moved, atol=0.05)
    assert torch.allclose(measure_strokes(digits.flip(3))[:, 1], -together[:, 1], atol=0.01)
    assert strokes.measure_slant(real[:, 0]).mean() > 0, "people lean to the right"


def test_thickness_agrees_with_the_medial_axis(real):
    """Another skeleton, another enlargement; and paler ink is about as thick."""
    independent = []
    for picture in real[:30, 0].numpy():
        big = rescale(picture, 4, order=1)
        axis, reach = medial_axis(big > big.max() / 2, return_distance=True)
        independent.append(reach[axis].mean() / 2)
    ours, paler = (measure_strokes(share * real[:30])[:, 0] for share in (1, 0.5))
    for other, least in ((torch.tensor(independent).float(), 0.95), (paler, 0.97)):
        assert torch.corrcoef(torch.stack([ours, other]))[0, 1] > least
        assert (ours - other).abs().mean() < 0.5


def test_mnist_is_measured_once_and_anew_where_what_was_kept_is_not_whole(tmp_path, monkeypatch):
    """Few pictures instead of MNIST, and four of their pixels instead of measures."""
    measured, pictures = [], load_mnist(train=False)[0][:510].roll((-9, -9), (1, 2))

    def measure_quickly(pictures):
        measured.append(len(pictures))
        return pictures.flatten(1)[:, :4].clone()

    known = measure_quickly(to_float(pictures))
    monkeypatch.setattr(strokes, "load_mnist", lambda train: (pictures[: 505 if train else 510], 0))
    monkeypatch.setattr(strokes, "measure_strokes", measure_quickly)
    monkeypatch.setattr(strokes, "DATA", tmp_path)
    folder = tmp_path / "measured"
    folder.write_bytes(b"a file in the place of the folder")
    assert torch.equal(load_strokes(train=False), known), "a folder that cannot be written"
    folder.unlink()
    assert torch.equal(load_strokes(train=False), known)
    (path,) = folder.iterdir()
    assert torch.equal(load_strokes(), known[:505])
    assert torch.equal(load_strokes(train=False), known), "the training set is kept apart"
    assert measured[:-1] == [510, 510, 510, 505] and 0 < measured[-1] < 10, "some are checked"
    whole = path.read_bytes()
    _, name = sorted(load_file(path))
    nan, other, one = known.clone(), known.clone(), known.clone()
    nan[5], other[499], one[7] = math.nan, 1, 1
    kinds = {
        "empty": b"", "nonsense": b"?", "cut": whole[:-3], "another name": save({"other": known}),
        "zeros": save({name: torch.zeros_like(known)}), "one NaN": save({name: nan}),
        "ten rows": save({name: known[:10]}), "a row more": save({name: known[[*range(510), 0]]}),
        "float16": save({name: known.half()}), "other measures": save({name: other}),
        "one number": save(load_file(path) | {name: one}),
        "other code": save({name: other, "checksum": strokes.checksum(other)}),
    }
    failures = []
    for kind, content in kinds.items():
        path.write_bytes(content)
        taken = not torch.equal(load_strokes(train=False), known) or measured[-1] != 510
        if taken or path.read_bytes() != whole:
            failures.append(kind)
    assert not failures


def test_ranks_and_levels_by_hand():
    reference = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 10.0, 20.0, 30.0])
    ours = torch.tensor([0.0, 2.5, 2.0, 9.0, 10.0, 20.0, 15.0])
    digits, theirs = torch.tensor([0] * 4 + [7] * 4), torch.tensor([0] * 4 + [7] * 3)
    both = torch.stack([ours, -ours], 1), theirs, torch.stack([reference, -reference], 1), digits
    ranks = strokes.rank_within_digit(*both)
    assert ranks[:, 0].tolist() == [0, 0.5, 0.375, 1, 0.25, 0.625, 0.5]  # ties share their middle
    assert torch.equal(ranks[:, 1], 1 - ranks[:, 0]), "every column by itself"
    edges = torch.tensor([[0.0, 0.12, 0.121, 0.36, 0.361], [0.64, 0.641, 0.88, 0.881, 1.0]])
    levels = level_of(edges)  # an edge is the lower's
    assert levels.tolist() == [[-2, -2, -1, -1, 0], [0, 1, 1, 2, 2]] and levels.dtype == torch.int64


def test_drawings_are_ranked_among_the_training_pictures_of_their_digit(monkeypatch):
    bars = torch.stack([box(t, 18) for t in (1, 2, 3, 4, 3, 4, 5, 6, 9)])[:, None]  # 9 validates
    digits = torch.tensor([0, 0, 0, 0, 7, 7, 7, 7])
    monkeypatch.setattr(strokes, "load_splits", lambda: {"train": (bars[:8, 0], digits)})
    monkeypatch.setattr(strokes, "load_strokes", lambda: measure_strokes(bars))
    reference = Reference()
    assert reference.measures.shape == (8, 4) and torch.equal(reference.digits, digits)
    ranks = reference.rank(bars[[2, 2, 8]], torch.tensor([0, 7, 7]))
    for column in (0, 2, 3):  # thickness, width and size, while all are upright
        assert ranks[:, column].tolist() == [0.625, 0.125, 1]
