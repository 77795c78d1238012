"""Caption files of data sets."""

import json
import pickle
from pathlib import Path

import pytest

from bowerbird.errors import BowerbirdError, RowError, UnreadableError
from bowerbird.flow.sources.captions import CocoSource, Flickr30kSource, KarpathySource
from bowerbird.record import Failure, Record


@pytest.fixture
def file(tmp_path):
    def write(content, name):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


COCO = {
    "info": {"year": 2017},
    "images": [
        {"id": 7, "file_name": "000000000007.jpg", "width": 640, "height": 480, "coco_url": "http://x/7.jpg"},
        {"id": 3, "file_name": "000000000003.jpg", "width": 1, "height": 2},
        {"id": 5, "file_name": "000000000005.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "caption": "A dog."},
        {"id": 2, "image_id": 7, "caption": "A cat on a mat."},
        {"id": 3, "image_id": 7, "caption": "The mat has a cat. "},
    ],
}


def test_coco(file, tmp_path):
    source = CocoSource(file(COCO, "captions_val2017.json"), root="val2017")
    first, second, third = source
    assert first == Record(
        "7",
        Path.cwd() / "val2017" / "000000000007.jpg",
        ("A cat on a mat.", "The mat has a cat. "),
        {"file_name": "000000000007.jpg", "width": 640, "height": 480, "coco_url": "http://x/7.jpg"},
        named=True,
    )
    assert (second.id, second.texts, third.id, third.texts) == ("3", ("A dog.",), "5", ())
    beside = CocoSource(tmp_path / "captions_val2017.json")
    assert next(iter(beside)).image == tmp_path / "000000000007.jpg"
    assert list(pickle.loads(pickle.dumps(source))) == [first, second, third]


def test_broken_entries_of_coco(file):
    images = [
        *COCO["images"],
        {"id": 9},
        "x",
        {"id": 3, "file_name": "twice.jpg"},
        {"id": True, "file_name": "a"},
    ]
    annotations = [*COCO["annotations"], {"image_id": 99, "caption": "x"}, {"image_id": 3}, None]
    items = list(CocoSource(file({"images": images, "annotations": annotations}, "c.json")))
    assert [item.id for item in items] == [
        "7",
        "3",
        "5",
        *(f"c.json: image {n}" for n in (4, 5, 6, 7)),
        *(f"c.json: annotation {n}" for n in (4, 5, 6)),
    ]
    assert all(isinstance(item, Failure) and isinstance(item.error, RowError) for item in items[3:])
    assert "is taken by c.json: image 2" in items[5].error.message
    assert "image 99, which is not there" in items[7].error.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not JSON"),
        ([], "no list 'images'"),
        ({"images": []}, "no list 'annotations'"),
        ({"images": [], "annotations": [{"bbox": []}]}, "No annotation of .* is a caption"),
    ],
)
def test_files_that_are_not_of_coco(file, content, reason):
    with pytest.raises(BowerbirdError, match=reason):
        list(CocoSource(file(content, "c.json")))


def test_files_that_are_missing(tmp_path):
    for source in (CocoSource, Flickr30kSource, KarpathySource):
        with pytest.raises(UnreadableError, match="does not exist"):
            list(source(tmp_path / "gone"))


def test_flickr30k(file, tmp_path):
    lines = (
        "1000092795.jpg#1\tTwo young, White males | outside.\n"
        "1000092795.jpg#0\tTwo young guys with shaggy hair #1 .\n"
        "10002456.jpg#0\tSeveral men in hard hats .\n"
        "1000092795.jpg#2\tTwo men in green shirts .\n"
    )
    source = Flickr30kSource(file(lines.encode(), "results_20130124.token"), root="images")
    first, second = source
    assert first == Record(
        "1000092795.jpg",
        Path.cwd() / "images" / "1000092795.jpg",
        (
            "Two young guys with shaggy hair #1 .",
            "Two young, White males | outside.",
            "Two men in green shirts .",
        ),
        named=True,
    )
    assert second.texts == ("Several men in hard hats .",)
    assert list(pickle.loads(pickle.dumps(source))) == [first, second]


def test_broken_lines_of_flickr30k(file):
    lines = b"a.jpg#0\tone\nb.jpg 0 two\na.jpg#0\tagain\nc.jpg#0\tcaf\xe9\nd.jpg#0\t \ne.jpg#0\tfive\n"
    items = list(Flickr30kSource(file(lines, "r.token")))
    assert [item.id for item in items] == [
        "a.jpg",
        "r.token:2",
        "r.token:3",
        "r.token:4",
        "r.token:5",
        "e.jpg",
    ]
    assert all(isinstance(item.error, RowError) for item in items[1:5])
    assert "caption 0 of a.jpg is there already" in items[2].error.message


def test_flickr30k_as_kaggle_has_it(file):
    lines = (
        "image_name| comment_number| comment\n"
        "1000092795.jpg| 0| Two young guys # with shaggy hair .\n"
        "1000092795.jpg| 1| Two young | White males .\n"
        "2199200615.jpg| 3| A dog plays .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n"  # So it is in that file.
    )
    first, second, failure = Flickr30kSource(file(lines.encode(), "results.csv"))
    assert first.texts == ("Two young guys # with shaggy hair .", "Two young | White males .")
    assert second.texts == ("A dog plays .",)
    assert failure.id == "results.csv:5"


def karpathy(split, number, **more):
    return {
        "filepath": "val2014",
        "filename": f"COCO_val2014_{number:012}.jpg",
        "cocoid": number,
        "imgid": number,
        "sentids": [1, 2],
        "split": split,
        "sentences": [{"tokens": ["a", "man"], "raw": "A man.", "sentid": 1}, {"raw": "", "sentid": 2}],
        **more,
    }


def test_karpathy(file):
    images = [karpathy("test", 391895), karpathy("train", 2), karpathy("val", 3), karpathy("test", 4)]
    path = file({"dataset": "coco", "images": images}, "dataset_coco.json")
    source = KarpathySource(path, root="/data/coco")
    first, *_ = source
    assert first.id == "391895"
    assert first.image == Path("/data/coco/val2014/COCO_val2014_000000391895.jpg")
    assert first.texts == ("A man.",)
    assert first["split"] == "test"
    assert first["sentids"] == [1, 2]
    assert "sentences" not in first.attributes
    assert [record.id for record in KarpathySource(path, split="test")] == ["391895", "4"]
    assert [record.id for record in KarpathySource(path, split="train+val")] == ["2", "3"]
    with pytest.raises(BowerbirdError, match=r"no split dev.*Its splits: test, train, val"):
        list(KarpathySource(path, split="dev"))


def test_karpathy_of_flickr30k(file, tmp_path):
    image = {"filename": "1.jpg", "split": "val", "sentids": [0], "sentences": [{"raw": "x"}]}
    (record,) = KarpathySource(file({"images": [image]}, "dataset_flickr30k.json"))
    assert (record.id, record.image) == ("1.jpg", tmp_path / "1.jpg")


def test_broken_entries_of_karpathy(file):
    images = [
        karpathy("test", 1),
        {"split": "test"},
        karpathy("test", 1),
        karpathy("test", 3, sentences=[{"tokens": []}]),
        karpathy(None, 4),
        None,
        karpathy("test", 5),
    ]
    items = list(KarpathySource(file({"images": images}, "k.json"), split="test"))
    assert [item.id for item in items] == ["1", *(f"k.json: image {n}" for n in (2, 3, 4, 5, 6)), "5"]
