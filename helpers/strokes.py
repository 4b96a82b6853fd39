"""How a digit is drawn, measured on the picture: thickness, slant, width, height (notebook 11).

The definitions are those of Morpho-MNIST (Castro et al., 2019).
"""

import contextlib
import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize
from tqdm.auto import tqdm

from helpers.files import write_whole
from helpers.mnist import DATA, load_mnist, to_float

ATTRIBUTES = ("thickness", "slant", "width", "height")
SCALE = 4  # how far a picture is enlarged before its skeleton is sought
LEFT_OUT = 0.02  # share of the ink outside the box, half of it on either side


def enlarge(pictures):
    """Enlarge pictures (n, 1, 28, 28) four times, with a rim of paper: (n, 114, 114)."""
    big = F.interpolate(pictures, scale_factor=SCALE, mode="bicubic", align_corners=False)
    return F.pad(big.clamp(0, 1)[:, 0], (1, 1, 1, 1))


def measure_thickness(picture):
    """Measure one enlarged picture (114, 114): twice the mean reach along the skeleton, in pixels.

    The skeleton is the middle line of the ink, and the reach of a point is its distance to the
    nearest paper. The unit is the pixel of the small picture.
    """
    ink = (picture > picture.max() / 2).numpy()
    if not ink.any():
        return 0.0
    reach = distance_transform_edt(ink)
    return 2 * reach[skeletonize(ink)].mean().item() / SCALE


def measure_slant(pictures):
    """Measure the shear of pictures (n, 28, 28) from their moments: (n,) degrees, + is right.

    The covariance of row and column over the variance of the row is how far the ink moves to the
    side on its way down.
    """
    ink = pictures / pictures.sum((1, 2), keepdim=True).clamp(min=1e-9)
    rows, columns = torch.arange(28.0)[:, None], torch.arange(28.0)
    row, column = (ink * rows).sum((1, 2)), (ink * columns).sum((1, 2))
    covariance = (ink * rows * columns).sum((1, 2)) - row * column
    variance = (ink * rows**2).sum((1, 2)) - row**2
    return torch.atan(-covariance / variance.clamp(min=1e-9)).rad2deg()


def extent(places, pictures):
    """Find how far the ink reaches along one direction, without the outermost specks.

    Args:
        places: float32 tensor (n, 28, 28), where each pixel lies along that direction.
        pictures: float32 tensor (n, 28, 28).

    Returns:
        (n,) pixels; one hundredth of the ink is left out at either end, and 0 is no ink at all.
    """
    places, order = places.flatten(1).sort(dim=1)
    ink = pictures.flatten(1).gather(1, order).cumsum(1)
    ends = ink[:, -1:] * torch.tensor([LEFT_OUT / 2, 1 - LEFT_OUT / 2])
    at = torch.searchsorted(ink, ends).clamp(max=ink.shape[1] - 1)
    low, high = places.gather(1, at).unbind(1)
    return (high - low + 1) * (ink[:, -1] > 0)


def measure_box(pictures, slant):
    """Measure the box around the ink that leans as the digit does: width and height in pixels.

    Args:
        pictures: float32 tensor (n, 28, 28).
        slant: (n,) degrees, so that a leaning digit is not taken for a wide one.

    Returns:
        width and height, (n,) each.
    """
    rows = torch.arange(28.0)[:, None].expand(28, 28)
    columns = torch.arange(28.0).expand(28, 28)
    straight = columns + (slant.deg2rad().tan()[:, None, None] * (rows - 13.5))
    return extent(straight, pictures), extent(rows.expand_as(pictures), pictures)


def measure_strokes(pictures):
    """Measure how digits are drawn (Castro et al., 2019), about 0.6 ms a picture.

    Args:
        pictures: float32 tensor (n, 1, 28, 28) with values in [0, 1], real or drawn.

    Returns:
        float32 tensor (n, 4), see `ATTRIBUTES`: thickness in pixels, slant in degrees (positive
        leans right), width and height in pixels. A picture without ink measures 0 throughout.

    Raises:
        ValueError: the tensor has another shape.
    """
    if pictures.dim() != 4 or pictures.shape[1:] != (1, 28, 28):
        raise ValueError(
            f"Pictures have shape (n, 1, 28, 28), not {tuple(pictures.shape)}: reshape them."
        )
    thickness = []
    for part in tqdm(pictures.split(500), "measuring", disable=len(pictures) < 5000, leave=False):
        thickness += [measure_thickness(picture) for picture in enlarge(part)]
    slant = measure_slant(pictures[:, 0])
    return torch.stack([torch.tensor(thickness), slant, *measure_box(pictures[:, 0], slant)], 1)


def measure_styles(strokes):
    """Turn measures (n, 4) into what words name: thickness, slant, width, size, (n, 4).

    The size is the side of a square as large as the box, in pixels. The height alone says little:
    MNIST is scaled so that most digits are 20 pixels high.
    """
    return torch.cat([strokes[:, :3], (strokes[:, 2:3] * strokes[:, 3:]).sqrt()], dim=1)


def load_strokes(train=True, data=DATA):
    """Measure all of MNIST once; keep the measures in `data/unpacked/`, which git ignores.

    Args:
        train: True for the 60,000 training pictures, False for the 10,000 test pictures.
        data: see `load_mnist`.

    Returns:
        float32 tensor (60000 or 10000, 4), see `measure_strokes`.
    """
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]  # of these very lines
    path = Path(data) / "unpacked" / f"strokes-{'train' if train else 'test'}-{recipe}.safetensors"
    try:
        return load(path.read_bytes())["strokes"]
    except (OSError, SafetensorError, KeyError):  # not there yet, or damaged: measure anew
        images, _ = load_mnist(train, data)
        strokes = measure_strokes(to_float(images))
        with contextlib.suppress(OSError):  # read-only or full: they are measured at every call
            write_whole(path, save({"strokes": strokes}))
        return strokes
