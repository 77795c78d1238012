"""Peer: the loop everyone writes first. Pillow decodes in full, ONNX Runtime runs in fp32, one after the other."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime as ort
import PIL
from answering import answer
from PIL import Image, ImageOps

session: Any = None
output = ""


def load(graph: str, output_name: str) -> dict[str, Any]:
    """Load the graph with ONNX Runtime's defaults."""
    global session, output  # noqa: PLW0603
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    output = output_name
    return {"versions": f"onnxruntime {ort.__version__}, pillow {PIL.__version__}"}


def prepare(path: str) -> np.ndarray:
    """Short side 256 bicubic, centre 224, (x - 127) / 128."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    width, height = image.size
    short = min(width, height)
    image = image.resize((256 * width // short, 256 * height // short), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    return ((pixels - 127) / 128).transpose(2, 0, 1)


def embed(paths: list[str], batch: int, save: str = "") -> dict[str, Any]:
    """Embed files in batches of `batch`."""
    started = time.perf_counter()
    rows = []
    name = session.get_inputs()[0].name
    for first in range(0, len(paths), batch):
        pixels = np.stack([prepare(path) for path in paths[first : first + batch]])
        rows.append(session.run([output], {name: pixels})[0])
    vectors = np.concatenate(rows)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    seconds = time.perf_counter() - started
    if save:
        np.save(save, vectors)
    return {"seconds": seconds}


answer({"load": load, "embed": embed})
