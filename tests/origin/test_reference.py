"""References of the user's own pictures and texts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bowerbird.errors import BowerbirdError, UnsupportedInputError
from bowerbird.judge.golden import Golden
from bowerbird.origin.export import make_golden

pytest.importorskip("torch", reason="the extra `export` is not installed")
pytest.importorskip("transformers", reason="the extra `export` is not installed")


def _png(path, mode, colour, size=(90, 70)):
    Image.new(mode, size, colour).save(path)
    return path


def test_pictures_and_texts_of_ones_own(built, tmp_path, photographs):
    golden, failures = make_golden(
        str(built("clip")), [photographs["chelsea"]], [("a cat", ""), ("Ein rotes Kleid", "")]
    )
    assert not failures
    golden.write(tmp_path / "ref.npz")
    again = Golden.read(tmp_path / "ref.npz")
    (cat,) = again.pictures
    assert cat.name == "chelsea.jpg"
    assert cat.pixel_values.shape == (3, 48, 48)
    with Image.open(photographs["chelsea"]) as image:
        np.testing.assert_array_equal(cat.decoded, np.asarray(image.convert("RGB")))
    np.testing.assert_allclose(np.linalg.norm(cat.unit), 1, atol=1e-6)
    np.testing.assert_allclose(cat.pooled / np.linalg.norm(cat.pooled), cat.unit, atol=1e-6)
    assert [text.text for text in again.texts] == ["a cat", "Ein rotes Kleid"]
    assert again.meta["model"] == "clip"
    assert again.meta["profile"] == "hf4-pil"
    assert {"torch", "transformers"} <= set(again.made_with)


def test_decoded_is_upright_and_on_white(built, tmp_path):
    """What every stack is handed is decoded as bowerbird decodes: turned by EXIF, transparency on white."""
    clear = _png(tmp_path / "clear.png", "RGBA", (200, 10, 10, 0))
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 70), (20, 200, 20)).save(turned, exif=exif)
    golden, _ = make_golden(str(built("vit")), [clear, turned], [])
    assert (golden.pictures[0].decoded == 255).all()
    assert golden.pictures[1].decoded.shape == (90, 70, 3)


def test_broken_pictures_are_named_and_left_out(built, tmp_path):
    good = _png(tmp_path / "good.png", "RGB", (9, 80, 200))
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:60])
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    golden, failures = make_golden(str(built("vit")), [cut, good, text, tmp_path / "absent.png"], [])
    assert [picture.name for picture in golden.pictures] == ["good.png"]
    assert [failure.name for failure in failures] == [str(cut), str(text), str(tmp_path / "absent.png")]
    assert all(failure.name in failure.error.message for failure in failures)
    with pytest.raises(BowerbirdError, match="2 of 2 pictures failed"):
        make_golden(str(built("vit")), [cut, text], [])


def test_inputs_that_the_model_does_not_take(built, tmp_path):
    good = _png(tmp_path / "good.png", "RGB", (9, 80, 200))
    with pytest.raises(UnsupportedInputError, match="does not take texts"):
        make_golden(str(built("vit")), [good], [("a cat", "")])
    with pytest.raises(UnsupportedInputError, match="does not take pictures"):
        make_golden(str(built("bert")), [good], [])


def test_pixel_values_are_the_stacks_own(built, tmp_path):
    """A picture of one colour: the arithmetic of mean and standard deviation can be done by hand."""
    path = _png(tmp_path / "one.png", "RGB", (255, 0, 51))
    golden, _ = make_golden(str(built("vit")), [path], [])
    values = golden.pictures[0].pixel_values
    np.testing.assert_allclose(values[:, 0, 0], [1, -1, (51 / 255 - 0.5) / 0.5], atol=1e-6)
    assert values.shape == (3, 48, 48)
    stream = io.BytesIO(path.read_bytes())
    with Image.open(stream) as image:
        assert golden.pictures[0].decoded.shape == (*image.size[::-1], 3)


def test_siglip_texts_are_padded_as_in_training(built):
    golden, _ = make_golden(str(built("siglip2")), [], [("A CAT", ""), ("a cat", "")])
    upper, lower = golden.texts
    assert len(upper.input_ids) == 64
    np.testing.assert_array_equal(upper.input_ids, lower.input_ids)


def test_clip_texts_are_not_padded(built):
    golden, _ = make_golden(str(built("clip")), [], [("a cat", ""), ("a " * 60, "")])
    short, cut = golden.texts
    assert len(short.input_ids) < 20
    assert len(cut.input_ids) == 20
    assert cut.input_ids[-1] == short.input_ids[-1], "the end token is kept"


def test_an_absent_pooler_is_not_drawn_at_random(tmp_path):
    """Many checkpoints of ViT come without the pooler that the class would have: then the class token it is."""
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = ViTConfig(**sizes, image_size=48, patch_size=8)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}}'
    )
    picture = _png(tmp_path / "one.png", "RGB", (9, 80, 200))
    golden, _ = make_golden(str(tmp_path), [picture], [])
    np.testing.assert_array_equal(golden.pictures[0].pooled, golden.pictures[0].raw[0])
