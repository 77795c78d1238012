"""Pooling in PyTorch, which models are trained through, is the pooling that they are run with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.models.artifact import artifact
from bowerbird.models.text.sentence import (
    ACTIVATIONS,
    POOLINGS,
    Dense,
    LayerNorm,
    Normalize,
    load_modules,
    pool,
)
from bowerbird.origin.pooling import pooled

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="the extra `export` is not installed")


@given(
    how=st.lists(st.sampled_from(POOLINGS), min_size=1, max_size=3, unique=True),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    left=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_every_pooling_and_either_side(how, lengths, left, seed):
    width = max(lengths)
    mask = np.zeros((len(lengths), width), np.int64)
    for row, length in enumerate(lengths):
        mask[row, width - length :] = 1 if left else 0
        if not left:
            mask[row, :length] = 1
    hidden = np.random.default_rng(seed).normal(size=(len(lengths), width, 5)).astype(np.float32)
    found = pooled(how)(torch.from_numpy(hidden), {"attention_mask": torch.from_numpy(mask)})
    np.testing.assert_allclose(found.numpy(), pool(hidden, mask, how), atol=2e-6)


@pytest.mark.parametrize("residual", ["", "same", "projected"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_dense_layer(tmp_path, activation, residual):
    outputs = 6 if residual == "same" else 4
    weights = {"linear.weight": torch.randn(outputs, 6), "linear.bias": torch.randn(outputs)}
    if residual == "projected":
        weights["residual.weight"] = torch.randn(4, 6)
    path = tmp_path / "model.safetensors"
    safetensors.save_file(weights, path)
    norm = tmp_path / "norm.safetensors"
    safetensors.save_file({"norm.weight": torch.randn(outputs), "norm.bias": torch.randn(outputs)}, norm)
    chain = (
        Dense(path, artifact(path).sha256, 6, outputs, True, activation, bool(residual)),
        Normalize(),
        LayerNorm(norm, artifact(norm).sha256, outputs),
    )
    hidden = torch.randn(3, 2, 6, requires_grad=True)
    mask = torch.ones(3, 2, dtype=torch.int64)
    found = pooled(("mean",), chain)(hidden, {"attention_mask": mask})
    expected = load_modules(chain)(pool(hidden.detach().numpy(), mask.numpy(), "mean"))
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-4)
    found.sum().backward()
    assert hidden.grad is not None
