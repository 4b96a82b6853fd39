"""Pictures and captions of one's own: from a folder to a checkpoint that knows its words."""

import pytest
import torch
from PIL import Image, ImageDraw

from helpers import checkpoints
from helpers.__main__ import main
from helpers.checkpoints import known_checkpoints, save_checkpoint
from helpers.generator import TextToImage
from helpers.mnist import read_pictures
from helpers.models import ConvCVAE
from helpers.text import sentence_encoder
from helpers.training import pair_batches, train_cvae


def draw_bar(path, size, upright, ink, paper, mode="RGB"):
    image = Image.new(mode, size, paper)
    w, h = size
    wide, high = (0.05, 0.4) if upright else (0.4, 0.05)
    box = w * (0.5 - wide), h * (0.5 - high), w * (0.5 + wide), h * (0.5 + high)
    ImageDraw.Draw(image).rectangle(box, fill=ink)
    path.parent.mkdir(exist_ok=True)
    image.save(path)


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
    """Bars of every size and kind of image, in folders that are named after them."""
    sizes = (28, 28), (200, 200), (31, 90), (120, 90), (500, 400)
    for k in range(60):
        size, upright = sizes[k % 5], k % 2 == 0
        kinds = ("black", "white"), ("white", "black"), ("navy", "beige")
        place = tmp_path / "bars" / ("tower" if upright else "horizon") / f"{k:02}.png"
        place.parent.parent.mkdir(exist_ok=True)
        if k % 4 == 3:  # ink on nothing
            draw_bar(place, size, upright, (0, 0, 0, 255), (0, 0, 0, 0), "RGBA")
        else:
            draw_bar(place, size, upright, *kinds[k % 3])
    (tmp_path / "bars" / "notes.txt").write_text("no image")
    return tmp_path / "bars"


def test_images_of_any_kind_become_ink_on_paper(folder):
    pictures, paths = read_pictures(folder)
    assert pictures.shape == (60, 1, 28, 28) and len(paths) == 60 and paths == sorted(paths)
    assert 0 <= pictures.min() and pictures.max() <= 1
    for picture, path in zip(pictures[:, 0], paths, strict=True):
        down, across = picture.sum(1).max(), picture.sum(0).max()
        assert (across > 2 * down) == (path.parent.name == "tower"), path
        assert picture.mean() < 0.35, "ink is bright, whatever it was"
    (folder / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image: remove it"):
        read_pictures(folder)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"There is no image in .*: give a folder of PNG or JPEG"):
        read_pictures(folder / "empty")


def test_a_model_of_ones_own_draws_and_knows_its_words(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", tmp_path / "checkpoints")
    pictures, paths = read_pictures(folder)
    frames = "a {}", "draw a {}", "please, one {}", "a {} in the evening"
    captions = [frames[k % 4].format(path.parent.name) for k, path in enumerate(paths)]
    vectors = sentence_encoder().encode(captions)
    torch.manual_seed(0)
    model = ConvCVAE(latent=4, classes=2)
    model.head.fit_scale(vectors)
    model, _ = train_cvae(
        model, lambda g: pair_batches(pictures, vectors, 20, g), epochs=50, steps=3, rate=3e-3
    )
    facts = {"arguments": {"latent": 4, "classes": 2}, "captions": captions}
    path = save_checkpoint("mine/bars", model, facts)
    assert path == tmp_path / "checkpoints" / "mine" / "bars.safetensors"
    assert known_checkpoints() == ["mine/bars"]
    own = TextToImage.load("mine/bars", "cpu")
    assert own.name == "mine/bars" and set(own.examples) <= set(captions) == set(own.texts)
    asked = own.draw(["a tower please", "show me a horizon"], n=20)[:, 0]
    upright = asked.sum(1).amax(1) > asked.sum(2).amax(1)
    assert upright[:20].float().mean() > 0.9 and upright[20:].float().mean() < 0.1
    for known in ("a tower", "a horizon", "draw me one tower", "a thick tower"):
        assert own.understands(known).score > 0.5 and not own.doubt(known), known
    for foreign in ("draw a cat", "a seven", "the price of milk", "my grandmother's bicycle"):
        assert own.understands(foreign).score < 0.5, foreign
        assert own.doubt(foreign).startswith("This does not read like what I learned; the nearest")
    command = ["draw", "a tower", "--checkpoint", "mine/bars", "--out", str(tmp_path / "out")]
    assert main([*command, "--no-preview"]) == 0
    assert Image.open(capsys.readouterr().out.strip()).text["checkpoint"] == "mine/bars"


def test_one_caption_for_all_is_enough(tmp_path):
    """No classes at all: the spread of the embeddings is nothing then."""
    pictures, captions = torch.rand(40, 1, 28, 28), ["a cloud"] * 40
    vectors = sentence_encoder().encode(captions)
    model = ConvCVAE(latent=2)
    model.head.fit_scale(vectors)
    model, _ = train_cvae(model, lambda g: pair_batches(pictures, vectors, 20, g), 1, steps=2)
    save_checkpoint(tmp_path / "clouds", model, {"arguments": {"latent": 2}, "captions": captions})
    own = TextToImage.load(tmp_path / "clouds", "cpu")
    assert own.draw("a cloud").isfinite().all() and own.understands("a cloud").score > 0.5
    assert own.doubt("the price of milk") and own.doubt("a seven") and not own.doubt("draw a cloud")
