"""Caption files of COCO, Flickr30k and Karpathy's splits: a record for each picture, with all its captions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.errors import BowerbirdError, InputError, RowError, UnreadableError
from bowerbird.flow.plan import Source
from bowerbird.flow.sources.addresses import base_name, folder_of, joined, located, opened, picture_at, shown
from bowerbird.flow.sources.lines import StoppedError, TooLongError, open_lines
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record

_TOKEN = re.compile(r"([^\t#|]+)#(\d+)\t(.*)")
_COMMENT = re.compile(r"([^|]+)\| *(\d+)\| ?(.*)")


class _Captions(Source):
    """A caption file and the folder of its pictures."""

    path: str | Path
    root: str | Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", located(self.path))
        object.__setattr__(self, "root", located(self.root) if self.root else folder_of(str(self.path)))

    def describe(self) -> str:
        """See `Source`."""
        return f"captions of {shown(str(self.path))}"


@dataclass(frozen=True)
class CocoSource(_Captions):
    """A caption file of COCO, such as `captions_val2017.json`: `images` and `annotations`, joined by `image_id`.

    Records come in the order of `images`; their id is the image's, their texts its captions in the order of
    `annotations`, and what else the image has (`file_name`, `width`, `height`, `coco_url`, ...) become attributes.
    Broken entries are `Failure`s: an image at its place; an annotation without a caption or of an image that is not
    there, after all records. The file is read into memory. Format: cocodataset.org/#format-data, section 4.

    Attributes:
        path: local, or an address.
        root: the folder of the pictures, or an address; empty: the one the file is in.
    """

    path: str | Path
    root: str | Path = ""

    label = "from_coco"

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            BowerbirdError: the file cannot be read, or has no images or annotations.
        """
        name = base_name(str(self.path))
        images, annotations = _lists(str(self.path), ("images", "annotations"))
        known = {image["id"] for image in images if _has(image, id=(int, str))}
        captions, failures = self._captions(annotations, known, name)
        if annotations and not captions:
            raise BowerbirdError(
                f"No annotation of {shown(str(self.path))} is a caption.",
                hint="Give COCO's file of captions; those of instances and keypoints have none.",
            )
        met: dict[Any, str] = {}
        for number, image in enumerate(images, start=1):
            place = f"{name}: image {number}"
            try:
                if not _has(image, id=(int, str), file_name=(str,)):
                    raise RowError(f"{place} has no id or no file_name.", hint="Mend or remove it.")
                if image["id"] in met:
                    raise RowError(
                        f"{place}: the id {image['id']} is taken by {met[image['id']]}.",
                        hint="Mend or remove it.",
                    )
                met[image["id"]] = place
                yield Record(
                    str(image["id"]),
                    image=picture_at(image["file_name"], str(self.root)),
                    texts=tuple(captions.get(image["id"], ())),
                    attributes={key: value for key, value in image.items() if key != "id"},
                    named=True,
                )
            except InputError as error:
                yield Failure(place, self.label, error)
        yield from failures

    def _captions(
        self, annotations: Sequence[Any], known: set[Any], name: str
    ) -> tuple[dict[Any, list[str]], list[Failure]]:
        captions: dict[Any, list[str]] = {}
        failures = []
        for number, annotation in enumerate(annotations, start=1):
            if not _has(annotation, image_id=(int, str), caption=(str,)) or not annotation["caption"].strip():
                reason = "has no image_id or no caption"
            elif annotation["image_id"] not in known:
                reason = f"is of image {annotation['image_id']}, which is not there"
            else:
                captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
                continue
            place = f"{name}: annotation {number}"
            failures.append(
                Failure(place, self.label, RowError(f"{place} {reason}.", hint="Mend or remove it."))
            )
        return captions, failures


@dataclass(frozen=True)
class Flickr30kSource(_Captions):
    """The captions of Flickr30k or Flickr8k: a record for each picture, in the order in which they come up first.

    Two formats are told apart by the first line: the original `results_20130124.token`, with lines
    `1000092795.jpg#0<tab>caption` (its readme: shannon.cs.illinois.edu/DenotationGraph); and `results.csv` of the copy
    on Kaggle, with a header and lines `1000092795.jpg| 0| caption`. A record's id is the name of its file; its captions
    stand in the order of their numbers. A broken line, and a number that comes twice, are `Failure`s at their places.
    The captions are kept in memory.

    Attributes:
        path: local, or an address.
        root: the folder of the pictures, or an address; empty: the one the file is in.
    """

    path: str | Path
    root: str | Path = ""

    label = "from_flickr30k"

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            UnreadableError: the file cannot be opened.
        """
        captions: dict[str, dict[int, str]] = {}
        order: list[str | Failure] = []
        for place, found in self._lines():
            try:
                if isinstance(found, InputError):
                    raise found
                file, number, caption = found[1].strip(), int(found[2]), found[3].strip()
                if not caption:
                    raise RowError(f"{place} has no caption.", hint="Mend or remove the line.")
                if number in captions.get(file, ()):
                    raise RowError(
                        f"{place}: caption {number} of {one_line(file)} is there already.", hint="Remove one."
                    )
            except InputError as error:
                order.append(Failure(place, self.label, error))
                continue
            if file not in captions:
                order.append(file)
            captions.setdefault(file, {})[number] = caption
        for item in order:
            if isinstance(item, Failure):
                yield item
                continue
            told = captions[item]
            yield Record(
                item,
                image=picture_at(item, str(self.root)),
                texts=tuple(told[number] for number in sorted(told)),
                named=True,
            )

    def _lines(self) -> Iterator[tuple[str, re.Match[str] | InputError]]:
        """The lines, by where they are: file, number and caption of each."""
        name = base_name(str(self.path))
        with open_lines(str(self.path)) as lines:
            first = lines.peek()
            form, told = _TOKEN, "FILE#NUMBER<tab>CAPTION"
            if first.startswith("image_name|"):
                next(lines)
            if not _TOKEN.match(first) and "|" in first:
                form, told = _COMMENT, "FILE| NUMBER| CAPTION"
            while True:
                lines.mark()
                place = f"{name}:{lines.number + 1}"
                try:
                    line = next(lines).rstrip("\r\n")
                except StopIteration:
                    return
                except StoppedError as stopped:
                    yield place, stopped.error
                    return
                except TooLongError as error:
                    yield place, RowError(f"{place}: {error}.", hint="Mend or remove the line.")
                    continue
                if lines.damage:
                    yield place, RowError(f"{place}: {lines.damage}.", hint="Save the file as UTF-8.")
                elif line.strip():
                    wrong = RowError(f"{place} is not of the form {told}.", hint="Mend or remove the line.")
                    yield place, form.fullmatch(line) or wrong


@dataclass(frozen=True)
class KarpathySource(_Captions):
    """Karpathy's splits, `dataset_coco.json`, `dataset_flickr30k.json` or `dataset_flickr8k.json`.

    Each of `images` becomes a record: its id is `cocoid` where there is one, else `filename`; its picture lies at
    `filepath`/`filename` below the root; its texts are the `raw` of its `sentences`. Attributes: `split`, `sentids`,
    and whatever else is there except the tokens. A broken image is a `Failure` at its place. The file is read into
    memory. Format: cs.stanford.edu/people/karpathy/deepimagesent, of "Deep Visual-Semantic Alignments" (2015).

    Attributes:
        path: local, or an address.
        root: the folder of the pictures (for COCO, the one that has `val2014/` in it), or an address; empty: the one
            the file is in.
        split: `train`, `restval`, `val` or `test`, or several of them joined by `+`; empty: all.
    """

    path: str | Path
    root: str | Path = ""
    split: str = ""

    label = "from_karpathy"

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            BowerbirdError: the file cannot be read, has no images, or none of the split.
        """
        name = base_name(str(self.path))
        (images,) = _lists(str(self.path), ("images",))
        wanted = set(self.split.split("+")) if self.split else set()
        there = {image["split"] for image in images if _has(image, split=(str,))}
        if wanted - there:
            raise BowerbirdError(
                f"{shown(str(self.path))} has no split {', '.join(sorted(wanted - there))}.",
                hint=f"Its splits: {', '.join(sorted(there)) or 'none'}.",
            )
        met: dict[str, str] = {}
        for number, image in enumerate(images, start=1):
            if wanted and _has(image, split=(str,)) and image["split"] not in wanted:
                continue
            place = f"{name}: image {number}"
            try:
                if wanted and not _has(image, split=(str,)):
                    raise RowError(f"{place} has no split.", hint="Mend or remove it.")
                record = self._record(image, place)
                if record.id in met:
                    raise RowError(
                        f"{place}: the id {record.id} is taken by {met[record.id]}.",
                        hint="Mend or remove it.",
                    )
                met[record.id] = place
                yield record
            except InputError as error:
                yield Failure(place, self.label, error)

    def _record(self, image: Any, place: str) -> Record:
        if not _has(image, filename=(str,), sentences=(list,)) or not isinstance(
            image.get("filepath", ""), str
        ):
            raise RowError(f"{place} has no filename or no sentences.", hint="Mend or remove it.")
        sentences = image["sentences"]
        if not all(isinstance(told, Mapping) and isinstance(told.get("raw"), str) for told in sentences):
            raise RowError(f"{place} has a sentence without its text, `raw`.", hint="Mend or remove it.")
        folder = image.get("filepath", "")
        return Record(
            str(image.get("cocoid", image["filename"])),
            image=picture_at(image["filename"], joined(str(self.root), folder) if folder else str(self.root)),
            texts=tuple(sentence["raw"] for sentence in sentences if sentence["raw"].strip()),
            attributes={key: value for key, value in image.items() if key != "sentences"},
            named=True,
        )


def caption_file(path: str | Path, root: str | Path = "") -> Source | None:
    """The source for a caption file, told by what is in it; None: it is none of these.

    Args:
        path: a `.json` file, or one whose first line is one of Flickr30k's.
        root: as of the sources.

    Raises:
        UnreadableError: it cannot be opened.
    """
    place = located(path)
    if place.lower().removesuffix(".gz").endswith(".json"):
        with opened(place) as stream:
            # Karpathy's images hold their sentences, so the first one tells; COCO's stand in a list of their own.
            head = stream.read(1 << 16)
        found = KarpathySource if re.search(rb'"sentences"\s*:\s*\[', head) else CocoSource
        return found(path, root)
    with open_lines(place) as lines:
        first = lines.peek().rstrip("\r\n")
    flickr = first.startswith("image_name|") or _TOKEN.fullmatch(first) or _COMMENT.fullmatch(first)
    return Flickr30kSource(path, root) if flickr else None


def _has(value: Any, **fields: tuple[type, ...]) -> bool:
    """Whether a value is an object that has these fields, of these types and not empty strings."""
    return isinstance(value, Mapping) and all(
        isinstance(value.get(name), kinds) and not isinstance(value[name], bool) and value[name] != ""
        for name, kinds in fields.items()
    )


def _lists(place: str, names: Sequence[str]) -> list[list[Any]]:
    """The lists of a JSON file that have these names.

    Raises:
        UnreadableError: it cannot be read, or lacks one of them.
    """
    try:
        with opened(place) as stream:
            value = json.load(stream)
    except (ValueError, RecursionError, EOFError) as error:
        raise UnreadableError(
            f"{shown(place)} is not JSON, or damaged: {one_line(error, 200)}.",
            hint="Copy or download it again.",
        ) from None
    except OSError as error:
        raise UnreadableError(
            f"{shown(place)} cannot be read: {one_line(error, 200)}.", hint="Check the file and its disk."
        ) from None
    found = [value.get(name) if isinstance(value, dict) else None for name in names]
    lacking = [name for name, items in zip(names, found, strict=True) if not isinstance(items, list)]
    if lacking:
        raise UnreadableError(
            f"{shown(place)} has no list {' and no list '.join(map(repr, lacking))}.",
            hint="Give the file of captions; other annotation files have none.",
        )
    return [items for items in found if isinstance(items, list)]
