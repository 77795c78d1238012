"""`/v1/records` over real sockets: read, shown, added, removed; while others search, and while others write."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from tests.serve.conftest import COLOURS, SHAPES, data_url, draw
from tests.serve.servers import SECONDS, served

import bowerbird as bb
from bowerbird.search.index import Index
from bowerbird.serve.limits import Limits
from bowerbird.serve.service import LocalService
from bowerbird.store.lance import LanceTable

RECORDS = len(COLOURS) * len(SHAPES) + 1
NOTE = "notes/a b?.txt"


def add(client, *records, code=200):
    answer = client.post("/v1/records", json={"records": list(records)})
    assert answer.status_code == code, answer.text
    return answer.json()


def ids(client, **question) -> list[str]:
    answer = client.post("/v1/search", json={"k": 20, **question})
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


# Reading.


def test_pages_are_in_the_order_of_ids_and_whole(client):
    found, after = [], ""
    while True:
        page = client.get("/v1/records", params={"after": after, "limit": 5}).json()
        found += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break
        after = found[-1]
    assert len(found) == RECORDS
    assert found == sorted(found)


def test_the_ids_are_read_once_for_all_pages_of_a_version(own_index, monkeypatch):
    scanned, scan = [], LanceTable.scan

    def counted(table, columns, where=None):
        scanned.append(list(columns) == ["id"])
        return scan(table, columns, where)

    monkeypatch.setattr(LanceTable, "scan", counted)
    with served(LocalService(str(own_index), writable=True, tend_seconds=3600)) as client:
        scanned.clear()
        assert client.get("/health/ready").status_code == 200
        assert not scanned  # it costs the same however many records there are
        for where in ("", "price > 10"):
            listed, after = [], ""
            while after is not None:
                page = client.get("/v1/records", params={"after": after, "limit": 2, "where": where}).json()
                listed += [one["id"] for one in page["data"]]
                after = listed[-1] if page["has_more"] else None
            assert listed == sorted(listed)
            assert len(listed) == (RECORDS if not where else 9)
        assert scanned.count(True) == 2
        add(client, {"id": "a new one", "text": "x"})
        assert client.get("/v1/records", params={"limit": 1}).json()["data"][0]["id"] == "a new one"


def test_a_filter_says_which(client):
    page = client.get("/v1/records", params={"where": "price >= 50"}).json()
    assert {one["id"] for one in page["data"]} == {"orange-circle", "orange-square"}
    assert page["has_more"] is False


@pytest.mark.parametrize(
    "params",
    [{"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"where": "folder = '/'"}, {"where": "("}],
    ids=str,
)
def test_wrong_parameters_are_named(client, params):
    answer = client.get("/v1/records", params=params)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_record_is_shown_without_its_path(client, index_path):
    answer = client.get("/v1/records/red-circle")
    body = answer.json()
    assert body["text"] == "a red circle"
    assert body["attributes"]["brand"] == "zenith"
    assert body["attributes"]["width"] == 96
    assert body["image"] == "/v1/records/red-circle/image"
    assert str(index_path.parent) not in answer.text


def test_ids_may_hold_any_character(client):
    body = client.get(f"/v1/records/{quote(NOTE, safe='')}").json()
    assert body["id"] == NOTE
    assert body["image"] is None


@pytest.mark.parametrize("id_", ["nobody", "..", "../../etc/passwd", "%00", "a/b/c", "ü", "red-circle/image"])
def test_an_id_that_is_none_is_not_found(client, id_):
    raw = id_ if id_.startswith("%") else quote(id_, safe="").replace(".", "%2E")
    for path in (f"/v1/records/{raw}", f"/v1/records/{raw}/image", f"/v1/records/{raw}/image?size=original"):
        answer = client.get(path)
        assert answer.status_code == 404, (path, answer.text)
        assert answer.json()["error"]["code"] in ("record_not_found", "not_found")


def test_an_id_that_is_no_utf8_is_refused(client):
    assert client.get("/v1/records/%ff%fe").status_code == 400


# Pictures.


def test_thumbnails_are_small_jpegs_that_are_kept(client):
    answer = client.get("/v1/records/red-circle/image")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in answer.headers["cache-control"]
    head = client.head("/v1/records/red-circle/image")
    assert head.content == b""
    assert int(head.headers["content-length"]) == len(answer.content)
    again = client.get(
        "/v1/records/red-circle/image", headers={"if-none-match": f'"other", W/{answer.headers["etag"]}'}
    )
    assert again.status_code == 304
    assert again.content == b""


def test_originals_are_the_files_themselves(client, index_path):
    answer = client.get("/v1/records/blue-square/image", params={"size": "original"})
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == (index_path.parent / "blue-square.png").read_bytes()
    assert client.get("/v1/records/blue-square/image", params={"size": "huge"}).status_code == 400


def test_what_has_no_picture_says_so(client):
    answer = client.get(f"/v1/records/{quote(NOTE, safe='')}/image")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "picture_not_found"


SECRET = b"root:x:0:0:a secret:/root:/bin/sh\n"


@pytest.fixture(scope="module")
def tampered(tmp_path_factory, model):
    """A client of an index, one of its pictures each having been replaced by something else since."""
    folder = tmp_path_factory.mktemp("tampered")
    records = []
    names = ("link", "linked", "text", "html", "svg", "bmp", "gone", "folder", "other", "same")
    for number, name in enumerate(names):
        path = folder / f"{name}.png"
        path.write_bytes(draw("red", "circle", size=40 + number))
        records.append(bb.Record(name, path))
    bb.Collection.from_items(records).embed(model).write(folder / "x.bower")
    (folder / "secret").write_bytes(SECRET)
    (folder / "link.png").unlink()
    (folder / "link.png").symlink_to(folder / "secret")
    (folder / "text.png").write_bytes(SECRET)
    (folder / "html.png").write_bytes(b"<html><script>alert(1)</script>")
    (folder / "svg.png").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")
    (folder / "bmp.png").write_bytes(b"BM" + SECRET)  # what begins like a picture is none for that
    (folder / "gone.png").unlink()
    (folder / "folder.png").unlink()
    (folder / "folder.png").mkdir()
    (folder / "other.png").write_bytes(draw("blue", "square"))
    (folder / "private.png").write_bytes(draw("green", "square"))
    (folder / "linked.png").unlink()
    (folder / "linked.png").symlink_to(folder / "private.png")
    with served(LocalService(str(folder / "x.bower"))) as client:
        yield client, folder


@pytest.mark.parametrize("name", ["link", "linked", "other", "text", "html", "svg", "bmp", "gone", "folder"])
def test_what_is_not_what_was_indexed_is_never_sent(tampered, name):
    client, folder = tampered
    answer = client.get(f"/v1/records/{name}/image", params={"size": "original"})
    assert answer.status_code == 404, answer.text
    assert answer.json()["error"]["code"] == "picture_not_found"
    assert b"secret" not in answer.content
    assert str(folder) not in answer.text
    assert client.get(f"/v1/records/{name}/image").headers["content-type"] == "image/jpeg"


# Changing.


def test_what_is_added_is_found_at_once_and_what_is_removed_is_not(writable):
    picture = draw("cyan", "circle", size=120)
    said = add(
        writable,
        {
            "id": "new/one",
            "image": data_url(picture),
            "text": "a lighthouse at dusk",
            "attributes": {"price": 99, "sold": True, "made": "by hand"},
        },
    )
    assert said == {
        "object": "records.added",
        "ids": ["new/one"],
        "added": 1,
        "changed": 0,
        "unchanged": 0,
        "failed": [],
    }
    assert ids(writable, text="a lighthouse")[0] == "new/one"
    assert ids(writable, text="a lighthouse", where="sold = true and price = 99") == ["new/one"]
    shown = writable.get("/v1/records/new%2Fone").json()
    assert (shown["attributes"]["made"], shown["attributes"]["width"]) == ("by hand", 120)
    assert writable.get(shown["image"]).headers["content-type"] == "image/jpeg"
    assert writable.get(shown["image"], params={"size": "original"}).status_code == 404
    assert writable.delete("/v1/records/new%2Fone").json() == {
        "object": "record",
        "id": "new/one",
        "deleted": True,
    }
    assert "new/one" not in ids(writable, text="a lighthouse")
    assert writable.delete("/v1/records/new%2Fone").status_code == 404


def test_a_record_of_the_same_id_is_replaced(writable):
    assert add(writable, {"id": "red-circle", "text": "a windmill"})["changed"] == 1
    assert add(writable, {"id": "red-circle", "text": "a windmill"})["unchanged"] == 1
    assert ids(writable, text="a windmill")[0] == "red-circle"
    assert writable.get("/v1/index").json()["records"] == RECORDS


def test_without_an_id_it_is_the_content_and_again_adds_nothing(writable):
    given = [{"text": "a windmill"}, {"image": data_url(draw("cyan", "square"))}, {"text": "a windmill"}]
    first, again = add(writable, *given), add(writable, *given)
    assert first["ids"] == again["ids"]
    assert first["ids"][0] == first["ids"][2] != first["ids"][1]
    assert (first["added"], again["added"], again["unchanged"]) == (2, 0, 3)
    assert writable.get(f"/v1/records/{first['ids'][0]}").json()["text"] == "a windmill"


def test_a_broken_one_stops_nothing(writable):
    said = add(
        writable,
        {"id": "one", "text": "a windmill"},
        {"id": "two", "image": "data:image/png;base64,AAAA"},
        {"id": "three"},
        {"id": "one", "text": "another"},
        {"text": "   "},
        {"id": "six", "image": data_url(b"<svg/>")},
        {"id": "seven", "text": "with a price that is none", "attributes": {"price": "dear"}},
        {"id": "eight", "image": "http://127.0.0.1/a.png"},
        {"image": data_url(b"GIF89a and nothing more")},
        {"id": "ten", "text": "a well"},
    )
    assert said["ids"] == ["one", *[None] * 8, "ten"]
    assert said["added"] == 2
    assert [one["index"] for one in said["failed"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    at_fault = [one["error"]["param"] for one in said["failed"]]
    assert at_fault.pop(5) == "records.6.attributes.price"
    assert at_fault == [f"records.{index}" for index in (1, 2, 3, 4, 5, 7, 8)]
    assert "come before" in said["failed"][2]["error"]["message"]
    assert writable.get("/v1/records/one").json()["text"] == "a windmill"


def test_where_all_are_broken_the_request_is(writable):
    error = add(writable, {"id": "a"}, {"image": "%"}, code=400)["error"]
    assert [one["index"] for one in error["errors"]] == [0, 1]


def test_pictures_are_uploaded(writable):
    files = [("image", ("a.png", draw("cyan", "circle"))), ("image", ("b.png", draw("cyan", "square")))]
    data = {"id": ["x/1", "x/2"], "text": ["one", "two"], "attributes": ['{"price": 1}', "{}"]}
    answer = writable.post("/v1/records", files=files, data=data)
    assert answer.status_code == 200, answer.text
    assert answer.json()["ids"] == ["x/1", "x/2"]
    assert writable.get("/v1/records/x%2F1").json()["attributes"]["price"] == 1
    uneven = writable.post("/v1/records", files=files, data={"id": ["only one"]})
    assert uneven.status_code == 400
    assert uneven.json()["error"]["param"] == "id"


@pytest.fixture(scope="module")
def refusing(index_path, tmp_path_factory):
    """A client of a server that would take records, and is given none that it can."""
    place = shutil.copytree(index_path, tmp_path_factory.mktemp("refusing") / index_path.name)
    with served(LocalService(str(place), ["mini"], writable=True)) as client:
        yield client


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"records": []},
        {"records": {}},
        {"records": [{"id": 5, "text": "a"}]},
        {"records": [{"id": "", "text": "a"}]},
        {"records": [{"text": "a", "attributes": {"x": [1]}}]},
        {"records": [{"text": "a", "attributes": {"": 1}}]},
        {"records": [{"text": "a", "path": "/etc/passwd"}]},
        {"records": [{"text": "a"}] * 2049},
    ],
    ids=lambda body: str(body)[:60],
)
def test_what_is_no_record_is_refused(refusing, body):
    answer = refusing.post("/v1/records", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("records")
    assert refusing.get("/v1/index").json()["records"] == RECORDS


def test_who_serves_read_only_changes_nothing(client):
    assert add(client, {"id": "x", "text": "x"}, code=403)["error"]["code"] == "read_only"
    assert client.delete("/v1/records/red-circle").status_code == 403
    assert client.get("/v1/records/red-circle").status_code == 200


# Many at once.


class Searching:
    """Threads that search until they are told to stop; what went wrong is kept."""

    def __init__(self, client, threads: int = 3) -> None:
        self.client, self.wrong, self.asked = client, [], 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(SECONDS)
        assert self.asked > 0
        assert not self.wrong, self.wrong[:3]

    def _run(self, seed: int) -> None:
        while not self._stop.is_set():
            question = {
                "text": f"a {COLOURS[seed % len(COLOURS)]} circle",
                "k": 3,
                "thumbnails": bool(seed % 2),
            }
            answer = self.client.post("/v1/search", json=question)
            wanted = f"{COLOURS[seed % len(COLOURS)]}-circle"
            if answer.status_code != 200 or wanted not in [one["id"] for one in answer.json()["data"]]:
                self.wrong.append(answer.text[:500])
            listed = self.client.get("/v1/records", params={"limit": 3})
            if listed.status_code != 200:
                self.wrong.append(listed.text[:500])
            self.asked += 1
            seed += 1


def test_searches_never_fail_while_records_come_and_go(writable):
    with Searching(writable) as searching:
        writers = []

        def write(number: int) -> None:
            for turn in range(3):
                id_ = f"writer {number}/{turn}"
                add(
                    writable,
                    {"id": id_, "text": f"text {number} {turn}", "attributes": {f"new {number}": turn}},
                )
                if turn:
                    assert writable.delete(f"/v1/records/{quote(id_, safe='')}").status_code == 200
            writers.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            assert writable.post("/v1/index/refresh").status_code == 200
        for thread in threads:
            thread.join(SECONDS)
        assert sorted(writers) == [0, 1]
        assert searching.asked >= 0
    page = writable.get("/v1/records", params={"after": "writer", "limit": 100}).json()
    kept = [one["id"] for one in page["data"] if one["id"].startswith("writer")]
    assert kept == ["writer 0/0", "writer 1/0"]


@pytest.mark.slow
def test_what_another_process_commits_is_searched_without_a_failed_request(own_index, run, tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    for number in range(3):
        Image.linear_gradient("L").rotate(30 * number).save(folder / f"{number}.png")
    with served(LocalService(str(own_index), tend_seconds=0.1)) as client, Searching(client, 2):
        before = client.get("/v1/index").json()
        run("index", folder, "--index", own_index)
        pause = threading.Event()
        for _ in range(SECONDS * 20):
            if (now := client.get("/v1/index").json())["records"] == RECORDS + 3:
                break
            pause.wait(0.05)
        else:
            pytest.fail("the commit is never noticed")
        assert now["version"] > before["version"]
        assert now["writable"] is False


def test_while_another_process_writes_changes_are_told_to_come_back(own_index):
    service = LocalService(str(own_index), writable=True, limits=Limits(queue_seconds=1.0))
    with served(service) as client:
        with Index.open(own_index).writing():
            answer = client.post("/v1/records", json={"records": [{"id": "x", "text": "x"}]})
            assert answer.status_code == 503, answer.text
            assert answer.json()["error"]["code"] == "index_busy"
            assert int(answer.headers["retry-after"]) > 0
            assert "red-circle" in ids(client, text="a red circle")
        assert add(client, {"id": "x", "text": "x"})["added"] == 1


def test_an_index_that_is_gone_is_searched_as_it_was(own_index, caplog):
    with served(LocalService(str(own_index), tend_seconds=0.05)) as client:
        (own_index / "manifest.json").rename(own_index / "away.json")
        pause = threading.Event()
        for _ in range(SECONDS * 20):
            if "cannot be opened" in caplog.text:
                break
            pause.wait(0.05)
        else:
            pytest.fail("it is never found out")
        assert "red-circle" in ids(client, text="a red circle")
        refused = client.post("/v1/index/refresh")
        assert refused.status_code == 503
        assert str(own_index.parent) not in refused.text
        (own_index / "away.json").rename(own_index / "manifest.json")
        assert json.loads(client.post("/v1/index/refresh").text)["refreshed"] is False


def test_paths_are_not_what_ids_are_read_as(client):
    """Nothing is read from the disk by an id, however it is written."""
    for id_ in (str(Path(__file__).resolve()), "file:///etc/passwd", "/etc/passwd", "\\\\host\\share"):
        for size in ("thumbnail", "original"):
            answer = client.get(f"/v1/records/{quote(id_, safe='')}/image", params={"size": size})
            assert answer.status_code == 404


def test_the_first_value_of_a_new_attribute_says_what_it_holds(writable):
    records = [
        {"id": "a", "text": "one", "attributes": {"rating": 80}},
        {"id": "b", "text": "two", "attributes": {"rating": "cheap"}},
        {"id": "c", "text": "three", "attributes": {"rating": None}},
        {"id": "e", "text": "five", "attributes": {"rating": 79.5}},
    ]
    said = writable.post("/v1/records", json={"records": records}).json()
    assert said["added"] == 3
    (failure,) = said["failed"]
    assert failure["index"] == 1
    assert failure["error"]["param"] == "records.1.attributes.rating"
    assert "numbers" in failure["error"]["message"]
    assert "null" in failure["error"]["message"]
    held = {id_: writable.get(f"/v1/records/{id_}").json()["attributes"].get("rating") for id_ in "ace"}
    assert held == {"a": 80, "c": None, "e": 79.5}
    assert writable.get("/v1/records/b").status_code == 404
    # And so in the next request.
    again = writable.post("/v1/records", json={"records": [records[1]]})
    assert again.status_code == 400
    assert again.json()["error"]["param"] == "records.0.attributes.rating"


@pytest.mark.parametrize("name", ["width", "id", "text", "Uri", "copies"])
def test_an_attribute_that_cannot_keep_its_name_is_refused(writable, name):
    records = [{"text": "one", "attributes": {name: 4}}, {"text": "two"}, {"text": "one"}]
    said = writable.post("/v1/records", json={"records": records}).json()
    assert said["added"] == 2
    (failure,) = said["failed"]
    assert failure["error"]["param"] == f"records.0.attributes.{name}"
    assert f"{name}_" in failure["error"]["message"]
    assert said["ids"][0] is None
    assert all(said["ids"][1:])
    assert f"{name}_" not in writable.get("/v1/index").json()["attributes"]
