"""The pictures that the benchmarks read: real photographs, made larger or varied, the same each time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.side_by_side import DATA, SHARED

DEMO = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "retina")


def clothing() -> list[Path]:
    """The clothing photographs, about 400 x 533; empty where they are absent."""
    return sorted((SHARED / "clothing").glob("*/*/*.jpg"))


def originals() -> list[Image.Image]:
    """A few dozen photographs to vary: clothing where present, else those in scikit-image's wheel."""
    files = clothing()
    if files:
        return [Image.open(path).convert("RGB") for path in files[:: max(1, len(files) // 64)]]
    import skimage.data

    return [Image.fromarray(getattr(skimage.data, name)()[..., :3]) for name in DEMO]


def medium(count: int) -> list[Path]:
    """`count` photographs of about 500 px: clothing as it is, or varied crops in its place."""
    files = clothing()
    if files:
        rng = np.random.default_rng(5)
        return [files[row] for row in rng.permutation(len(files))[:count]]
    return _filled(DATA / "500px", _varied(count, side=533, quality=90), count)


def large(count: int) -> list[Path]:
    """`count` photographs of 12 MP as a camera writes them: 4000 x 3000, 4:2:0, quality 90.

    Photographs are enlarged, and fine detail and grain are added at the full resolution, since an enlarged
    picture alone would be smoother than what a camera sees, and decode too fast.
    """
    return _filled(DATA / "12mp", _large(count), count)


def many(count: int) -> list[Path]:
    """`count` varied copies of about 400 px and 30 kB: random crops, brightness and mirroring."""
    return _filled(DATA / f"many-{count}", _varied(count, side=400, quality=85), count)


def _filled(folder: Path, pictures: Iterator[bytes], count: int) -> list[Path]:
    paths = [folder / f"{number // 1000:03d}" / f"{number:06d}.jpg" for number in range(count)]
    if not paths[-1].exists():
        print(f"Making {count} pictures in {folder} ...", file=sys.stderr, flush=True)
        for path, data in zip(paths, pictures, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return paths


def _jpeg(image: Image.Image, quality: int) -> bytes:
    import io

    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return stream.getvalue()


def _crop(image: Image.Image, share: float, aspect: float, rng: np.random.Generator) -> Image.Image:
    """A random crop that takes `share` of the shorter side."""
    width, height = image.size
    if width < height:
        aspect = 1 / aspect
    wide = min(width, height * aspect) * share
    box_width, box_height = int(wide), int(wide / aspect)
    left, top = int(rng.integers(0, width - box_width + 1)), int(rng.integers(0, height - box_height + 1))
    return image.crop((left, top, left + box_width, top + box_height))


def _varied(count: int, side: int, quality: int) -> Iterator[bytes]:
    rng = np.random.default_rng(11)
    sources = originals()
    for number in range(count):
        image = _crop(sources[number % len(sources)], rng.uniform(0.5, 1.0), rng.uniform(0.8, 1.4), rng)
        scale = side / max(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32) * rng.uniform(0.7, 1.25)
        # A little coarse grain, so that a file is about as large as a photograph of its size.
        pixels += rng.normal(0, 5, pixels.shape[:2])[..., None]
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        yield _jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), quality)


def _large(count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(3)
    sources = originals()
    width, height = 4000, 3000
    for number in range(count):
        image = sources[number * len(sources) // count]
        image = _crop(image, 1.0, 4 / 3, rng).resize((width, height), Image.Resampling.LANCZOS)
        pixels = np.asarray(image, np.float32)
        # True detail: a mosaic of other photographs at their own resolution, high-passed, laid over at 0.4.
        pixels = pixels + 0.4 * _detail(sources, width, height, rng)[..., None]
        pixels += rng.normal(0, 4.5, (height, width, 1)).astype(np.float32)
        yield _jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), 90)


def _detail(sources: list[Image.Image], width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    tile = 300
    out = np.zeros((height, width), np.float32)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            image = sources[int(rng.integers(len(sources)))]
            corner = [int(rng.integers(0, max(1, side - tile + 1))) for side in image.size]
            part = image.convert("L").crop((*corner, corner[0] + tile, corner[1] + tile))
            smooth = part.resize((tile // 8, tile // 8), Image.Resampling.BOX).resize((tile, tile))
            fine = np.asarray(part, np.float32) - np.asarray(smooth, np.float32)
            stop = (min(height, top + tile), min(width, left + tile))
            out[top : stop[0], left : stop[1]] = fine[: stop[0] - top, : stop[1] - left]
    return out
