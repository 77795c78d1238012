"""The beginnings of collections: one constructor for each kind of place that records come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from bowerbird.errors import BowerbirdError
from bowerbird.flow.plan import Plan, Source
from bowerbird.record import Record

if TYPE_CHECKING:
    from bowerbird.collection.collection import Collection

T = TypeVar("T")

Place: TypeAlias = "str | Path"
"""A path, or the address of an object in a store such as `s3://bucket/key`."""


class Opening:
    """What `Collection.from_...` are; a base of `Collection` only so that they have a file of their own."""

    @classmethod
    def of(cls, source: Source) -> Collection[Any]:
        """A collection over a source of your own: a subclass of `bowerbird.flow.plan.Source`.

        >>> from bowerbird.flow.sources.values import RangeSource
        >>> Collection.of(RangeSource(0, 3, 1)).to_list()
        [0, 1, 2]
        """
        from bowerbird.collection.collection import Collection

        return Collection(Plan(source))

    @classmethod
    def range(cls, start: int, stop: int | None = None, step: int = 1) -> Collection[int]:
        """The numbers of `range(start, stop, step)`; with one number, those below it.

        >>> Collection.range(20).filter(lambda n: n % 10 == 3).map(str).to_list()
        ['3', '13']
        """
        from bowerbird.flow.sources.values import RangeSource

        begin, end = (0, start) if stop is None else (start, stop)
        return cls.of(RangeSource(begin, end, step))

    @classmethod
    def from_items(cls, items: Iterable[T] | Callable[[], Iterable[T]]) -> Collection[T]:
        """Anything that can be iterated, element by element.

        A generator can be run through once only; give a function that makes it, to run a collection several times.

        >>> Collection.from_items(["a", "b"]).map(str.upper).to_list()
        ['A', 'B']
        """
        from bowerbird.flow.sources.values import IterableSource

        return cls.of(IterableSource(items))

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Collection[Record]:
        """A record for each text, with the ids `text:0`, `text:1` and so on.

        >>> Collection.from_texts(["a red dress", "shoes"]).map(lambda record: record.text).to_list()
        ['a red dress', 'shoes']
        """
        from bowerbird.flow.sources.values import IterableSource, TextSource

        return cls.of(TextSource(IterableSource(texts)))

    @classmethod
    def from_glob(cls, *patterns: Place | Sequence[Place]) -> Collection[Record]:
        """A record for each picture that some patterns, folders or files lead to, on disk or in an object store.

        `**` crosses folders. A folder is walked whole. What lies in object stores comes after what lies here, and
        then what http and https addresses lead to. The path, as it is found, is the record's id.

        Args:
            patterns: one or several, or lists of them.

        >>> Collection.from_glob(samples() / "*.jpg").count()
        6
        """
        from bowerbird.flow.sources.addresses import is_remote, is_web
        from bowerbird.flow.sources.folders import GlobSource
        from bowerbird.flow.sources.several import Several
        from bowerbird.flow.sources.stored import StoredSource
        from bowerbird.flow.sources.web import WebSource

        wanted = [
            fspath(pattern)
            for group in patterns
            for pattern in ((group,) if isinstance(group, (str, PathLike)) else group)
        ]
        if not wanted:
            raise BowerbirdError("from_glob was given nothing.", hint="Give a pattern, a folder or a file.")
        here = [pattern for pattern in wanted if not is_remote(pattern)]
        web = [pattern for pattern in wanted if is_web(pattern)]
        sources: list[Source] = [GlobSource(here)] if here else []
        sources += [StoredSource(place) for place in wanted if is_remote(place) and not is_web(place)]
        sources += [WebSource(web)] if web else []
        return cls.of(sources[0] if len(sources) == 1 else Several(tuple(sources)))

    @classmethod
    def from_folder(cls, folder: Place, *, text: str | Sequence[str] = "") -> Collection[Record]:
        """A folder of pictures in the layout of Hugging Face's `imagefolder`.

        Where the pictures lie in folders of their own, the name of the first is the attribute `label`. A
        `metadata.csv`, `.jsonl` or `.parquet` with a column `file_name` gives more attributes.

        Args:
            folder: where the pictures lie.
            text: columns of the metadata that are texts rather than attributes.

        >>> Collection.from_folder(samples()).map(lambda record: record.image.stem).sort().limit(2).to_list()
        ['astronaut', 'camera']
        """
        from bowerbird.flow.sources.folders import FolderSource

        return cls.of(FolderSource(folder, text=text))

    @classmethod
    def from_csv(
        cls,
        path: Place,
        *,
        delimiter: str | None = None,
        image: str = "",
        text: str | Sequence[str] = "",
        id: str = "",
        root: Place = "",
    ) -> Collection[Record]:
        r"""A record for each row of a CSV or TSV file with a line of column names.

        Args:
            path: of the file, here or in an object store.
            delimiter: between fields; None: a tab or a comma, as the name and the first line of the file have it.
            image: column of the picture: a path, an address, or nothing.
            text: column of the text, or several.
            id: column of the id; without one, `FILE:LINE` is the id.
            root: folder, or address, that paths of pictures are relative to; empty: the folder of the file.

        A row that is malformed or repeats an id is a `Failure` at its place.

        >>> table = tmp / "captions.csv"
        >>> _ = table.write_text("file#caption#price\nchelsea.jpg#a cat#12\nrocket.jpg#a rocket#90\n")
        >>> cats = Collection.from_csv(table, delimiter="#", image="file", text="caption", root=samples())
        >>> cats.filter(lambda record: record["price"] < 20).select("text", "price").to_list()
        [{'text': 'a cat', 'price': 12}]
        """
        from bowerbird.flow.sources.tables import CsvSource

        return cls.of(CsvSource(path, delimiter, image, text, id, root))

    @classmethod
    def from_jsonl(
        cls, path: Place, *, image: str = "", text: str | Sequence[str] = "", id: str = "", root: Place = ""
    ) -> Collection[Record]:
        r"""A record for each line of a JSON Lines file; the arguments are those of `from_csv`.

        >>> lines = tmp / "lines.jsonl"
        >>> _ = lines.write_text('{"name": "Chelsea", "note": "a cat"}\n')
        >>> Collection.from_jsonl(lines, text="note", id="name").select("id", "text").to_list()
        [{'id': 'Chelsea', 'text': 'a cat'}]
        """
        from bowerbird.flow.sources.tables import JsonLinesSource

        return cls.of(JsonLinesSource(path, image, text, id, root))

    @classmethod
    def from_parquet(
        cls, path: Place, *, image: str = "", text: str | Sequence[str] = "", id: str = "", root: Place = ""
    ) -> Collection[Record]:
        """A record for each row of a Parquet file, or of a folder or pattern of them.

        Pictures may be paths, bytes, or the structures of Hugging Face's `datasets`. What `write` has written is
        read back as it was, vectors included. The arguments are those of `from_csv`.

        >>> made = Collection.from_texts(["a cat"]).embed("mini").write(tmp / "cat.parquet")
        >>> Collection.from_parquet(tmp / "cat.parquet").map(lambda record: record.vector.shape).to_list()
        [(384,)]
        """
        from bowerbird.flow.sources.parquet import ParquetSource

        return cls.of(ParquetSource(path, image, text, id, root))

    @classmethod
    def from_arrow(
        cls, table: Any, *, image: str = "", text: str | Sequence[str] = "", id: str = "", root: Place = ""
    ) -> Collection[Record]:
        """A record for each row of an Arrow table, a reader of record batches, or an `.arrow` or `.feather` file.

        Data frames of pandas and polars are taken as well, and all else that speaks Arrow's C interface. The
        arguments are those of `from_csv`.

        >>> import pyarrow as pa
        >>> Collection.from_arrow(pa.table({"note": ["a cat"]}), text="note").select("text").to_list()
        [{'text': 'a cat'}]
        """
        from bowerbird.flow.sources.arrow import ArrowSource

        return cls.of(ArrowSource(table, image, text, id, root))

    @classmethod
    def from_lance(cls, path: Place, *, where: str = "", columns: Sequence[str] = ()) -> Collection[Record]:
        """A record for each row of a Lance dataset, such as `write` makes.

        Args:
            path: of the dataset.
            where: an SQL filter over its columns.
            columns: to read; empty: all.

        >>> made = Collection.from_texts(["a cat", "a dog"]).write(tmp / "pets.lance")
        >>> Collection.from_lance(tmp / "pets.lance").map(lambda record: record.text).to_list()
        ['a cat', 'a dog']
        """
        from bowerbird.store.lance_files import LanceSource

        return cls.of(LanceSource(path, where, tuple(columns)))

    @classmethod
    def from_webdataset(cls, *shards: Place) -> Collection[Record]:
        """The samples of WebDataset tar files: `shards-{0000..0041}.tar`, patterns, or several paths.

        Pictures are read from the tars when they are needed. See `bowerbird.flow.sources.tars` for how members
        become parts.

        >>> import tarfile
        >>> with tarfile.open(tmp / "pets.tar", "w") as tar:
        ...     tar.add(samples() / "chelsea.jpg", "000.jpg")
        >>> Collection.from_webdataset(tmp / "pets.tar").decode().select("width").to_list()
        [{'width': 320}]
        """
        from bowerbird.flow.sources.tars import WebDatasetSource

        return cls.of(WebDatasetSource([fspath(shard) for shard in shards]))

    @classmethod
    def from_npy(cls, path: Place, *, metadata: Place | None = None, name: str = "") -> Collection[Record]:
        """A record with a vector for each row of a NumPy array (n, dim).

        Args:
            path: of the `.npy` file, or of a folder that `write` made.
            metadata: a table with a row for each vector: `.parquet`, `.jsonl` or `.csv`; of what `write` made, its
                `records.parquet` is found.
            name: what the vectors are called, and of a folder which of them are read; empty: `image`, or of what
                `write` made the name that they had.

        >>> import numpy as np
        >>> np.save(tmp / "rows.npy", np.eye(3, dtype=np.float32))
        >>> Collection.from_npy(tmp / "rows.npy").map(lambda record: record.vector.tolist()).limit(1).to_list()
        [[1.0, 0.0, 0.0]]
        """
        from bowerbird.flow.sources.arrays import NpySource

        return cls.of(NpySource(path, metadata, name))

    @classmethod
    def from_clip_retrieval(cls, folder: Place) -> Collection[Record]:
        """What clip-retrieval's `inference` writes: `img_emb/`, `text_emb/` and `metadata/`.

        >>> made = Collection.from_texts(["a cat"]).embed("mini").write(tmp / "out", format="clip-retrieval")
        >>> Collection.from_clip_retrieval(tmp / "out").select("text").to_list()
        [{'text': 'a cat'}]
        """
        from bowerbird.flow.sources.arrays import ClipRetrievalSource

        return cls.of(ClipRetrievalSource(folder))

    @classmethod
    def from_urls(
        cls,
        urls: Sequence[str] | Place,
        *,
        timeout: float = 20.0,
        retries: int = 3,
        public_only: bool = False,
    ) -> Collection[Record]:
        """A record for each http or https address of a picture; it is fetched when it is needed.

        An address that cannot be reached, or answers with something else, is a `Failure` at its place.

        Args:
            urls: addresses, one or several, or a file with one on each line.
            timeout: seconds that one picture may take.
            retries: how often a failure that may pass is tried again.
            public_only: refuse addresses of private networks, also after redirects.

        >>> Collection.from_urls(["https://example.org/cat.jpg"]).select("id").to_list()
        [{'id': 'https://example.org/cat.jpg'}]
        """
        from bowerbird.flow.sources.web import WebSource
        from bowerbird.flow.web import WebLimits

        limits = WebLimits(seconds=timeout, retries=retries, public_only=public_only)
        return cls.of(WebSource(urls, limits=limits))

    @classmethod
    def from_coco(cls, path: Place, *, root: Place = "") -> Collection[Record]:
        """COCO captions, as `captions_train2017.json`: a record for each picture, with all its captions.

        >>> _ = (tmp / "coco.json").write_text(
        ...     '{"images": [{"id": 7, "file_name": "chelsea.jpg"}],'
        ...     ' "annotations": [{"image_id": 7, "id": 1, "caption": "A cat."}]}'
        ... )
        >>> Collection.from_coco(tmp / "coco.json", root=samples()).select("id", "texts").to_list()
        [{'id': '7', 'texts': ('A cat.',)}]
        """
        from bowerbird.flow.sources.captions import CocoSource

        return cls.of(CocoSource(path, root))

    @classmethod
    def from_flickr30k(cls, path: Place, *, root: Place = "") -> Collection[Record]:
        r"""The token file of Flickr30k, or its `results.csv`: a record for each picture, with its captions.

        >>> _ = (tmp / "f.token").write_text("chelsea.jpg#0\tA cat .\nchelsea.jpg#1\tA tabby .\n")
        >>> Collection.from_flickr30k(tmp / "f.token", root=samples()).select("texts").to_list()
        [{'texts': ('A cat .', 'A tabby .')}]
        """
        from bowerbird.flow.sources.captions import Flickr30kSource

        return cls.of(Flickr30kSource(path, root))

    @classmethod
    def from_karpathy(cls, path: Place, *, root: Place = "", split: str = "") -> Collection[Record]:
        """Karpathy's splits, as `dataset_coco.json` and `dataset_flickr30k.json`.

        Args:
            path: of the file.
            root: folder of the pictures.
            split: `train`, `val`, `test` or `restval`; empty: all, with the attribute `split`.

        >>> _ = (tmp / "k.json").write_text(
        ...     '{"images": [{"filename": "chelsea.jpg", "split": "test", "imgid": 0, "sentids": [0],'
        ...     ' "sentences": [{"raw": "A cat.", "sentid": 0, "imgid": 0, "tokens": ["a", "cat"]}]}]}'
        ... )
        >>> Collection.from_karpathy(tmp / "k.json", root=samples(), split="test").select("texts").to_list()
        [{'texts': ('A cat.',)}]
        """
        from bowerbird.flow.sources.captions import KarpathySource

        return cls.of(KarpathySource(path, root, split))
