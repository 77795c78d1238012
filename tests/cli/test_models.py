"""`bowerbird models`, as a user runs it, against a hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

import bowerbird as bb

pytest.importorskip("huggingface_hub")
sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "hub"))  # Test folders are no packages.
import hub_server

MINI = Path(bb.__file__).parent / "models" / "mini"
NAME = "field/pictures"


@pytest.fixture
def hub(run, tmp_path):
    """A hub that holds the picture half of mini, and a command that knows no other."""
    files = {
        "onnx/vision_model.onnx": (MINI / "onnx/vision_model.onnx").read_bytes(),
        "preprocessor_config.json": (MINI / "preprocessor_config.json").read_bytes(),
        "config.json": json.dumps({"model_type": "pictures", "projection_dim": 384}).encode(),
    }
    with hub_server.running() as server:
        server.publish(NAME, files)
        server.publish("Xenova/dinov2-small", files)
        cleared = {
            name: "" for name in os.environ if name.upper().endswith("_PROXY") or name.startswith("HF_")
        }
        places = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": server.endpoint, "NO_PROXY": "*"}
        run.env.update({**cleared, **places})
        yield server


def test_the_list_names_what_is_embedded_and_the_catalogue(run):
    lines = [line.split("\t") for line in run("models").out.splitlines()]
    assert {len(line) for line in lines} == {7}
    assert lines[0][:2] == ["mini", "text+image"]
    by_name = {line[0]: line for line in lines}
    assert by_name["clip-vit-base-patch32"][5] == "hub: Xenova/clip-vit-base-patch32"
    assert by_name["efficientnet-b0"][5].startswith("export: timm/")
    rows = json.loads(run("models", "--json").out)
    assert [row["name"] for row in rows] == [line[0] for line in lines]
    assert [row["name"] for row in rows if row["here"]] == ["mini"]
    assert run("models", "list").out == run("models").out


def test_details_are_given_without_a_download(run, hub):
    (row,) = json.loads(run("models", "openai/clip-vit-base-patch32", "--json").out)
    assert row["name"] == "clip-vit-base-patch32"
    assert not row["here"]
    assert not row["verified"]
    assert "export" in run("models", "efficientnet-b0").out
    assert NAME in run("models", NAME, code=2).err
    assert "nonesuch" in run("models", "nonesuch", code=2).err
    assert hub.requests == []


def test_pull_says_what_was_checked_and_where_it_is(run, hub):
    done = run("models", "pull", NAME)
    directory = Path(done.out.strip())
    assert (directory / "onnx/vision_model.onnx").is_file()
    assert "3 files" in done.err
    assert "1 by SHA-256" in done.err
    assert hub.refs[NAME, "main"][:12] in done.err
    asked = len(hub.requests)
    described = json.loads(run("models", "pull", NAME, "--json").out)
    assert described["commit"] == hub.refs[NAME, "main"]
    assert set(described["files"]) == {"onnx/vision_model.onnx", "preprocessor_config.json", "config.json"}
    assert len(hub.requests) == asked
    rows = json.loads(run("models", "--json").out)
    assert [row["name"] for row in rows if row["here"]] == ["mini", NAME]


def test_pull_of_a_catalogue_name_and_update(run, hub):
    run("models", "pull", "facebook/dinov2-small")
    (row,) = [row for row in json.loads(run("models", "--json").out) if row["name"] == "dinov2-small"]
    assert row["here"]
    assert Path(row["from"]).is_dir()
    old = hub.refs["Xenova/dinov2-small", "main"]
    files = hub.commits["Xenova/dinov2-small"][old]
    new = hub.publish("Xenova/dinov2-small", {**files, "config.json": b"{}"})
    assert old[:12] in run("models", "pull", "dinov2-small").err
    assert new[:12] in run("models", "pull", "dinov2-small", "--update").err


def test_what_was_pulled_is_described_and_searched_offline(run, hub, photographs):
    run("models", "pull", NAME)
    offline = {"HF_HUB_OFFLINE": "1"}
    asked = len(hub.requests)
    (row,) = json.loads(run("models", NAME, "--json", env=offline).out)
    assert row["here"]
    assert row["modalities"] == "image"
    assert len(row["space"]) == 16
    folder = photographs["chelsea"].parent
    run("index", folder, "--model", NAME, "--index", "birds.bower", env=offline)
    found = run("search", "--like", photographs["chelsea"], "--index", "birds.bower", env=offline)
    others = {str(path) for name, path in photographs.items() if name != "chelsea"}
    assert found.paths
    assert set(found.paths) <= others
    assert len(hub.requests) == asked


def test_mini_needs_no_pull(run):
    done = run("models", "pull", "mini")
    assert Path(done.out.strip()) == MINI
    assert done.err == "mini is inside the package; there is nothing to pull.\n"
    assert "is a directory" in run("models", "pull", MINI.parent / "probe").err


def test_pull_says_what_it_mended_and_a_load_says_what_it_fetches(run, hub, photographs):
    directory = Path(run("models", "pull", NAME).out.strip())
    graph = directory / "onnx/vision_model.onnx"
    with graph.open("r+b") as stream:
        stream.seek(100_000)
        stream.write(b"\0" * 8)
    folder = photographs["chelsea"].parent
    done = run("index", folder, "--model", NAME, "--index", "birds.bower", code=2)
    assert "onnx/vision_model.onnx is damaged" in done.err
    assert f"Run: bowerbird models pull {NAME}" in done.err
    assert (
        "Fetched again, being damaged or missing: onnx/vision_model.onnx." in run("models", "pull", NAME).err
    )
    assert "Fetched again" not in run("models", "pull", NAME).err
    graph.unlink()
    done = run("index", folder, "--model", NAME, "--index", "birds.bower")
    assert done.err.startswith(
        f"bowerbird: {NAME}: fetching again what is missing or short: onnx/vision_model.onnx\n"
    )


def test_a_pull_that_is_stopped_says_so(run, hub):
    hub.fail("^GET .*onnx$", delay=3)
    process = run.start("models", "pull", NAME)
    while not hub.asked("^GET .*onnx$"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    done = run.finish(process, 130)
    assert done.err.startswith("Stopped early;")
    assert done.out == ""


@pytest.mark.slow
def test_a_model_that_moved_on(run, hub, photographs, tmp_path):
    """An index keeps to the commit it was made with, and says so."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("chelsea", "coffee"):
        shutil.copy(photographs[name], folder)
    old = hub.refs[NAME, "main"]
    run("index", "--model", NAME, cwd=folder)
    (path,) = run.records().values()
    files = hub.commits[NAME][old]
    steps = json.loads(files["preprocessor_config.json"])
    changed = json.dumps({**steps, "resample": 2}).encode()
    new = hub.publish(NAME, {**files, "preprocessor_config.json": changed})
    run("models", "pull", NAME, "--update")

    # Whoever asks means the model of the index, and that is still the commit it was made with.
    question = ("search", "--like", folder / "chelsea.jpg")
    expected = [str(folder / "coffee.jpg")]
    assert run(*question, "--model", NAME, cwd=folder).paths == expected
    assert run(*question, "--model", f"{NAME}@{old}", "--index", path, cwd=folder).paths == expected
    assert run(*question, cwd=folder).paths == expected
    assert f"source    {NAME}@{old}" in run("info", cwd=folder).out
    # Whoever indexes with the new commit adds it beside the old one; the two are never mixed.
    done = run("index", "--model", NAME, cwd=folder)
    assert f"Adding the model {NAME} beside {NAME}." in done.err
    told = run("info", cwd=folder).out
    assert told.index(f"source    {NAME}@{old}") < told.index(f"source    {NAME}@{new}")
    assert run(*question, cwd=folder).paths == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("field/nonesuch", "no repository field/nonesuch"),
        (f"{NAME}@nonesuch", "no such revision"),
        ("open_clip:ViT-B-32/openai", "bowerbird export open_clip:ViT-B-32/openai"),
        ("./nonesuch", "no model './nonesuch'"),
    ],
)
def test_a_name_that_cannot_be_pulled(run, hub, name, words):
    done = run("models", "pull", name, code=2)
    assert words in done.err
    assert done.out == ""


def test_offline_the_command_to_run_is_named(run, hub):
    done = run("models", "pull", NAME, code=2, env={"HF_HUB_OFFLINE": "1"})
    assert f"bowerbird models pull {NAME}" in done.err
    assert hub.requests == []


def test_help(run):
    page = run("models", "--help").out
    assert "pull" in page
    assert "bowerbird models ./my-model" in page
    assert "--update" in run("models", "pull", "--help").out
