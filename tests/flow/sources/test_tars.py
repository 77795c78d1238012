"""WebDataset's shards."""

import gzip
import io
import json
import pickle
import tarfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowerbird.errors import DecodeError, RowError, UnreadableError
from bowerbird.flow.sources.tars import SMALL, TarMember, WebDatasetSource, braces
from bowerbird.media.policy import DecodePolicy
from bowerbird.record import Failure, Record


@pytest.fixture
def shard(tmp_path):
    def write(members, name="train-0000.tar", mode="w"):
        path = tmp_path / name
        with tarfile.open(path, mode) as tar:
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


def sample(key, picture, **more):
    return [
        (f"{key}.jpg", picture),
        (f"{key}.txt", f"caption {key}".encode()),
        (f"{key}.json", json.dumps({"width": 64, "key": key}).encode()),
        *((f"{key}.{suffix}", content) for suffix, content in more.items()),
    ]


def test_samples(shard, picture):
    picture = picture(1, "JPEG")
    path = shard([*sample("a/0001", picture, cls=b"3"), *sample("a/0002", picture, npy=b"small")])
    source = WebDatasetSource(path)
    first, second = source
    assert first.id == "train-0000.tar/a/0001"
    assert first.texts == ("caption a/0001",)
    assert first.attributes == {"width": 64, "key": "a/0001", "label": 3}
    assert second.attributes == {"width": 64, "key": "a/0002", "npy": b"small"}
    member = pickle.loads(pickle.dumps(first.image))
    assert member.read(DecodePolicy()) == picture
    assert str(member) == f"{path}/a/0001.jpg"
    assert list(pickle.loads(pickle.dumps(source))) == [first, second]


def test_members_by_what_they_are(shard):
    big = bytes(SMALL + 1)
    path = shard(
        [
            ("README", b"no dot"),
            ("__meta__", b"{}"),
            ("__notes__/a.jpg", b"x"),
            (".hidden", b""),
            ("x.input.png", b"one"),
            ("x.target.png", b"two"),
            ("x.SEG.bin", big),
            ("x.json", b"[1]"),
            ("x.txt", b" \n"),
            ("y.b/z.txt", b"dots in folders"),
        ]
    )
    first, second = WebDatasetSource(path)
    assert first.id == "train-0000.tar/x"
    assert first.image.read(DecodePolicy()) == b"one"
    assert first.attributes["target.png"].read(DecodePolicy()) == b"two"
    assert first.attributes["seg.bin"].read(DecodePolicy()) == big
    assert first.attributes["json"] == [1]
    assert first.texts == ()
    assert (second.id, second.text) == ("train-0000.tar/y.b/z", "dots in folders")


@pytest.mark.parametrize(("name", "mode"), [("t.tar.gz", "w:gz"), ("t.tgz", "w:gz")])
def test_packed_shards(shard, picture, name, mode):
    picture = picture(1, "PNG")
    path = shard([*sample("1", picture), *sample("2", picture, bin=bytes(SMALL + 1))], name, mode)
    first, second = WebDatasetSource(path)
    assert first.image == second.image == picture
    assert second.attributes["bin"] == bytes(SMALL + 1)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("2.cls", b"cat"), "not a whole number"),
        (("2.json", b"{"), "not JSON"),
        (("2.txt", b"caf\xe9"), "not UTF-8"),
        (("2.jpg", b"again"), "2.jpg is there twice"),
    ],
)
def test_a_broken_sample_is_a_failure_at_its_place(shard, member, reason):
    path = shard([("1.jpg", b"x"), ("2.jpg", b"x"), member, ("3.jpg", b"x")])
    items = list(WebDatasetSource(path))
    assert [(item.id, type(item)) for item in items] == [
        ("train-0000.tar/1", Record),
        ("train-0000.tar/2", Failure),
        ("train-0000.tar/3", Record),
    ]
    assert isinstance(items[1].error, RowError)
    assert reason in items[1].error.message


def test_shards_in_order(shard, tmp_path):
    for number in range(3):
        shard([(f"{number}.txt", b"x")], f"train-{number:04}.tar")
    ids = [f"train-{number:04}.tar/{number}" for number in range(3)]
    for pattern in (
        f"{tmp_path}/train-{{0000..0002}}.tar",
        tmp_path / "*.tar",
        tmp_path,
        [tmp_path / "train-0000.tar", f"{tmp_path}/train-000[12].tar"],
    ):
        source = WebDatasetSource(pattern)
        assert [record.id for record in source] == ids
        parts = source.parts()
        assert len(parts) == 3
        assert [record.id for part in pickle.loads(pickle.dumps(parts)) for record in part] == ids


def test_a_missing_shard_is_one_failure(shard, tmp_path):
    shard([("0.txt", b"x")], "t-0.tar")
    shard([("2.txt", b"x")], "t-2.tar")
    items = list(WebDatasetSource(f"{tmp_path}/t-{{0..2}}.tar"))
    assert [(item.id, type(item)) for item in items] == [
        ("t-0.tar/0", Record),
        ("t-1.tar", Failure),
        ("t-2.tar/2", Record),
    ]
    with pytest.raises(UnreadableError):
        list(WebDatasetSource(tmp_path / "none-*.tar"))


@given(cut=st.integers(0, 5 * 1536 + 1023))
def test_a_shard_that_is_cut_off(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("tar") / "t.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(5):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes(700)))
    path.write_bytes(path.read_bytes()[:cut])
    items = list(WebDatasetSource(path))
    # A member is a header and two blocks; the mark of the end is two blocks, of which tarfile reads one.
    if cut >= 5 * 1536 + 512:
        assert [type(item) for item in items] == [Record] * 5
        return
    *before, failure = items
    assert isinstance(failure.error, UnreadableError)
    assert all(isinstance(item, Record) for item in before)
    assert len(before) >= min(cut // 1536, 5) - 1
    assert all(len(item.image.read(DecodePolicy())) == 700 for item in before)


@pytest.mark.parametrize("packed", [False, True])
def test_a_shard_that_is_damaged_in_the_middle(shard, packed):
    import random

    noise = random.Random(0).randbytes(3000)
    path = shard(
        [(f"{number}.jpg", noise) for number in range(300)], *(("t.tar.gz", "w:gz") if packed else ())
    )
    data = bytearray(path.read_bytes())
    # In the header of member 150: each takes a block for its header, and six for its bytes.
    place = len(data) // 2 if packed else 3584 * 150
    data[place : place + 40] = b"\xff" * 40
    path.write_bytes(data)
    *before, failure = WebDatasetSource(path)
    assert (50 if packed else 149) <= len(before) < 150
    assert all(isinstance(item, Record) for item in before)
    assert "is damaged, or cut off" in failure.error.message


@pytest.mark.parametrize(
    "content",
    [b"", b"not a tar at all" * 100, gzip.compress(b"x" * 5000)],
    ids=["empty", "text", "packed"],
)
def test_what_is_no_tar(tmp_path, content):
    path = tmp_path / "t.tar"
    path.write_bytes(content)
    (failure,) = WebDatasetSource(path)
    assert (failure.id, type(failure.error)) == ("t.tar", UnreadableError)


def test_an_empty_shard(shard):
    assert list(WebDatasetSource(shard([]))) == []


def test_reading_members_that_changed(shard, tmp_path):
    path = shard([("a.jpg", bytes(100)), ("b.jpg", b"")])
    first, second = (record.image for record in WebDatasetSource(path))
    with pytest.raises(UnreadableError, match="more than the cap"):
        first.read(DecodePolicy(max_bytes=99))
    with pytest.raises(DecodeError, match="empty"):
        second.read(DecodePolicy())
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UnreadableError, match="ends after 88 of 100 bytes"):
        first.read(DecodePolicy())
    path.unlink()
    with pytest.raises(UnreadableError, match="does not exist"):
        first.read(DecodePolicy())


def test_memory_does_not_grow_with_members(shard):
    path = shard([(f"{number}.jpg", b"x") for number in range(4000)])
    tracemalloc.start()
    assert sum(isinstance(item, Record) for item in WebDatasetSource(path)) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_the_same_samples_as_webdataset(shard, picture):
    wds = pytest.importorskip("webdataset")
    members = [
        *sample("a/0001", picture(1, "JPEG"), cls=b"3"),
        *sample("a/0002.x", picture(2, "PNG")),
        ("top", b"no suffix"),
        ("__notes__", b"skipped"),
        ("b.c/0003.JPG", picture(3, "JPEG")),
        ("b.c/0003.seg.png", picture(4, "PNG")),
        (".hidden.jpg", picture(5, "JPEG")),
        ("0004.txt", b"alone"),
    ]
    path = shard(members)
    with path.open("rb") as stream:
        files = wds.tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
        theirs = list(wds.tariterators.group_by_keys(files))
    ours = list(WebDatasetSource(path))
    assert [record.id for record in ours] == [f"train-0000.tar/{sample['__key__']}" for sample in theirs]
    for record, known in zip(ours, theirs, strict=True):
        pictures = {key: value for key, value in known.items() if key.rpartition(".")[2] in ("jpg", "png")}
        found = [
            record.image,
            *(value for value in record.attributes.values() if isinstance(value, TarMember)),
        ]
        assert [member.read(DecodePolicy()) for member in found if member is not None] == list(
            pictures.values()
        )
        assert record.texts == tuple(value.decode() for key, value in known.items() if key == "txt")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("{a,b}-{08..11}.tar", [f"{x}-{n:02}.tar" for x in "ab" for n in range(8, 12)]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{x}{a,b}", ["{x}a", "{x}b"]),
        ("{,b}.tar", [".tar", "b.tar"]),
    ],
)
def test_braces(pattern, expected):
    assert braces(pattern) == expected
    braceexpand = pytest.importorskip("braceexpand")
    assert list(braceexpand.braceexpand(pattern)) == expected
