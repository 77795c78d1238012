"""Pooling, the modules behind it and shortening, as arithmetic and as files."""

from __future__ import annotations

import json
import math
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird.errors import BowerbirdError, ModelFormatError
from bowerbird.models.text.chain import read_chain
from bowerbird.models.text.sentence import POOLINGS, Normalize, load_modules, pool, shorten, unit
from bowerbird.models.text.weights import read_weights

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "text"


def save_weights(path: Path, tensors: dict[str, np.ndarray], kind: str = "F32") -> None:
    """A safetensors file, written by hand: BF16 has no type in NumPy."""
    header, body = {}, b""
    for name, array in tensors.items():
        data = array.astype("<f4").tobytes()
        if kind == "BF16":
            data = (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        elif kind != "F32":
            data = array.astype({"F16": "<f2", "F64": "<f8", "I64": "<i8"}[kind]).tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def chain_of(folder: Path, *modules: str, old: bool = True, **configs: dict) -> Path:
    """modules.json and the folders it names; `Dense=...` is the configuration of each module of that kind."""
    package = "sentence_transformers.models" if old else "sentence_transformers.base.modules.x"
    listed = [
        {"path": f"{number}_{kind}" if number else "", "type": f"{package}.{kind}"}
        for number, kind in enumerate(["Transformer", *modules])
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(listed), "utf-8")
    for module in listed[1:]:
        kind = module["type"].rsplit(".", 1)[-1]
        place = folder / module["path"]
        place.mkdir(exist_ok=True)
        if kind in configs:
            (place / "config.json").write_text(json.dumps(configs[kind]), "utf-8")
    return folder


MEAN = {"pooling_mode": "mean"}
DENSE = {
    "in_features": 3,
    "out_features": 2,
    "bias": True,
    "activation_function": "torch.nn.modules.linear.Identity",
}


def slowly(rows: np.ndarray, first: int, mode: str) -> np.ndarray:
    """One text's pooling, spelled out: `rows` are its tokens, of which those from `first` on count."""
    kept, places = rows[first:].astype(np.float64), np.arange(len(rows))[first:] + 1.0
    return {
        "cls": lambda: kept[0],
        "max": lambda: kept.max(0),
        "mean": lambda: kept.mean(0),
        "mean_sqrt_len_tokens": lambda: kept.sum(0) / math.sqrt(len(kept)),
        "weightedmean": lambda: (kept * places[:, None]).sum(0) / places.sum(),
        "lasttoken": lambda: kept[-1],
    }[mode]()


class TestPool:
    @settings(deadline=None)
    @given(
        lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
        left=st.booleans(),
        modes=st.lists(st.sampled_from(POOLINGS), min_size=1, max_size=3),
        prompt=st.integers(0, 3),
        extra=st.integers(0, 4),
        data=st.data(),
    )
    def test_case_06_against_the_definition(self, lengths, left, modes, prompt, extra, data):
        rng = np.random.default_rng(data.draw(st.integers(0, 999)))
        lengths = [length + prompt for length in lengths]  # something is left of every text
        width = max(lengths) + extra
        hidden = rng.normal(size=(len(lengths), width, 4)).astype(np.float32)
        mask = np.zeros((len(lengths), width), np.int64)
        for row, length in enumerate(lengths):
            mask[row, width - length :] = 1 if left else 0
            mask[row, :length] = mask[row, :length] if left else 1
        hidden[mask == 0] = np.nan if data.draw(st.booleans()) else 1e30  # padding is never touched
        pooled = pool(hidden, mask, modes, prompt)
        assert pooled.dtype == np.float32
        for row in range(len(lengths)):
            rows = hidden[row][mask[row] == 1]
            wanted = np.concatenate([slowly(rows, prompt, mode) for mode in modes])
            assert np.allclose(pooled[row], wanted, atol=1e-5)

    @pytest.mark.parametrize("mode", POOLINGS)
    def test_sums_are_wider_than_half_precision(self, mode):
        hidden = np.full((1, 3000, 2), 30, np.float16)
        pooled = pool(hidden, np.ones((1, 3000), np.int64), mode)
        assert np.isfinite(pooled).all()
        assert pooled[0, 0] == pytest.approx(30 * (math.sqrt(3000) if "sqrt" in mode else 1), rel=1e-5)

    def test_without_pooling_the_tokens_come_back(self):
        hidden = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
        assert np.array_equal(pool(hidden, np.ones((1, 3), np.int64), ()), hidden)

    @pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
    def test_a_text_that_is_all_prompt_is_zero_and_not_a_nan(self, mode):
        hidden = np.ones((1, 3, 4), np.float32)
        assert not pool(hidden, np.ones((1, 3), np.int64), mode, prompt=3).any()

    def test_an_unknown_mode(self):
        with pytest.raises(ModelFormatError, match=r"'median'.*Known: cls"):
            pool(np.ones((1, 1, 1), np.float32), np.ones((1, 1), np.int64), "median")


class TestShorten:
    @given(st.integers(1, 16), st.integers(0, 99))
    def test_case_32_matryoshka_truncate_then_renormalise(self, dimensions, seed):
        vectors = unit(np.random.default_rng(seed).normal(size=(3, 16)).astype(np.float32))
        short = shorten(vectors, dimensions)
        assert short.shape == (3, dimensions)
        assert short.dtype == np.float32
        assert np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
        kept = vectors[:, :dimensions]
        assert np.allclose(short * np.linalg.norm(kept, axis=1, keepdims=True), kept, atol=1e-6)

    def test_case_32_cutting_a_unit_vector_alone_leaves_it_too_short(self):
        vectors = unit(np.ones((1, 4), np.float32))
        assert np.linalg.norm(vectors[:, :1]) == pytest.approx(0.5)
        assert shorten(vectors, 1) == pytest.approx(1)

    @pytest.mark.parametrize("dimensions", [0, -1, 5])
    def test_out_of_range(self, dimensions):
        with pytest.raises(BowerbirdError, match=r"Give 1 to 4\."):
            shorten(np.ones((2, 4), np.float32), dimensions)

    def test_a_zero_vector_stays_zero(self):
        assert not shorten(np.zeros((2, 4), np.float32), 2).any()


class TestModules:
    def test_case_07_every_activation_of_torch(self, tmp_path):
        with np.load(GOLDEN / "activations.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = json.loads(str(arrays["meta"]))["names"]
        assert len(names) == 10
        save_weights(tmp_path / "1_Dense" / "model.safetensors", {"linear.weight": np.ones((1, 1))})
        config = {**DENSE, "in_features": 1, "out_features": 1, "bias": False}
        for name in names:
            config["activation_function"] = f"torch.nn.modules.activation.{name}"
            found = load_modules(read_chain(chain_of(tmp_path, "Dense", Dense=config)).after)
            assert np.abs(found(arrays["x"][:, None])[:, 0] - arrays[name]).max() <= 1e-6, name

    @pytest.mark.parametrize("old", [True, False], ids=["sentence-transformers 2", "sentence-transformers 6"])
    def test_case_07_dense_is_applied(self, tmp_path, old):
        chain_of(tmp_path, "Pooling", "Dense", "Dropout", "Normalize", old=old, Pooling=MEAN, Dense=DENSE)
        weight = np.asarray([[1.0, 0, 2], [0, 3, 0]])
        save_weights(
            tmp_path / "2_Dense" / "model.safetensors",
            {"linear.weight": weight, "linear.bias": np.asarray([0.5, -1])},
        )
        chain = read_chain(tmp_path)
        assert (chain.pooling, chain.include_prompt) == (("mean",), True)
        (dense,) = chain.after  # the Normalize at the end is every model's last step
        found = load_modules(chain.after)(np.asarray([[1, 2, 3]], np.float32))
        assert np.allclose(found, [[7.5, 5]])
        assert pickle.loads(pickle.dumps(dense)) == dense

    def test_case_07_the_whole_path_from_a_directory(self, tiny_text, table, words):
        directory = tiny_text(modules=["Transformer", "Pooling", "Dense", "Normalize"])
        weight = np.random.default_rng(3).normal(size=(5, 12)).astype(np.float32)
        config = {"in_features": 12, "out_features": 5, "bias": False}  # Tanh, as the library has it
        (directory / "2_Dense").mkdir()
        (directory / "2_Dense" / "config.json").write_text(json.dumps(config), "utf-8")
        save_weights(directory / "2_Dense" / "model.safetensors", {"linear.weight": weight})
        model = bb.load(str(directory))
        ids = [2, words.index("w1"), words.index("w2"), 3]
        wanted = np.tanh(table[ids].mean(0) @ weight.T)
        assert np.allclose(model.embed(["w1 w2"])[0], wanted / np.linalg.norm(wanted), atol=1e-6)

    def test_normalize_in_the_middle_counts(self, tmp_path):
        chain_of(tmp_path, "Pooling", "Normalize", "Dense", Pooling=MEAN, Dense=DENSE)
        save_weights(
            tmp_path / "3_Dense" / "model.safetensors",
            {"linear.weight": np.eye(3)[:2], "linear.bias": np.ones(2)},
        )
        chain = read_chain(tmp_path)
        assert chain.after[0] == Normalize()
        assert np.allclose(load_modules(chain.after)(np.asarray([[0, 5, 0]], np.float32)), [[1, 2]])

    def test_other_weights_are_another_meaning(self, tmp_path):
        chain_of(tmp_path, "Dense", Dense={**DENSE, "bias": False})
        meanings = []
        for scale in (1, 2):
            save_weights(
                tmp_path / "1_Dense" / "model.safetensors", {"linear.weight": np.ones((2, 3)) * scale}
            )
            meanings.append(read_chain(tmp_path).after[0].meaning())
        assert meanings[0] != meanings[1]
        assert json.loads(json.dumps(meanings)) == meanings


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"activation_function": "my.own.Swish"}, "Swish"),
            ({"activation_function": "torch.nn.modules.activation.Softmax"}, "Softmax"),
            ({"activation_function": "os.system.Tanh"}, r"os\.system"),
            ({"module_input_name": "token_embeddings"}, "module_input_name"),
            ({"module_output_name": "other"}, "module_output_name"),
            ({"in_features": 0}, "in_features"),
            ({"out_features": None}, "out_features"),
            ({"bias": "yes"}, "bias"),
            ({"use_residual": 1}, "use_residual"),
            ({"colour": "blue"}, "colour"),
        ],
        ids=str,
    )
    def test_a_dense_that_cannot_be_followed(self, tmp_path, change, named):
        chain_of(tmp_path, "Dense", Dense={**DENSE, **change})
        save_weights(tmp_path / "1_Dense" / "model.safetensors", {"linear.weight": np.ones((2, 3))})
        with pytest.raises(ModelFormatError, match=f"1_Dense.*{named}"):
            read_chain(tmp_path)

    def test_a_pickle(self, tmp_path):
        chain_of(tmp_path, "Dense", Dense=DENSE)
        (tmp_path / "1_Dense" / "pytorch_model.bin").write_bytes(b"\x80\x02.")
        with pytest.raises(ModelFormatError, match=r"pytorch_model\.bin is a pickle.*--allow-pickle"):
            read_chain(tmp_path)

    def test_no_weights_at_all(self, tmp_path):
        with pytest.raises(ModelFormatError, match=r"model\.safetensors is missing"):
            read_chain(chain_of(tmp_path, "Dense", Dense=DENSE))

    def test_a_cut_file_and_a_changed_one(self, tmp_path):
        chain_of(tmp_path, "Dense", Dense={**DENSE, "bias": False})
        path = tmp_path / "1_Dense" / "model.safetensors"
        save_weights(path, {"linear.weight": np.ones((2, 3))})
        chain = read_chain(tmp_path)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ModelFormatError, match=r"model\.safetensors cannot be read"):
            load_modules(chain.after)
        save_weights(path, {"linear.weight": np.ones((3, 2))})
        with pytest.raises(ModelFormatError, match=r"\(3, 2\).*\(2, 3\)"):
            load_modules(chain.after)

    @pytest.mark.parametrize("kind", ["BF16", "F16", "F32", "F64"])
    def test_floats_of_every_width_are_read(self, tmp_path, kind):
        values = np.asarray([[1.5, -2, 0.25]])
        save_weights(tmp_path / "w.safetensors", {"a": values}, kind)
        found = read_weights(tmp_path / "w.safetensors", {"a": (1, 3)})["a"]
        assert found.dtype == np.float32
        assert np.array_equal(found, values)

    def test_integers_are_no_weights(self, tmp_path):
        save_weights(tmp_path / "w.safetensors", {"a": np.ones(2)}, "I64")
        with pytest.raises(ModelFormatError, match="type I64"):
            read_weights(tmp_path / "w.safetensors", {"a": (2,)})

    @pytest.mark.parametrize(
        ("listed", "named"),
        [
            ([{"type": "custom_st.Transformer", "path": ""}], "custom_st"),
            ([{"type": "sentence_transformers.models.StaticEmbedding", "path": ""}], "StaticEmbedding"),
            ([{"type": "sentence_transformers.models.Transformer", "path": "../up"}], "leads out"),
            ([{"type": "sentence_transformers.models.Transformer", "path": "/etc"}], "leads out"),
        ],
        ids=str,
    )
    def test_a_chain_that_is_not_ours_to_run(self, tmp_path, listed, named):
        (tmp_path / "modules.json").write_text(json.dumps(listed), "utf-8")
        with pytest.raises(ModelFormatError, match=rf"modules\.json.*{named}"):
            read_chain(tmp_path)

    def test_pooling_twice(self, tmp_path):
        with pytest.raises(ModelFormatError, match="right behind Transformer"):
            read_chain(chain_of(tmp_path, "Pooling", "Pooling", Pooling=MEAN))

    def test_normalize_of_tokens(self, tmp_path):
        config = {"module_input_name": "token_embeddings"}
        with pytest.raises(ModelFormatError, match=r"2_Normalize.*token_embeddings"):
            read_chain(chain_of(tmp_path, "Pooling", "Normalize", Pooling=MEAN, Normalize=config))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_lasttoken": True, "pooling_mode_weightedmean_tokens": True}, POOLINGS[4:]),
        ({"pooling_mode_max_tokens": True, "pooling_mode": "cls"}, ("cls",)),
        ({"pooling_mode": ["mean", "cls"], "embedding_dimension": 12}, ("mean", "cls")),
        ({"pooling_mode_mean_tokens": False, "word_embedding_dimension": 12}, ("mean",)),
    ],
    ids=str,
)
def test_case_06_both_spellings_in_the_order_of_the_library(tmp_path, config, expected):
    assert read_chain(chain_of(tmp_path, "Pooling", Pooling=config)).pooling == expected
