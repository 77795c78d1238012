"""What `bowerbird deploy` writes down, before any cluster is asked."""

from __future__ import annotations

import hashlib

import pytest
import yaml
from tests.serve.command import options as options_of
from tests.serve.command import refused, told

import bowerbird as bb
from bowerbird.errors import BowerbirdError
from bowerbird.serve.cluster.plan import Deployed, as_yaml, config, options, resolved

schema = pytest.importorskip("ray.serve.schema")


def test_serve_takes_the_config_file_of_the_command(index_path):
    text, _ = told(
        *("deploy", index_path, "--on", "ray", "--min", 0, "--max", 8, "--cpus", 2, "--gpus", 1),
        *("--port", 9000, "--config", "-"),
    )
    taken = schema.ServeDeploySchema.model_validate(yaml.safe_load(text))
    (app,) = taken.applications
    assert app.args["index"] == str(index_path)
    assert taken.http_options.port == 9000
    by_name = {one.name: one for one in app.deployments}
    assert set(by_name) == {"ingress", "mini-text", "mini-image", "search"}
    for name in ("mini-text", "mini-image"):
        assert by_name[name].autoscaling_config["min_replicas"] == 0
        assert by_name[name].autoscaling_config["max_replicas"] == 8
        assert by_name[name].ray_actor_options.num_gpus == 1
    assert not by_name["search"].ray_actor_options.model_dump(exclude_unset=True).get("num_gpus")


def test_a_config_file_is_written_and_says_the_same_again(run, index_path, tmp_path):
    run("deploy", index_path, "--writable", "--config", tmp_path / "photos.yaml")
    read = yaml.safe_load((tmp_path / "photos.yaml").read_text("utf-8"))
    deployed = Deployed.of(read["applications"][0]["args"])
    assert deployed.writable
    assert deployed.hosts == ("localhost", "127.0.0.1", "[::1]")
    assert config(deployed) == read


def test_an_edited_config_file_is_not_written_over(index_path, tmp_path):
    file = tmp_path / "photos.yaml"
    command = ("deploy", index_path, "--config", file)
    told(*command)
    written = file.read_text("utf-8")
    told(*command)  # it says the same already
    file.write_text(written + "# mine\n", "utf-8")
    assert "--force" in refused(*command)
    assert file.read_text("utf-8").endswith("# mine\n")
    told(*command, "--force")
    assert file.read_text("utf-8") == written
    assert "folder that exists" in refused(
        "deploy", index_path, "--config", tmp_path / "none" / "photos.yaml"
    )


def test_keys_do_not_leave_the_machine(index_path, tmp_path):
    (tmp_path / "keys").write_text("a-very-secret-key name=shop scope=read rate=60\n", "utf-8")
    text, said = told(
        *("deploy", index_path, "--api-keys", tmp_path / "keys", "--host", "0.0.0.0", "--config", "-")
    )
    assert "ANYBODY" not in said
    assert "secret" not in text
    digest = hashlib.sha256(b"a-very-secret-key").hexdigest()
    (app,) = yaml.safe_load(text)["applications"]
    assert app["args"]["keys"] == [f"sha256:{digest} name=shop scope=read rate=60"]


def test_what_the_service_may_be_told_is_told_it_on_a_cluster_too(index_path):
    text, _ = told(
        *("deploy", index_path, "--show-paths", "--public-metrics", "--cors", "https://shop.example"),
        *("--allow-host", "search.example", "--rate", 60, "--max-inputs", 16, "--drain-seconds", 5),
        *("--config", "-"),
    )
    (app,) = yaml.safe_load(text)["applications"]
    deployed = Deployed.of(app["args"])
    assert (deployed.show_paths, deployed.public_metrics) == (True, True)
    assert deployed.cors == ("https://shop.example",)
    assert deployed.hosts == ("search.example", "localhost", "127.0.0.1", "[::1]")
    assert app["args"]["limits"] == {"per_minute": 60, "inputs": 16, "drain_seconds": 5.0}
    assert all(one["graceful_shutdown_timeout_s"] == 5 for one in app["deployments"])


def test_serve_and_deploy_have_one_word_for_one_thing():
    served, deployed = options_of("serve"), options_of("deploy")
    both = set(served) & set(deployed)
    assert len(both) > 20
    assert {word: served[word] for word in both} == {word: deployed[word] for word in both}


@pytest.mark.parametrize(
    ("given", "door"),
    [
        (("--host", "0.0.0.0"), "ANYBODY who can reach 0.0.0.0:8080 may use"),
        (("--writable",), "may change and delete"),
        (("--cors", "*"), "ANY site"),
        (("--fetch-urls",), "fetches pictures"),
    ],
)
def test_open_doors_are_told(index_path, tmp_path, given, door):
    command = ("deploy", index_path, *given, "--config", "-")
    assert door in told(*command)[1]
    (tmp_path / "keys").write_text("a-very-secret-key\n", "utf-8")
    with_keys = told(*command, "--api-keys", tmp_path / "keys")[1]
    assert (door in with_keys) == (given[0] in ("--cors", "--fetch-urls"))


def test_no_door_is_open_by_itself(index_path):
    assert told("deploy", index_path, "--config", "-")[1] == ""


def test_several_models_have_deployments_of_their_own(index_path):
    deployed = Deployed(str(index_path), models=("again/and=mini", "again-and=mini"), writable=True)
    models = resolved(deployed)
    assert [model.name for model in models] == ["mini", "again/and", "again-and"]
    names = list(options(deployed, models))
    assert names == [
        "ingress",
        *("mini-text", "mini-image"),
        *("again-and-text", "again-and-image", "again-and-2-text", "again-and-2-image"),
        *("search", "writer"),
    ]
    assert models[0].recipe.space == bb.load("mini").card.space


def test_without_an_index_the_default_model_is_served():
    deployed = Deployed()
    assert [model.name for model in resolved(deployed)] == ["mini"]
    names = {one["name"] for one in yaml.safe_load(as_yaml(deployed))["applications"][0]["deployments"]}
    assert names == {"ingress", "mini-text", "mini-image"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "3 to 2"),
        ({"max_replicas": 0, "min_replicas": 0}, "0 to 0"),
        ({"cpus": 0}, "^cpus=0 is not more than 0"),
        ({"target": 0, "cpus": 1}, "^target=0 is not more than 0"),
        ({"gpus": -1}, "^gpus=-1 is negative"),
        ({"ingress": 0}, "^ingress=0"),
        ({"ingress": 2}, "one process"),
        ({"limits": {"inputz": 3}}, "inputz"),
        ({"indx": "a.bower"}, "index"),
    ],
)
def test_what_cannot_be_deployed_is_said_before(wrong, message):
    with pytest.raises(BowerbirdError, match=message):
        Deployed.of(wrong)


def test_an_index_that_is_not_there(tmp_path):
    assert "There is no index" in refused("deploy", tmp_path / "none.bower", "--config", "-")


def test_a_cluster_that_is_not_there(run, index_path):
    err = run("deploy", index_path, "--address", "127.0.0.1:1", code=2).err
    assert "There is no Ray cluster" in err
