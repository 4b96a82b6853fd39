"""Strokes: bars and boxes of known measures, real digits made thinner and thicker, the cache."""

import math
import time

import pytest
import torch
import torch.nn.functional as F
from skimage.morphology import medial_axis
from skimage.transform import rescale

from helpers import strokes
from helpers.mnist import load_mnist, to_float
from helpers.strokes import (
    ATTRIBUTES,
    enlarge,
    load_strokes,
    measure_slant,
    measure_strokes,
    measure_styles,
)

THICKNESSES = (1, 2, 3, 4, 6)


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
    """Measure pictures (28, 28): a dict from attribute to a tensor (n,)."""
    return dict(zip(ATTRIBUTES, measure_strokes(torch.stack(pictures)[:, None]).T, strict=True))


@pytest.mark.parametrize("turn", [False, True])
def test_thickness_of_bars(turn):
    bars = [box(t, 18) for t in THICKNESSES]
    found = measure(*(b.T for b in bars) if turn else bars)["thickness"]
    known = torch.tensor(THICKNESSES, dtype=torch.float)
    assert found.tolist() == pytest.approx(known.tolist(), abs=0.01)


def test_enlarging_leaves_ink_and_paper_as_they_are():
    """Without the clamp the bicubic filter makes edges blacker than ink and paper below zero."""
    bars = torch.stack([box(2, 18), box(28, 28), box(0, 0)])[:, None]
    big = enlarge(bars)
    assert big.shape == (3, 114, 114) and big.min() == 0 and big.max() == 1
    rim = torch.ones(114, 114, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    assert not big[:, rim].any(), "paper all around, whatever touches the border"
    assert (big[1, 1:-1, 1:-1] == 1).all() and not big[2].any()


def test_ink_up_to_the_border_has_a_measure():
    """A picture that is all ink has no paper but the rim; a line may lie along the border."""
    full, line = torch.ones(28, 28), box(28, 3)
    found = measure(full, 0.3 * full, line, line.roll(13, 0))
    assert all(values.isfinite().all() for values in found.values())
    assert found["thickness"].tolist() == pytest.approx([28, 28, 3, 3], abs=0.3)
    assert found["width"].tolist() == pytest.approx([28] * 4, abs=0.1)
    assert found["height"].tolist() == pytest.approx([28, 28, 3, 3], abs=0.1)
    assert found["slant"].tolist() == pytest.approx([0] * 4, abs=0.1)


def test_paler_ink_is_about_as_thick(real):
    """The edge is half of the darkest ink; enlarged grey is not clamped, which costs a little."""
    black, *greys = (measure_strokes(share * real[:40])[:, 0] for share in (1.0, 0.9, 0.5))
    for grey in greys:
        assert (grey - black).abs().max() < 0.5 and (grey - black).abs().mean() < 0.25
        assert torch.corrcoef(torch.stack([grey, black]))[0, 1] > 0.97


def test_thickness_of_leaning_bars():
    """The thickness of a line is measured across it, so a leaning bar is thinner than its rows."""
    for degrees in (-30, 0, 30):
        found = measure(bar(degrees, 4.0))["thickness"].item()
        assert found == pytest.approx(4 * math.cos(math.radians(degrees)), abs=0.6)


@pytest.mark.parametrize("degrees", [-40, -25, -10, 0, 5, 20, 35])
def test_slant_of_bars(degrees):
    """Leaning right is positive."""
    assert measure(bar(degrees))["slant"].item() == pytest.approx(degrees, abs=2)


def test_slant_of_mirrored_digits(real):
    slant = measure_slant(real[:, 0])
    assert torch.allclose(measure_slant(real[:, 0].flip(2)), -slant, atol=0.01)
    assert torch.allclose(measure_slant(real[:, 0].flip(1)), -slant, atol=0.01)
    assert slant.mean() > 0, "people lean to the right"


@pytest.mark.parametrize("size", [(4, 20), (10, 10), (20, 4), (3, 3), (1, 1), (6, 17)])
def test_width_and_height_of_boxes(size):
    found = measure(box(*size))
    assert found["width"].item() == pytest.approx(size[0], abs=0.1)
    assert found["height"].item() == pytest.approx(size[1], abs=0.1)


def test_leaning_does_not_widen_the_box():
    found = measure(*(bar(d) for d in (-40, -20, 0, 20, 40)))
    assert found["width"].max() - found["width"].min() < 1.6
    assert found["height"].tolist() == pytest.approx([20] * 5, abs=0.1)
    across = 20 * math.tan(math.radians(40))
    assert found["width"].max() < across / 2, "as wide as the bar, not as what it spans"


def test_a_speck_does_not_widen_the_box():
    clean, specked = box(6, 20), box(6, 20)
    specked[14, 27] = 0.5
    assert measure(specked)["width"].item() == pytest.approx(measure(clean)["width"].item(), abs=1)


def test_moving_a_digit_changes_nothing():
    here, there = F.pad(box(5, 12), (3, 3, 3, 3))[:28, :28], box(5, 12)
    found = measure(here, there)
    for name in ATTRIBUTES:
        assert found[name][0].item() == pytest.approx(found[name][1].item(), abs=0.01), name


def test_nothing_measures_nothing():
    found = measure_strokes(torch.zeros(2, 1, 28, 28))
    assert found.shape == (2, 4) and (found == 0).all()
    mixed = measure_strokes(torch.stack([torch.zeros(28, 28), box(4, 10)])[:, None])
    assert (mixed[0] == 0).all() and mixed[1, 0] > 3


@pytest.mark.parametrize("shape", [(28, 28), (2, 28, 28), (2, 28, 28, 1), (2, 3, 28, 28), (784,)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"^Pictures have shape \(n, 1, 28, 28\), not .*\.$") as e:
        measure_strokes(torch.zeros(shape))
    assert str(shape) in str(e.value)


def test_pictures_are_measured_one_by_one_and_left_alone(real):
    before = real[:9].clone()
    together = measure_strokes(real[:9])
    assert torch.equal(real[:9], before) and together.dtype == torch.float32
    alone = torch.cat([measure_strokes(picture[None]) for picture in real[:9]])
    assert torch.allclose(together, alone, atol=1e-3)


def test_thinner_and_thicker_digits_are_ranked(real):
    thin, thick = -F.max_pool2d(-real[:60], 3, 1, 1), F.max_pool2d(real[:60], 3, 1, 1)
    low, middle, high = (measure_strokes(p)[:, 0] for p in (thin, real[:60], thick))
    assert (low < middle).float().mean() > 0.95 and (middle < high).all()


def test_thickness_agrees_with_the_medial_axis(real):
    """Another skeleton, another enlargement."""
    independent = []
    for picture in real[:30, 0].numpy():
        big = rescale(picture, 4, order=1)
        axis, reach = medial_axis(big > big.max() / 2, return_distance=True)
        independent.append(reach[axis].mean() / 2)
    both = torch.stack([torch.tensor(independent).float(), measure_strokes(real[:30])[:, 0]])
    assert torch.corrcoef(both)[0, 1] > 0.95
    assert (both[0] - both[1]).abs().mean() < 0.5


def test_sixty_thousand_take_less_than_two_minutes(real):
    """0.6 ms a picture on a quiet machine; the best of three tries here."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        measure_strokes(real)
        times.append((time.perf_counter() - start) / len(real))
    assert min(times) < 0.002, times


def test_the_size_is_the_side_of_a_square_as_large():
    found = measure_styles(torch.tensor([[2.0, -5.0, 4.0, 16.0], [0.0, 0.0, 0.0, 0.0]]))
    assert found.tolist() == [[2.0, -5.0, 4.0, 8.0], [0.0, 0.0, 0.0, 0.0]]


# the cache


@pytest.fixture(name="tiny")
def fixture_tiny(tmp_path, monkeypatch, real):
    """A data folder of seven test pictures and five training pictures; what was measured."""
    measured = []

    def load(train, data):
        assert data == tmp_path
        (tmp_path / "unpacked").mkdir(exist_ok=True)
        images = (real[: 5 if train else 7, 0] * 255).round().to(torch.uint8)
        return images, torch.zeros(len(images), dtype=torch.long)

    def counted(pictures):
        measured.append(len(pictures))
        return measure_strokes(pictures)

    monkeypatch.setattr(strokes, "load_mnist", load)
    monkeypatch.setattr(strokes, "measure_strokes", counted)
    return tmp_path, measured


def test_measured_once(tiny, real):
    folder, measured = tiny
    found = load_strokes(train=False, data=folder)
    assert torch.allclose(found, measure_strokes(real[:7]), atol=1e-4) and measured == [7]
    assert torch.equal(load_strokes(train=False, data=folder), found) and measured == [7]
    assert load_strokes(train=True, data=folder).shape == (5, 4)
    assert measured == [7, 5]
    assert torch.equal(load_strokes(train=False, data=folder), found) and measured == [7, 5]


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_cache_is_measured_anew(tiny, damage):
    folder, measured = tiny
    found = load_strokes(train=False, data=folder)
    (path,) = (folder / "unpacked").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] if damage is None else damage)
    assert torch.equal(load_strokes(train=False, data=folder), found)
    assert measured == [7, 7] and path.read_bytes() == whole


def test_measures_of_other_lines_are_not_taken(tiny, monkeypatch, tmp_path):
    """The cache is named after the code that measured."""
    folder, measured = tiny
    load_strokes(train=False, data=folder)
    changed = tmp_path / "strokes.py"
    changed.write_bytes(b"# measures otherwise\n")
    monkeypatch.setattr(strokes, "__file__", str(changed))
    load_strokes(train=False, data=folder)
    assert measured == [7, 7]
