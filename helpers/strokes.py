"""How a digit is drawn, measured: thickness, slant, width, height (12_say_how_to_draw_it).

The definitions are those of Morpho-MNIST (Castro et al., 2019).
"""

import contextlib
import hashlib

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize
from tqdm.auto import tqdm

from helpers import write_whole
from helpers.mnist import DATA, load_mnist, load_splits, to_float

ATTRIBUTES = ("thickness", "slant", "width", "height")
SCALE = 4  # how far a picture is enlarged before its skeleton is sought
LEFT_OUT = 0.02  # share of the ink outside the box, half of it on either side
EDGES = (0.12, 0.36, 0.64, 0.88)  # ranks at which one level ends and the next begins


def enlarge(pictures):
    """Enlarge pictures (n, 1, 28, 28) four times, with a rim of paper: (n, 114, 114)."""
    big = F.interpolate(pictures, scale_factor=SCALE, mode="bicubic", align_corners=False)
    return F.pad(big.clamp(0, 1)[:, 0], (1, 1, 1, 1))


def measure_thickness(picture):
    """Twice the mean reach along the skeleton of one enlarged picture (114, 114), in pixels."""
    ink = (picture > picture.max() / 2).numpy()
    if not ink.any():
        return 0.0
    reach = distance_transform_edt(ink)
    return 2 * reach[skeletonize(ink)].mean().item() / SCALE


def measure_slant(pictures):
    """Measure the slant of pictures (n, 28, 28): (n,) degrees, positive to the right."""
    ink = pictures / pictures.sum((1, 2), keepdim=True).clamp(min=1e-9)
    rows, columns = torch.arange(28.0)[:, None], torch.arange(28.0)
    row, column = (ink * rows).sum((1, 2)), (ink * columns).sum((1, 2))
    covariance = (ink * rows * columns).sum((1, 2)) - row * column
    variance = (ink * rows**2).sum((1, 2)) - row**2
    return torch.atan(-covariance / variance.clamp(min=1e-9)).rad2deg()


def extent(places, pictures):
    """How far ink (n, 28, 28) reaches along `places`, outermost specks left out: (n,) pixels."""
    places, order = places.flatten(1).sort(dim=1)
    ink = pictures.flatten(1).gather(1, order).cumsum(1)
    ends = ink[:, -1:] * torch.tensor([LEFT_OUT / 2, 1 - LEFT_OUT / 2])
    at = torch.searchsorted(ink, ends).clamp(max=ink.shape[1] - 1)
    low, high = places.gather(1, at).unbind(1)
    return (high - low + 1) * (ink[:, -1] > 0)


def measure_box(pictures, slant):
    """Width and height, (n,) pixels each, of a box around the ink that leans by `slant` (n,)."""
    rows = torch.arange(28.0)[:, None].expand(28, 28)
    columns = torch.arange(28.0).expand(28, 28)
    straight = columns + (slant.deg2rad().tan()[:, None, None] * (rows - 13.5))
    return extent(straight, pictures), extent(rows.expand_as(pictures), pictures)


def measure_strokes(pictures):
    """Measure the `ATTRIBUTES` of pictures (n, 1, 28, 28), about 0.6 ms each: (n, 4).

    Pixels, and for the slant degrees to the right; 0 without ink. ValueError for another shape.
    """
    if pictures.dim() != 4 or pictures.shape[1:] != (1, 28, 28):
        shape = tuple(pictures.shape)
        raise ValueError(f"Pictures have shape (n, 1, 28, 28), not {shape}: reshape them.")
    thickness = []
    for part in tqdm(pictures.split(500), "measuring", disable=len(pictures) < 5000, leave=False):
        thickness += [measure_thickness(picture) for picture in enlarge(part)]
    slant = measure_slant(pictures[:, 0])
    return torch.stack([torch.tensor(thickness), slant, *measure_box(pictures[:, 0], slant)], 1)


def measure_styles(strokes):
    """Turn measures (n, 4) into thickness, slant, width, and size: the root of the box's area."""
    return torch.cat([strokes[:, :3], (strokes[:, 2:3] * strokes[:, 3:]).sqrt()], dim=1)


def load_strokes(train=True):
    """Measure the 60,000 training or 10,000 test pictures of MNIST once: see `measure_strokes`.

    They are kept in `data/measured/`, which git ignores; when they are read, some of the pictures
    are measured anew, and if one of these differs, all are.
    """
    pictures = to_float(load_mnist(train)[0])
    path = DATA / "measured" / f"strokes-{'train' if train else 'test'}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError):  # not there yet, or damaged
        kept = load(path.read_bytes())
        whole = torch.equal(checksum(kept["strokes"]), kept["checksum"])
        if whole and torch.equal(kept["strokes"][::499], measure_strokes(pictures[::499])):
            return kept["strokes"]
    strokes = measure_strokes(pictures)
    with contextlib.suppress(OSError):  # read-only or full: they are measured at every call
        write_whole(path, save({"strokes": strokes, "checksum": checksum(strokes)}))
    return strokes


def checksum(tensor):
    """Hash a tensor's shape, type and values: uint8 (32,)."""
    content = f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes()
    return torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)


def rank_within_digit(measures, digits, reference, reference_digits):
    """Which share of the reference pictures of the same digit measures less: (n, k), 0 to 1."""
    ranks = torch.empty_like(measures)
    for digit in range(10):
        theirs = reference[reference_digits == digit].T.sort(dim=1).values.contiguous()
        ours = measures[digits == digit].T.contiguous()
        below = torch.searchsorted(theirs, ours) + torch.searchsorted(theirs, ours, right=True)
        ranks[digits == digit] = (below / 2 / theirs.shape[1]).T
    return ranks


def level_of(ranks):
    """Turn ranks from 0 to 1 into levels from -2 to 2, int64 of the same shape."""
    return torch.bucketize(ranks, torch.tensor(EDGES)) - 2


class Reference:
    """The real training pictures that drawings are ranked among: digits (n,), measures (n, 4)."""

    def __init__(self):
        _, self.digits = load_splits()["train"]
        self.measures = measure_styles(load_strokes()[: len(self.digits)])

    def rank(self, pictures, digits):
        """Measure pictures (n, 1, 28, 28) that should show digits (n,): ranks (n, 4)."""
        measures = measure_styles(measure_strokes(pictures))
        return rank_within_digit(measures, digits, self.measures, self.digits)
