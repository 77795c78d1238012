"""Training, validation and test: by picture, and with copies on one side.

Pictures that are nearly the same go together, since what is learned of one is known of the other. Which are, the
vectors of a model say (see `bowerbird.learn.copies` for how near that is, and for models that tell too little: then
only the same bytes are a copy). So which part a picture goes to depends on the bytes of the pictures, on the seed and
on the tensor that copies are found by, not on names, nor on the order of rows, nor on what else was embedded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import LearnError
from bowerbird.learn.copies import Group, groups
from bowerbird.learn.examples import Examples, Places
from bowerbird.learn.pairs import PARTS

TRAIN, VALIDATION, TEST = PARTS


@dataclass(frozen=True)
class Copy:
    """Pictures that are the same, or nearly.

    Attributes:
        names: of the pictures.
        cosine: of each to the one most like it, the least of these; 1 for the same bytes.
        part: that they are in together.
        removed: those that were left out, since they stood in a part nearer to training.
    """

    names: tuple[str, ...]
    cosine: float
    part: str
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Split:
    """Which pictures are for what: places in the examples, ascending, each in one of them at most.

    Attributes:
        train: to learn from.
        validation: to choose by.
        test: to judge by, once.
        copies: what was kept together, or left out.
        problems: what a person should know.
    """

    train: Places
    validation: Places
    test: Places
    copies: tuple[Copy, ...] = ()
    problems: tuple[str, ...] = ()


def split(
    examples: Examples, *, validation: float = 0.1, test: float = 0.1, seed: int = 0, by: str = ""
) -> Split:
    """Share the pictures out.

    Copies, by their bytes or, where there are vectors, by these (see `bowerbird.learn.copies`), are in one part.
    With classes, each part has its share of every class, as nearly as whole pictures allow.

    Where the data say what pictures are for (`Picture.part`), that holds; a copy of a picture of the test set in
    another part is then left out, and so is one of a picture for validation among those for training. A part that is
    not given is drawn from the pictures for training. That the data say so is among the problems.

    Args:
        examples: all of them, of which `images` are looked at where there are any.
        validation: share of the pictures, from 0 to below 1.
        test: likewise.
        seed: another one draws others.
        by: name of the tensor in `images` by which near copies are found. Empty: the longest, so that the split may
            be another one where other tensors were embedded.

    Raises:
        LearnError: the shares cannot be, nothing is left to train on, or there are vectors and not of that tensor.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise LearnError(
            f"validation={validation:g} and test={test:g} cannot be shares of the pictures.",
            hint="Give two numbers from 0 on that leave something for training, such as 0.1 and 0.1.",
        )
    found, problems = groups(examples, by)
    parts = np.zeros(len(examples), np.int64)  # places in PARTS; -1: left out
    given = np.asarray([PARTS.index(picture.part) if picture.part else 0 for picture in examples.pictures])
    for group in found:
        part = given[group.places].max()
        parts[group.places] = np.where(given[group.places] == part, part, -1)
    wanted = {place: share for place, share in ((1, validation), (2, test)) if not (given == place).any()}
    drawn = _drawn(examples, found, parts, wanted, seed)
    parts = np.where(drawn > 0, drawn, parts)
    train, for_validation, for_test = (np.flatnonzero(parts == place) for place in range(3))
    if not len(train):
        raise LearnError(
            f"Nothing is left to train on: all {len(examples):,} pictures are for validation or test.",
            hint="Give smaller shares, or pictures for training; records without the attribute `split` are.",
        )
    copies = tuple(_copy(examples, group, parts) for group in found if len(group.places) > 1)
    told = (*problems, *_given(examples), *_problems(examples, copies, parts))
    return Split(train, for_validation, for_test, copies, told)


def draw(examples: Examples, epoch: int, seed: int, how: str = "one") -> Places:
    """The links that an epoch learns from, in the order of the pictures.

    Args:
        examples: pictures with one text or several.
        epoch: counting from 0.
        seed: another one draws others.
        how: `one`: a text for each picture, by chance, and each of its texts once before any comes again; `all`.

    Returns:
        int64 (m, 2), rows of `examples.links`.

    Raises:
        LearnError: there is no such way.
    """
    if how not in ("one", "all"):
        raise LearnError(f"Captions cannot be drawn {how!r}.", hint="Draw 'one' for each picture, or 'all'.")
    links = examples.links[np.argsort(examples.links[:, 0], kind="stable")]
    if how == "all" or not len(links):
        return links
    _, first, counts = np.unique(links[:, 0], return_index=True, return_counts=True)
    # A picture's texts are shuffled anew whenever all of them have had their turn.
    rounds = np.repeat(epoch // counts, counts)
    keys = np.empty(len(links))
    for number in np.unique(rounds):
        these = rounds == number
        keys[these] = np.random.default_rng([seed, number]).random(len(links))[these]
    shuffled = np.lexsort((keys, links[:, 0]))
    chosen: Places = links[shuffled[first + epoch % counts]]
    return chosen


def _drawn(
    examples: Examples,
    found: Sequence[Group],
    parts: Places,
    wanted: Mapping[int, float],
    seed: int,
) -> Places:
    """By picture the part that it was drawn for, of those that were not given; 0: none.

    Groups are taken in the order of a hash of their contents. One that is larger than what a part still lacks is
    passed over: half of it would be a leak, and all of it too much.
    """
    drawn = np.zeros(len(parts), np.int64)
    free = [group for group in found if (parts[group.places] == 0).all()]
    keyed = sorted(free, key=lambda group: _key(examples, group, seed))
    strata: dict[int, list[Group]] = {}
    for group in keyed:
        label = 0 if examples.labels is None else int(examples.labels[_least(examples, group)])
        strata.setdefault(label, []).append(group)
    labels = sorted(strata, key=lambda label: examples.classes[label] if examples.classes else "")
    sizes = [sum(len(group.places) for group in strata[label]) for label in labels]
    left = list(sizes)
    for part, share in sorted(wanted.items(), reverse=True):
        for place, (label, quota) in enumerate(zip(labels, quotas(sizes, left, share), strict=True)):
            lacking = quota
            for group in strata[label]:
                if lacking and len(group.places) <= lacking and not drawn[group.places].any():
                    drawn[group.places] = part
                    lacking -= len(group.places)
            left[place] -= quota - lacking
    return drawn


def quotas(sizes: Sequence[int], left: Sequence[int], share: float) -> list[int]:
    """How many of each stratum make up a share of all of them, by largest remainders.

    Args:
        sizes: of the strata.
        left: how many of each can still be taken; one of them is not.
        share: from 0 to 1.
    """
    most = [max(count - 1, 0) for count in left]
    exact = [size * share for size in sizes]
    taken = [min(int(value), limit) for value, limit in zip(exact, most, strict=True)]
    missing = int(sum(exact) + 0.5) - sum(taken)
    for place in sorted(range(len(sizes)), key=lambda place: (taken[place] - exact[place], place)):
        if missing > 0 and taken[place] < most[place]:
            taken[place] += 1
            missing -= 1
    return taken


def _least(examples: Examples, group: Group) -> int:
    """The picture that stands for a group, whatever the order of rows."""
    return min(map(int, group.places), key=lambda place: examples.pictures[place].content)


def _key(examples: Examples, group: Group, seed: int) -> bytes:
    content = examples.pictures[_least(examples, group)].content
    return hashlib.sha256(f"{seed}\0{content}".encode()).digest()


def _copy(examples: Examples, group: Group, parts: NDArray[np.int64]) -> Copy:
    kept = [int(place) for place in group.places if parts[place] >= 0]
    removed = [int(place) for place in group.places if parts[place] < 0]
    return Copy(
        tuple(examples.pictures[place].name for place in (*kept, *removed)),
        group.cosine,
        PARTS[parts[kept[0]]],
        tuple(examples.pictures[place].name for place in removed),
    )


def _given(examples: Examples) -> Iterator[str]:
    """That shares do not count where the data say what pictures are for."""
    told = [picture.part for picture in examples.pictures if picture.part]
    if told:
        counts = ", ".join(f"{told.count(part):,} for {part}" for part in PARTS if part in told)
        what = "1 picture is" if len(told) == 1 else f"{len(told):,} pictures are"
        yield f"The data say what {what} for ({counts}); shares count for parts that they do not name."


def _problems(examples: Examples, copies: Sequence[Copy], parts: NDArray[np.int64]) -> Iterator[str]:
    if copies:
        count = sum(len(copy.names) for copy in copies)
        yield (
            f"{count:,} pictures are copies of another, or nearly, and are in one part with it: "
            f"{len(copies):,} group{'s'[: len(copies) > 1]}, for example {' and '.join(copies[0].names[:2])}."
        )
    removed = [name for copy in copies for name in copy.removed]
    if removed:
        were, copied = ("picture was", "a copy") if len(removed) == 1 else ("pictures were", "copies")
        yield (
            f"{len(removed):,} {were} left out of the given parts, as {copied} of pictures farther from training, for "
            f"example {removed[0]}."
        )
    if examples.labels is not None:
        classes = {
            picture.name: label
            for picture, label in zip(examples.pictures, examples.labels.tolist(), strict=True)
        }
        torn = [copy for copy in copies if len({classes[name] for name in copy.names}) > 1]
        if torn:
            group, whose = (
                ("group of these is", "its") if len(torn) == 1 else ("groups of these are", "their")
            )
            yield (
                f"{len(torn):,} {group} in more than one class, for example {' and '.join(torn[0].names[:2])}: look at "
                f"{whose} labels."
            )
        bare = np.setdiff1d(examples.labels, examples.labels[parts == 0])
        if len(bare):
            yield (
                f"{len(bare):,} {'class has' if len(bare) == 1 else 'classes have'} no picture for training, for "
                f"example {examples.classes[bare[0]]!r}."
            )
        return
    used = examples.links[parts[examples.links[:, 0]] >= 0]
    pairs = np.unique(np.stack([used[:, 1], parts[used[:, 0]]], 1), axis=0)
    _, counts = np.unique(pairs[:, 0], return_counts=True)
    if shared := int((counts > 1).sum()):
        yield (
            f"{shared:,} {'text is' if shared == 1 else 'texts are'} said of pictures in more than one part: "
            f"{'it stays' if shared == 1 else 'they stay'} in all of them."
        )
