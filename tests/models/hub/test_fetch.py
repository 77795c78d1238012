"""Models of the hub: pulled, checked, pinned, and what goes wrong on the way. The client is the real one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bowerbird as bb
from bowerbird.errors import BowerbirdError, ModelError, ModelFormatError, ModelNotFoundError
from bowerbird.models.hub import calls as hub_calls
from bowerbird.models.hub import fetch
from bowerbird.models.hub.catalog import find_entry
from bowerbird.models.hub.fetch import canonical, locate, pull
from bowerbird.models.hub.receipts import receipts
from bowerbird.settings import settings

sys.path.insert(0, str(Path(__file__).parent))  # Test folders are no packages.
import hub_server

NAME = "field/birds"
GRAPH = "onnx/vision_model.onnx"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, and places of its own for what comes from it."""

    for name in [
        name for name in os.environ if name.upper().endswith("_PROXY") or name.startswith(("HF_", "HUGGING"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("BOWERBIRD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(hub_calls, "BACKOFF", 0.01)
    huggingface_hub.close_session()
    with hub_server.running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
    huggingface_hub.close_session()


@pytest.fixture
def files(tiny_image) -> dict[str, bytes]:
    """A small picture model, with what a repository holds besides."""
    directory = tiny_image()
    found = {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    return {
        **found,
        "README.md": b"# Birds\n",
        ".gitattributes": b"*.onnx filter=lfs\n",
        "config.json": b'{"model_type": "birds"}',
        "model.safetensors": b"weights" * 100,
        "onnx/vision_model_quantized.onnx": b"not wanted",
    }


@pytest.fixture
def published(hub, files):
    hub.publish(NAME, files)
    return hub


@pytest.fixture
def no_network(monkeypatch):
    """From when it is called on, a connection fails the test."""

    def forbid() -> None:
        def refuse(*_):
            raise AssertionError("a network call")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    return forbid


def blobs(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and not path.is_symlink()]


def said(error: pytest.ExceptionInfo[BowerbirdError]) -> str:
    return str(error.value)


# ---- What comes of a pull ------------------------------------------------------------------------------------------


def test_a_pull_brings_what_is_needed_and_nothing_else(published, files, capfd):
    seen = []
    located = pull(NAME, progress=lambda done, total: seen.append((done, total)))
    got = {
        str(path.relative_to(located.directory)) for path in located.directory.rglob("*") if path.is_file()
    }
    assert got == {GRAPH, "preprocessor_config.json", "config.json", "README.md"}
    assert all((located.directory / path).read_bytes() == files[path] for path in got)
    assert located.name == NAME
    assert located.revision == published.refs[NAME, "main"]
    total = sum(len(files[path]) for path in got)
    assert seen[-1] == (total, total)
    assert all(done <= of == total for done, of in seen)
    assert capfd.readouterr() == ("", "")


def test_what_was_pulled_embeds_without_the_network(published, no_network, photographs):
    directory = locate(NAME).directory
    asked = len(published.requests)
    no_network()
    assert locate(NAME).directory == directory
    model = bb.load(str(directory), precision="exact", engine="onnxruntime")
    vectors = model.embed([photographs["chelsea"]])
    assert vectors.shape == (1, 16)
    assert np.isfinite(vectors).all()
    assert len(published.requests) == asked


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_means_no_network_call_at_all(published, no_network, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    no_network()
    with pytest.raises(ModelNotFoundError, match=f"bowerbird models pull {NAME}") as caught:
        locate(NAME)
    assert "HF_HUB_OFFLINE" in said(caught)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        pull(NAME, update=True)
    assert published.requests == []


def test_offline_uses_what_another_program_left_in_the_cache(published, no_network, monkeypatch, tmp_path):
    directory = pull(NAME).directory
    shutil.rmtree(tmp_path / "data")
    asked = len(published.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    no_network()
    assert locate(NAME).directory == directory
    assert pull(NAME).receipt is None
    assert len(published.requests) == asked


def test_pinned_until_updated(published, files):
    first = locate(NAME)
    second = published.publish(NAME, {**files, "config.json": b'{"model_type": "birds", "better": true}'})
    assert locate(NAME).revision == pull(NAME).revision == first.revision != second
    assert pull(NAME, update=True).revision == second
    assert locate(NAME).revision == second
    (receipt,) = receipts()
    assert (receipt.repository, receipt.revision, receipt.commit) == (NAME, "main", second)


def test_a_revision_may_be_a_branch_or_a_commit(published, files):
    old = published.refs[NAME, "main"]
    new = published.publish(NAME, {**files, "config.json": b"{}"}, "refs/pr/4")
    assert locate(f"{NAME}@refs/pr/4").revision == new
    assert locate(f"{NAME}@{old}").revision == old
    assert locate(NAME).revision == old
    published.requests.clear()
    assert locate(f"{NAME}@{new}").revision == new  # The branch meant it: nothing to ask.
    assert published.requests == []


def test_revisions_that_differ_in_case_do_not_meet(published, files):
    published.publish(NAME, {**files, "config.json": b"{}"}, "Main")
    assert locate(f"{NAME}@Main").revision == published.refs[NAME, "Main"]
    assert locate(NAME).revision == published.refs[NAME, "main"]


def test_variants_have_receipts_of_their_own(published, files):
    plain, small = locate(NAME), locate(NAME, variant="quantized")
    assert (small.directory / "onnx/vision_model_quantized.onnx").read_bytes() == b"not wanted"
    assert {receipt.variant for receipt in receipts()} == {"", "quantized"}
    assert plain.directory == small.directory


def test_the_receipt_says_what_can_be_checked(published, files):
    located = pull(NAME)
    (path,) = (settings().data_path / "models").glob("*.json")
    receipt = json.loads(path.read_text())
    entries = {entry["path"]: entry for entry in receipt["files"]}
    assert entries[GRAPH] == {"path": GRAPH, "size": len(files[GRAPH]), "sha256": sha256(files[GRAPH])}
    assert entries["README.md"]["git"] == hub_server.blob_id(files["README.md"])
    assert receipt["commit"] == located.revision


def sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_a_token_goes_to_the_hub_and_nowhere_else(published, monkeypatch):
    published.tokens[NAME] = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull(NAME)
    on_cdn = [request for request in published.requests if request.headers["Host"].startswith("localhost")]
    assert on_cdn
    assert not any("authorization" in map(str.lower, request.headers) for request in on_cdn)


def test_external_data_is_read_by_every_engine(hub):
    weight = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 64])
    out = helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["n", 64])
    node = helper.make_node("MatMul", ["pixel_values", "w"], ["image_embeds"])
    model = helper.make_model(
        helper.make_graph([node], "external", [pixels], [out], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    with_data = settings().data_path
    with_data.mkdir(parents=True)
    onnx.save(
        model,
        with_data / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    hub.publish(
        NAME,
        {f"onnx/{path.name}": path.read_bytes() for path in with_data.iterdir()} | {"config.json": b"{}"},
    )
    directory = locate(NAME).directory
    graph = directory / "onnx/model.onnx"
    assert (directory / "onnx/model.onnx_data").samefile(
        next((directory.parents[1] / "blobs").glob(sha256_of_data(hub)))
    )

    import onnxruntime
    import openvino

    rows = np.arange(128, dtype=np.float32).reshape(2, 64)
    assert (onnxruntime.InferenceSession(graph).run(None, {"pixel_values": rows})[0] == rows).all()
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert (compiled([rows])[0] == rows).all()


def sha256_of_data(hub) -> str:
    (files,) = hub.commits[NAME].values()
    return sha256(files["onnx/model.onnx_data"])


# ---- Names ---------------------------------------------------------------------------------------------------------


def test_a_directory_wins_over_the_hub(published, tmp_path, monkeypatch):
    (tmp_path / NAME).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate(NAME).directory == tmp_path / NAME
    assert locate(f"hf-hub:{NAME}").revision
    assert locate("mini").directory.name == "mini"


def test_an_alias_stands_for_the_repository_with_the_graphs(hub, files):
    hub.publish("Xenova/clip-vit-base-patch32", files)
    for name in ("clip-vit-base-patch32", "openai/clip-vit-base-patch32", "OpenAI/CLIP-ViT-Base-Patch32"):
        located = locate(name)
        assert located.entry is find_entry("clip-vit-base-patch32")
        assert located.name == "clip-vit-base-patch32"
    assert len(hub.asked("/api/models/Xenova/clip-vit-base-patch32")) == 1
    assert locate("Xenova/clip-vit-base-patch32").entry is located.entry


def test_all_names_of_a_model_have_one_spelling(hub, tmp_path, monkeypatch):
    names = ("clip-vit-base-patch32", "openai/clip-vit-base-patch32", "hf:Xenova/clip-vit-base-patch32@main")
    assert {canonical(name) for name in names} == {"xenova/clip-vit-base-patch32"}
    assert canonical("Xenova/clip-vit-base-patch32@v2") == "xenova/clip-vit-base-patch32@v2"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert canonical("model") == canonical("./model") == str(tmp_path / "model")
    assert canonical("mini") == canonical(str(Path(fetch.__file__).parents[1] / "mini")) == "mini"
    assert canonical("nonesuch") == "nonesuch"
    assert hub.requests == []


def test_a_commit_is_another_spelling_while_the_branch_means_it(published, files):
    old = published.refs[NAME, "main"]
    assert canonical(f"{NAME}@{old}") == f"{NAME}@{old}"  # Not pulled: nobody knows what main means.
    pull(NAME)
    assert canonical(NAME) == canonical(f"{NAME}@{old}") == canonical(f"hf:{NAME}@main") == NAME
    new = published.publish(NAME, {**files, "config.json": b"{}"})
    pull(NAME, update=True)
    assert canonical(NAME) == canonical(f"{NAME}@{new}") == NAME
    assert canonical(f"{NAME}@{old}") == f"{NAME}@{old}"


@pytest.mark.parametrize("name", ["hf-hub:openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32@main"])
def test_a_prefix_or_a_revision_means_that_very_repository(hub, name):
    hub.publish("openai/clip-vit-base-patch32", {"model.safetensors": b"w", "config.json": b"{}"})
    with pytest.raises(ModelNotFoundError, match="holds no ONNX graph") as caught:
        locate(name)
    assert "The catalogue knows one: clip-vit-base-patch32." in said(caught)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (
            "open_clip:ViT-B-32/laion2b_s34b_b79k",
            "bowerbird export open_clip:ViT-B-32/laion2b_s34b_b79k ./laion2b_s34b_b79k",
        ),
        ("timm:resnet50", "bowerbird export timm/resnet50 ./resnet50"),
        ("efficientnet-b0", "bowerbird export timm/efficientnet_b0.ra_in1k ./efficientnet_b0.ra_in1k"),
        (
            "timm/efficientnet_b0.ra_in1k",
            "bowerbird export timm/efficientnet_b0.ra_in1k ./efficientnet_b0.ra_in1k",
        ),
    ],
)
def test_weights_without_a_graph_are_exported(hub, name, command):
    with pytest.raises(ModelNotFoundError) as caught:
        locate(name)
    assert command in said(caught)
    assert "pip install 'bowerbird[export]'" in said(caught)
    assert hub.requests == []


def test_a_name_of_timm_that_the_hub_does_not_know_is_exported(hub):
    with pytest.raises(ModelNotFoundError, match=r"bowerbird export timm/resnet50 \./resnet50"):
        locate("timm/resnet50")


@pytest.mark.parametrize(
    "name",
    [
        "nonesuch",
        "./nonesuch",
        "/none/such",
        "a/b/c",
        "~/nonesuch",
        "",
        "field/birds@../../x",
        "field/..",
        "a b/c",
        "\0",
    ],
)
def test_what_is_no_name_is_refused_without_asking(hub, name):
    with pytest.raises(ModelNotFoundError):
        locate(name)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("clip-vit-base-patch3", "clip-vit-base-patch32"),
        ("minni", "mini"),
        ("siglp", "siglip-base-patch16-224"),
        ("siglip", "siglip-base-patch16-224 or siglip2-base-patch16-224"),
        ("clip-vit", "clip-vit-base-patch32"),
        ("Dino", "dinov2-small or dinov2-base"),
    ],
)
def test_a_slip_of_the_pen_is_corrected(hub, slip, meant):
    with pytest.raises(ModelNotFoundError, match=rf"Did you mean {meant}"):
        locate(slip)


# ---- Repositories with nothing to run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"model.safetensors": b"w"}, [f"bowerbird export {NAME} ./birds", "pip install"]),
        ({"pytorch_model.bin": b"w"}, ["only pickles (pytorch_model.bin)", f"{NAME} ./birds --allow-pickle"]),
        ({"README.md": b"w"}, ["neither an ONNX graph nor weights"]),
        ({"deep/down/strange.onnx": b"w"}, ["deep/down/strange.onnx"]),
    ],
)
def test_nothing_to_run(hub, tmp_path, held, words):
    hub.publish(NAME, held)
    with pytest.raises(ModelError) as caught:
        locate(NAME)
    assert all(word in said(caught) for word in words), said(caught)
    assert blobs(tmp_path) == []


# ---- Damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [GRAPH, "config.json"])
def test_wrong_bytes_of_the_right_size(published, files, path):
    wrong = bytes([files[path][0] ^ 1]) + files[path][1:]
    published.fail(f"^GET .*/{path}$", times=1, content=wrong)
    with pytest.raises(ModelFormatError) as caught:
        pull(NAME)
    right, got = (sha256, sha256) if path == GRAPH else (hub_server.blob_id, hub_server.blob_id)
    for word in (path, right(files[path]), got(wrong), f"bowerbird models pull {NAME}"):
        assert word in said(caught)
    assert receipts() == []
    assert (pull(NAME).directory / path).read_bytes() == files[path]


def test_a_file_that_ends_too_early(published, files):
    fault = published.fail(f"^GET .*{GRAPH}", times=1, keep=100)
    assert (pull(NAME).directory / GRAPH).read_bytes() == files[GRAPH]
    assert fault.times == 0


def test_a_file_that_always_ends_too_early(published, tmp_path):
    published.fail(f"^GET .*{GRAPH}", keep=100)
    with pytest.raises(ModelError, match=GRAPH) as caught:
        pull(NAME)
    assert "connection broke" in said(caught)
    assert receipts() == []
    assert not any(path.stat().st_size == 100 for path in blobs(tmp_path))


def test_a_cut_connection_is_resumed_where_it_was_cut(published, files):
    data = np.random.default_rng(0).bytes(24 << 20)
    published.publish(NAME, {**files, f"{GRAPH}_data": data})
    published.fail(f"^GET .*{GRAPH}_data", times=1, cut_after=21 << 20)
    seen = []
    located = pull(NAME, progress=lambda done, total: seen.append(done / total))
    assert (located.directory / f"{GRAPH}_data").read_bytes() == data
    ranges = [request.headers.get("Range") for request in published.asked(f"GET .*{GRAPH}_data")]
    assert ranges == [None, f"bytes={20 << 20}-"]
    assert seen[-1] == 1


@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_what_was_lost_is_fetched_again_at_the_pinned_commit(published, files, monkeypatch, how):
    located = pull(NAME)
    lost = located.directory / GRAPH
    if how == "missing":
        lost.unlink()
    else:
        os.truncate(lost, 10)
    published.publish(NAME, {**files, "config.json": b"{}"})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelFormatError, match=f"{GRAPH} is missing or damaged"):
        locate(NAME)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    published.requests.clear()
    assert locate(NAME).revision == located.revision
    assert lost.read_bytes() == files[GRAPH]
    assert {request.path.rsplit("/", 1)[1] for request in published.asked("^GET .*/(resolve|onnx)")} <= {
        "vision_model.onnx"
    }


def rot(path: Path) -> bytes:
    """Overwrite bytes inside a file, which keeps its size; what it holds now."""
    with path.open("r+b") as stream:
        stream.seek(5)
        stream.write(b"rot")
    return path.read_bytes()


@pytest.mark.parametrize("path", [GRAPH, "preprocessor_config.json", "config.json"])
def test_damage_that_keeps_the_size_is_an_error_at_load_and_mended_by_a_pull(published, files, path, capfd):
    located = pull(NAME)
    bb.load(NAME)
    wrong = rot(located.directory / path)
    asked = len(published.requests)
    for find in (locate, bb.load):
        with pytest.raises(ModelFormatError) as caught:
            find(NAME)
        of = sha256 if path == GRAPH else hub_server.blob_id
        for word in (path, of(files[path]), of(wrong), f"Run: bowerbird models pull {NAME}"):
            assert word in said(caught)
    assert len(published.requests) == asked
    assert (
        located.directory / path
    ).read_bytes() == wrong  # Other programs share it: only a pull may remove it.
    assert pull(NAME).repaired == (path,)
    assert (located.directory / path).read_bytes() == files[path]
    assert pull(NAME).repaired == ()
    assert bb.load(NAME).card.space
    assert capfd.readouterr() == ("", "")


def test_a_load_mends_nothing_while_another_file_is_damaged(published, files):
    located = pull(NAME)
    wrong = rot(located.directory / GRAPH)
    (located.directory / "config.json").unlink()
    with pytest.raises(ModelFormatError, match=f"{GRAPH} is damaged"):
        locate(NAME)
    assert (located.directory / GRAPH).read_bytes() == wrong
    assert set(pull(NAME).repaired) == {GRAPH, "config.json"}


def test_a_pull_removes_nothing_that_it_may_not_fetch_anew(published, monkeypatch):
    located = pull(NAME)
    wrong = rot(located.directory / GRAPH)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelFormatError, match=f"{GRAPH} is missing or damaged"):
        pull(NAME)
    assert (located.directory / GRAPH).read_bytes() == wrong


def test_damage_in_external_data_is_found_and_mended_too(published, files):
    data = np.random.default_rng(2).bytes(1000)
    published.publish(NAME, {**files, f"{GRAPH}_data": data})
    path = pull(NAME).directory / f"{GRAPH}_data"
    assert path.is_file()
    assert not path.is_symlink()  # The content of the cache's blobs, by a hard link.
    rot(path)
    with pytest.raises(ModelFormatError, match=f"{GRAPH}_data is damaged"):
        locate(NAME)
    pull(NAME)
    assert path.read_bytes() == data


def test_what_is_fetched_again_by_a_load_is_said(published, caplog):
    located = pull(NAME)
    (located.directory / GRAPH).unlink()
    assert locate(NAME).repaired == (GRAPH,)
    (record,) = caplog.records
    assert record.name == "bowerbird"
    assert f"{NAME}: fetching again what is missing or short: {GRAPH}" in record.getMessage()
    caplog.clear()
    assert locate(NAME).repaired == ()
    assert not caplog.records


# ---- Offline, without a receipt ------------------------------------------------------------------------------------


@pytest.fixture
def strange(hub, tmp_path, monkeypatch, no_network):
    """The directory of a model with two towers that another program left in the cache; no network from here on."""
    mini = Path(fetch.__file__).parents[1] / "mini"
    hub.publish(NAME, {str(p.relative_to(mini)): p.read_bytes() for p in mini.rglob("*") if p.is_file()})
    directory = pull(NAME).directory
    shutil.rmtree(tmp_path / "data")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    no_network()
    return directory


def test_a_model_of_two_towers_is_complete_with_both(strange):
    assert locate(NAME).directory == strange
    assert locate(NAME).checked == len([path for path in strange.rglob("*") if path.is_file()])


@pytest.mark.parametrize("graph", [GRAPH, "onnx/text_model.onnx"])
@pytest.mark.parametrize("others", [(), ("config.json",), ("tokenizer.json", "preprocessor_config.json")])
def test_one_tower_of_two_is_not_taken_for_the_model(strange, graph, others):
    for name in (graph, *others):
        (strange / name).unlink()
    for find in (locate, pull, bb.load):
        with pytest.raises(ModelFormatError, match=f"not complete: {graph} is missing") as caught:
            find(NAME)
        assert f"Run while online: bowerbird models pull {NAME}" in said(caught)


@pytest.mark.parametrize("name", [GRAPH, "preprocessor_config.json", "1_Pooling/config.json"])
def test_a_name_in_the_cache_without_its_content(strange, name):
    (strange / name).resolve().unlink()
    with pytest.raises(ModelFormatError, match=f"not complete: {name} is missing"):
        locate(NAME)


@pytest.mark.parametrize("name", [GRAPH, "preprocessor_config.json", "tokenizer.json"])
def test_content_that_its_name_in_the_cache_belies(strange, name):
    right = (strange / name).read_bytes()
    wrong = rot((strange / name).resolve())
    of = sha256 if name.endswith(hub_server.LARGE) else hub_server.blob_id
    with pytest.raises(ModelFormatError, match=f"{name} is damaged") as caught:
        locate(NAME)
    assert of(right) in said(caught)
    assert of(wrong) in said(caught)
    assert (strange / name).read_bytes() == wrong


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "repository": "a/b", "files": [{"path": "../x"}]}'],
)
def test_a_damaged_receipt_is_named(published, text):
    pull(NAME)
    (path,) = (settings().data_path / "models").glob("*.json")
    path.write_text(text)
    with pytest.raises(ModelFormatError, match="receipt") as caught:
        locate(NAME)
    assert str(path) in said(caught)
    assert pull(NAME, update=True).receipt


# ---- Hostile repositories ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["../../evil.json", "/etc/evil.json", "a/../../evil.json", "C:\\evil", "..\\evil", "a//b"]
)
def test_names_that_lead_outside_are_refused(hub, files, tmp_path, path):
    hub.publish(NAME, files)
    hub.listed[NAME] = [hub_server.sibling(name, data) for name, data in {**files, path: b"{}"}.items()]
    with pytest.raises(ModelFormatError, match="outside"):
        pull(NAME)
    assert len(hub.requests) == 1
    assert blobs(tmp_path) == []


@pytest.mark.parametrize(
    "headers", [{"X-Linked-Etag": '"../../../../evil"'}, {"X-Repo-Commit": "../../evil"}]
)
def test_headers_that_lead_outside_are_refused(published, tmp_path, headers):
    published.fail(f"^HEAD .*{GRAPH}", headers=headers)
    with pytest.raises(ModelFormatError, match="no names for files"):
        pull(NAME)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_file_that_cannot_be_checked_is_not_taken(hub, files):
    hub.publish(NAME, files)
    hub.listed[NAME] = [{"rfilename": name} for name in files]
    with pytest.raises(ModelFormatError, match="cannot be verified"):
        pull(NAME)


# ---- Refusals ------------------------------------------------------------------------------------------------------


def test_no_such_repository(hub):
    with pytest.raises(ModelNotFoundError, match="no repository field/nonesuch"):
        locate("field/nonesuch")


def test_no_such_revision(published):
    with pytest.raises(ModelNotFoundError, match="no such revision"):
        locate(f"{NAME}@nonesuch")


def test_a_file_that_is_listed_and_not_there(published, files):
    published.listed[NAME] = [
        hub_server.sibling(name, data) for name, data in {**files, "gone.json": b"{}"}.items()
    ]
    with pytest.raises(ModelNotFoundError, match=r"gone\.json"):
        locate(NAME)


@pytest.mark.parametrize("token", ["", "hf_of_someone_else"])
def test_gated(published, monkeypatch, token):
    published.tokens[NAME] = "hf_accepted"
    published.gated.add(NAME)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelError, match="gated") as caught:
        locate(NAME)
    assert "hf auth login" in said(caught)
    assert f"https://huggingface.co/{NAME}" in said(caught)


def test_private(published):
    published.tokens[NAME] = "hf_owner"
    with pytest.raises(ModelNotFoundError, match="private") as caught:
        locate(NAME)
    assert "HF_TOKEN" in said(caught)


def test_forbidden(published):
    published.fail("HEAD", status=403)
    with pytest.raises(ModelError, match="HTTP 403"):
        locate(NAME)


# ---- Trouble that passes, or does not ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["/api/models", "^HEAD", "^GET .*onnx$"])
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_hub_is_asked_again(published, where, status, capfd):
    fault = published.fail(where, times=2, status=status)
    assert locate(NAME).receipt
    assert fault.times == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", ["/api/models", "^HEAD", "^GET .*onnx$"])
def test_a_hub_that_stays_broken_is_given_up(published, where):
    published.fail(where, status=502)
    with pytest.raises(ModelError, match="HTTP 502"):
        locate(NAME)
    assert receipts() == []


def test_a_wait_the_hub_asks_for_is_kept(published, monkeypatch):
    import time

    published.fail("/api/models", times=1, status=429, headers={"Retry-After": "1"})
    start = time.monotonic()
    assert locate(NAME).receipt
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("where", ["/api/models", "^HEAD .*onnx$", "^GET .*onnx$"])
def test_a_wait_too_long_is_an_error_at_once(published, where):
    published.fail(where, status=429, headers={"Retry-After": "3600"})
    with pytest.raises(ModelError, match="asks to wait 3600 s"):
        locate(NAME)


def test_the_hubs_own_header_says_how_long_too(published):
    published.fail("/api/models", status=429, headers={"RateLimit": '"api";r=0;t=280'})
    with pytest.raises(ModelError, match="asks to wait 280 s"):
        locate(NAME)


@pytest.mark.parametrize("where", ["/api/models", "^GET .*onnx$"])
def test_a_hub_that_falls_silent(published, monkeypatch, where):
    monkeypatch.setattr(hub_calls, "SILENCE", 0.2)
    fault = published.fail(where, times=1, delay=1.0)
    assert locate(NAME).receipt
    assert fault.times == 0


def test_a_hub_that_stays_silent(published, monkeypatch):
    monkeypatch.setattr(hub_calls, "SILENCE", 0.1)
    published.fail("/api/models", delay=0.5)
    with pytest.raises(ModelError, match="connection broke"):
        locate(NAME)


def test_huggingface_hub_was_imported_offline(published, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="imported while HF_HUB_OFFLINE was set"):
        locate(NAME)


def test_no_network(monkeypatch, hub):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ModelError, match="cannot be reached") as caught:
            locate(NAME)
    assert "HF_HUB_OFFLINE=1" in said(caught)
    monkeypatch.setenv("HF_ENDPOINT", "http://nonesuch.invalid")
    with pytest.raises(ModelError, match="cannot be reached"):
        locate(NAME)


def test_a_cache_that_cannot_be_written(published, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot be written") as caught:
        locate(NAME)
    assert "HF_HOME" in said(caught)


def test_a_receipt_that_cannot_be_written(published, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BOWERBIRD_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="BOWERBIRD_DATA_DIR"):
        locate(NAME)
    assert published.requests == []


SMALL_DISK = """
import os, shutil, subprocess, sys
place = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
from bowerbird.errors import ModelError
from bowerbird.models.hub.fetch import locate
if sys.argv[2] == "unforeseen":  # Someone else fills the disk after we looked.
    shutil.disk_usage = lambda path, usage=shutil.disk_usage(place): usage._replace(free=1 << 40)
try:
    locate("field/large")
except ModelError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["foreseen", "unforeseen"])
def test_no_space_on_the_disk(hub, files, tmp_path, how):
    can = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*can, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    hub.publish("field/large", {**files, GRAPH: bytes(3 << 20)})
    place = tmp_path / "hf"
    place.mkdir()
    done = subprocess.run(
        [*can, sys.executable, "-c", SMALL_DISK, str(place), how],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no space" in done.stdout
    assert str(place) in done.stdout
    assert ("3.1 MB are needed" in done.stdout) == (how == "foreseen")
    assert done.stderr == ""


PULL = "import sys; from bowerbird.models.hub.fetch import pull; print(pull(sys.argv[1]).directory)"


def test_processes_that_pull_at_once_do_not_harm_each_other(hub, files):
    files[GRAPH] = np.random.default_rng(1).bytes(8 << 20)
    hub.publish(NAME, files)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PULL, NAME], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], answers
    (directory,) = {out.strip() for out, _ in answers}
    assert (Path(directory) / GRAPH).read_bytes() == files[GRAPH]
    assert all(error == "" for _, error in answers)
    assert len(receipts()) == 1
    hub.requests.clear()
    assert str(locate(NAME).directory) == directory
    assert hub.requests == []


def test_ctrl_c_leaves_nothing_half_done(published, files, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(NAME, progress=interrupt)
    assert receipts() == []
    assert not list(tmp_path.rglob("*.incomplete"))
    assert (pull(NAME).directory / GRAPH).read_bytes() == files[GRAPH]


def test_the_embedded_model_from_the_hub_is_the_same_model(hub, photographs, no_network):
    mini = Path(fetch.__file__).parents[1] / "mini"
    hub.publish(
        "field/mini", {str(p.relative_to(mini)): p.read_bytes() for p in mini.rglob("*") if p.is_file()}
    )
    pulled = locate("field/mini")
    no_network()
    here, there = bb.load("mini", precision="exact"), bb.load(str(pulled.directory), precision="exact")
    assert here.card.space == there.card.space
    inputs = ["a cat on a sofa", photographs["chelsea"]]
    assert (here.embed(inputs) == there.embed(inputs)).all()
