"""Peer: fastembed by its custom-model route, on ONNX Runtime, with a local directory of the same weights."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

# This file is named after the package it imports.
sys.path.remove(str(Path(__file__).parent))
import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

sys.path.append(str(Path(__file__).parent))
from answering import answer

NAME = "local/all-MiniLM-L6-v2"

model: Any = None
texts: list[str] = []


def load(path: str, directory: str) -> dict[str, Any]:
    """Read the texts at `path` and load the model of `directory`, which holds model.onnx and a tokeniser."""
    global model, texts  # noqa: PLW0603
    texts = json.loads(Path(path).read_text("utf-8"))
    TextEmbedding.add_custom_model(
        model=NAME,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=NAME),
        dim=384,
        model_file="model.onnx",
    )
    model = TextEmbedding(NAME, specific_model_path=directory, local_files_only=True)
    return {"versions": f"fastembed {version('fastembed')}, onnxruntime {version('onnxruntime')}"}


def embed(save: str = "") -> dict[str, Any]:
    """Embed all texts with the defaults, as its documentation shows."""
    started = time.perf_counter()
    vectors = np.stack(list(model.embed(texts)))
    seconds = time.perf_counter() - started
    if save:
        np.save(save, vectors)
    return {"seconds": seconds}


answer({"load": load, "embed": embed})
