"""Nine files of one landscape, stored in every EXIF orientation, must embed alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import bowerbird as bb


def test_every_orientation_embeds_alike(shared_data: Path) -> None:
    files = sorted((shared_data / "exif").glob("Landscape_*.jpg"))
    assert len(files) == 9
    model = bb.load("mini", precision="exact")
    upright = [np.array(model.image.open(path).image) for path in files]
    for pixels in upright:
        # Each file shows the number of its orientation in the middle; but for it, they are one picture.
        pixels[480:700, 830:970] = 128
    for output in ("image_embeds", "features"):
        vectors = model.embed(upright, output=output)
        assert (vectors @ vectors.T).min() >= 0.99, output


def test_with_their_numbers_they_are_still_closer_than_with_exif_ignored(shared_data: Path) -> None:
    files = sorted((shared_data / "exif").glob("Landscape_*.jpg"))
    model = bb.load("mini", precision="exact")
    vectors = model.embed(files)
    ignored = model.embed([np.array(Image.open(path).convert("RGB")) for path in files])
    assert (vectors @ vectors.T).min() > 0.95
    assert (ignored @ ignored.T).min() < 0.5
