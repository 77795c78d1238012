"""What additions leave for later: how often the index is measured and put together, and that it is done."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from tests.serve.servers import SECONDS, served

import bowerbird as bb
from bowerbird.search import calibrate
from bowerbird.search.index import Index
from bowerbird.serve import indexed
from bowerbird.serve.service import LocalService
from bowerbird.store.lance import LanceTable

ADDED = 20


@pytest.fixture
def pictures_alone(tmp_path, drawn, model):
    """An index of pictures without a text: the first texts are many more than there were."""
    records = [
        bb.Record(f"{colour}-{size}", drawn(colour, "circle", size=size))
        for colour in ("red", "green", "blue")
        for size in (40, 48, 56)
    ]
    bb.Collection.from_items(records).embed(model).write(tmp_path / "pictures.bower")
    return tmp_path / "pictures.bower"


@pytest.fixture
def counted(monkeypatch):
    """How often an index was measured, and how often it was put together; both still happen."""
    counts = {"measured": 0, "put together": 0}
    measure, optimize = calibrate.measure, LanceTable.optimize

    def measured(*arguments, **keywords):
        counts["measured"] += 1
        return measure(*arguments, **keywords)

    def put_together(*arguments, **keywords):
        counts["put together"] += 1
        return optimize(*arguments, **keywords)

    monkeypatch.setattr(calibrate, "measure", measured)
    monkeypatch.setattr(LanceTable, "optimize", put_together)
    return counts


def test_records_that_come_one_by_one_are_measured_at_steps_of_growth(pictures_alone, counted, monkeypatch):
    # Whatever time there is between two of them: a pause after each would be the worst.
    monkeypatch.setattr(indexed, "QUIET_SECONDS", 0.0)
    service = LocalService(str(pictures_alone), writable=True, tend_seconds=0.01)
    with served(service) as client:
        for number in range(ADDED):
            said = client.post("/v1/records", json={"records": [{"text": f"note {number} of a diver"}]})
            assert said.json()["added"] == 1, said.text
            assert len(client.post("/v1/search", json={"text": f"note {number} of a diver"}).json()["data"])
        _until_tidy(client, service)
    # At 1, 3, 7 and 15 texts, and for all 9 records that have become many more; once more where two fall together.
    assert 2 <= counted["measured"] <= 8
    (entry,) = Index.open(pictures_alone).manifest.models
    assert not calibrate.is_stale(Index.open(pictures_alone), entry, few=calibrate.FEW)


def test_an_addition_itself_measures_nothing_and_puts_nothing_together(pictures_alone, counted):
    with served(LocalService(str(pictures_alone), writable=True, tend_seconds=3600)) as client:
        for number in range(ADDED):
            said = client.post("/v1/records", json={"records": [{"text": f"note {number}"}]})
            assert said.json()["added"] == 1, said.text
        assert client.get("/v1/index").json()["records"] == 9 + ADDED
    assert counted == {"measured": 0, "put together": 0}
    # Who indexes the next time finds it as any other index, and measures it.
    bb.Collection.from_items([bb.Record("last", None, ("the last",))]).embed("mini").write(pictures_alone)
    assert counted["measured"] == 1
    assert counted["put together"] == 1


def test_many_additions_are_put_together_while_more_are_coming(pictures_alone, counted, monkeypatch):
    monkeypatch.setattr(indexed, "MANY_CHANGES", 4)
    monkeypatch.setattr(indexed, "QUIET_SECONDS", 3600.0)
    service = LocalService(str(pictures_alone), writable=True, tend_seconds=3600)
    with served(service) as client:
        for number in range(3):
            client.post("/v1/records", json={"records": [{"text": f"note {number}"}]})
        assert service.index.tidy()  # nothing was measured of texts yet
        assert not service.index.tidy()
        for number in range(3, 6):
            client.post("/v1/records", json={"records": [{"text": f"note {number}"}]})
        assert not service.index.tidy()
        client.delete("/v1/records/red-40")
        assert service.index.tidy()
    assert counted["put together"] == 2


def test_what_a_service_left_undone_is_done_by_the_next(pictures_alone, counted):
    with served(LocalService(str(pictures_alone), writable=True, tend_seconds=3600)) as client:
        for number in range(ADDED):
            client.post("/v1/records", json={"records": [{"text": f"note {number}"}]})
    assert counted == {"measured": 0, "put together": 0}
    service = LocalService(str(pictures_alone), writable=True, tend_seconds=3600)
    with served(service):
        assert service.index.tidy()
        assert counted == {"measured": 1, "put together": 1}
        assert not service.index.tidy()
    service = LocalService(str(pictures_alone), writable=True, tend_seconds=3600)
    with served(service):
        assert not service.index.tidy()  # there was nothing left


def test_what_others_have_measured_meanwhile_stays(pictures_alone, model, monkeypatch):
    index = Index.open(pictures_alone, [model])
    (entry,) = index.manifest.models
    with index.writing():
        index.change(replace(entry, calibration={}))
        index.write_manifest()
    measure = calibrate.measure

    def measured(*arguments, **keywords):
        found = measure(*arguments, **keywords)
        monkeypatch.setattr(calibrate, "measure", measure)
        calibrate.calibrate(Index.open(pictures_alone, [model]), seed=7)
        return found

    monkeypatch.setattr(calibrate, "measure", measured)
    assert not calibrate.renew(index)
    (kept,) = Index.open(pictures_alone).manifest.models
    assert kept.calibration["file"]
    assert Index.open(pictures_alone, [model]).background(kept).records == 9


def _until_tidy(client, service):
    last = time.monotonic() + SECONDS
    while service.index._changes and time.monotonic() < last:
        client.get("/v1/index")
    assert not service.index._changes
