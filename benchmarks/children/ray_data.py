"""Peer: pictures embedded by Ray Data, written by hand: paths, and two actors that read, decode and run the network."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from answering import answer

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray
import ray.data

PARCEL = 32
"""Paths that an actor gets at once, so that what a task of Ray Data costs is spread over as many pictures."""
BATCH = 8

actors: dict[str, Callable[..., Any]] = {}
arguments: dict[str, list[Any]] = {}


class Session:
    """Pillow and ONNX Runtime, as in `plain_loop.py`; written out, since Ray sends this file to its workers."""

    def __init__(self, graph: str, output: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # an actor has one processor
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.output = output
        self.input = self.session.get_inputs()[0].name

    def prepare(self, path: str) -> np.ndarray:
        """Short side 256 bicubic, centre 224, (x - 127) / 128."""
        from PIL import Image, ImageOps

        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        width, height = image.size
        short = min(width, height)
        image = image.resize((256 * width // short, 256 * height // short), Image.Resampling.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
        return ((pixels - 127) / 128).transpose(2, 0, 1)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Embed a parcel."""
        rows = []
        for first in range(0, len(batch["path"]), BATCH):
            pixels = np.stack([self.prepare(path) for path in batch["path"][first : first + BATCH]])
            rows.append(self.session.run([self.output], {self.input: pixels})[0])
        vectors = np.concatenate(rows)
        return {"path": batch["path"], "vector": vectors / np.linalg.norm(vectors, axis=1, keepdims=True)}


class Model:
    """The same actor around `bowerbird.load`, which leaves the cost of the pipeline alone as the difference."""

    def __init__(self) -> None:
        import bowerbird as bb

        self.model = bb.load("mini", threads=1)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Embed a parcel."""
        from pathlib import Path

        return {"path": batch["path"], "vector": self.model.embed([Path(path) for path in batch["path"]])}


def load(graph: str, output_name: str, address: str) -> dict[str, Any]:
    """Join a cluster."""
    warnings.simplefilter("ignore")
    ray.init(address, log_to_driver=False, logging_level="error")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    actors.update(session=Session, model=Model)
    arguments.update(session=[graph, output_name], model=[])
    import onnxruntime as ort
    import PIL

    return {"versions": f"ray {ray.__version__}, onnxruntime {ort.__version__}, pillow {PIL.__version__}"}


def embed(paths: list[str], workers: int, actor: str, save: str = "") -> dict[str, Any]:
    """Embed files; says when how many of them had come back."""
    started = time.perf_counter()
    dataset = ray.data.from_items([{"path": path} for path in paths]).map_batches(
        actors[actor],
        fn_constructor_args=arguments[actor],
        batch_size=PARCEL,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    arrived: list[float] = []
    vectors: dict[str, np.ndarray] = {}
    for batch in dataset.iter_batches(batch_size=None):
        arrived.extend([time.perf_counter() - started] * len(batch["path"]))
        vectors.update(zip(batch["path"], batch["vector"], strict=True))
    rows = np.stack([vectors[path] for path in paths])  # they come as they are ready
    if save:
        np.save(save, rows)
    return {"arrived": arrived}


answer({"load": load, "embed": embed})
