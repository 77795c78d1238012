"""What somebody on the page has asked for, and how that is said to the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bowerbird.errors import QueryError
from bowerbird.search.query import Query
from bowerbird.serve.indexed import Ask
from bowerbird.serve.page.pictures import Pictures

__all__ = ["AMONG", "FAINT", "FUSIONS", "LIKELY", "Asked", "Options", "parts_of", "piece_key"]

AMONG = {
    "Pictures and texts": "",
    "Pictures": "image",
    "Texts, by meaning": "text",
    "Texts, by their words": "words",
}
"""What is searched, in words, and as `Query.among` has it."""


def parts_of(parts: Sequence[str]) -> list[str]:
    """Of `AMONG`, what an index can be asked for that has vectors of these parts."""
    has = {"": True, "image": "image" in parts, "text": "text" in parts, "words": "text" in parts}
    found = [said for said, part in AMONG.items() if has[part]]
    return found if len(found) > 2 else found[:1]


FUSIONS = {
    "By match (recommended)": "calibrated",
    "By rank": "rank",
    "By raw score": "raw",
}
"""How several lists become one, in words, and as `Ask.fusion` has it."""

MOST_UNLIKE = 16
"""Records to move away from, at once."""

FAINT = 0.25
"""Results whose match is below this are folded away, where the best is likely."""

LIKELY = 0.5
"""A best match below this is said to be none."""


@dataclass(frozen=True)
class Options:
    """How it is asked.

    Attributes:
        models: which; none: the first.
        among: which parts of records, as of `Query`.
        k: results on a page.
        min_match: least match, 0 to 1; 0: any.
        where: a filter.
        fusion: of several parts and models.
    """

    models: tuple[str, ...] = ()
    among: str = ""
    k: int = 24
    min_match: float = 0.0
    where: str = ""
    fusion: str = "calibrated"


@dataclass(frozen=True)
class Asked:
    """What is asked. A page is one of these; each piece of it can be taken back.

    Attributes:
        text: words.
        picture: name of a picture that was given, as of `Pictures`.
        like: id of a record to find more of.
        unlike: ids of records to find less of.
        share: of the picture, or of the record, beside words: 0 to 1.
        kept: pieces that stay when other words are asked, as of `piece_key`.
        options: how.
    """

    text: str = ""
    picture: str = ""
    like: str = ""
    unlike: tuple[str, ...] = ()
    share: float = 0.5
    kept: frozenset[str] = frozenset()
    options: Options = field(default_factory=Options)

    @property
    def anything(self) -> bool:
        """Whether something is looked for."""
        return bool(self.text or self.picture or self.like)

    @property
    def blended(self) -> bool:
        """Whether words and something to look at are asked together."""
        return bool(self.text and (self.picture or self.like))

    def ask(self, pictures: Pictures, offset: int = 0, k: int = 0) -> Ask:
        """For the service.

        Args:
            pictures: those that were given.
            offset: so many results are left out first.
            k: so many are wanted; 0: a page.

        Raises:
            QueryError: the picture is not kept any more, or nothing is asked.
        """
        given = pictures.get(self.picture) if self.picture else None
        if self.picture and given is None:
            raise QueryError("The picture is not kept any more.", hint="Give it again.")
        options = self.options
        query = Query(
            texts=(self.text,) if self.text else (),
            image=given.data if given else None,
            like=self.like,
            weights=(1 - self.share, self.share) if self.blended else (),
            among=options.among,
            unlike=self.unlike,
        )
        return Ask(
            query,
            k=k or options.k,
            offset=offset,
            where=options.where,
            models=options.models,
            fusion=options.fusion,
            min_match=options.min_match or None,
        )

    # What visitors do

    def with_words(self, text: str) -> Asked:
        """Ask for words. Other words than before begin anew: only pieces that are kept stay, and a picture that was
        given before there were any words.
        """
        if text == self.text:
            return self
        if not text:
            return replace(self, text="")
        picture = self.picture if not self.text or "picture" in self.kept else ""
        like = self.like if "like" in self.kept else ""
        unlike = tuple(one for one in self.unlike if f"unlike/{one}" in self.kept)
        return replace(self, text=text, picture=picture, like=like, unlike=unlike)

    def keep(self, piece: str, id_: str = "") -> Asked:
        """Keep a piece when other words are asked, or no more: `picture`, `like` or `unlike`."""
        return replace(self, kept=self.kept ^ {piece_key(piece, id_)})

    def more_like(self, id_: str) -> Asked:
        """Find more of a record: it takes the place of a picture, and words stay."""
        return replace(
            self,
            like=id_,
            picture="",
            unlike=tuple(other for other in self.unlike if other != id_),
            kept=self.kept - {"like", "picture"},
        )

    def less_like(self, id_: str) -> Asked:
        """Find less of a record, beside all else; beyond `MOST_UNLIKE` the first one is forgotten."""
        like = "" if self.like == id_ else self.like
        kept = tuple(other for other in self.unlike if other != id_)
        return replace(self, like=like, unlike=(*kept, id_)[-MOST_UNLIKE:])

    def with_picture(self, name: str) -> Asked:
        """Find what is like a picture: it takes the place of a record to be like."""
        return replace(self, picture=name, like="", kept=self.kept - {"like", "picture"})

    def without(self, piece: str, id_: str = "") -> Asked:
        """Take a piece back: `text`, `picture`, `like`, `unlike`, `where` or `all`."""
        if piece == "all":
            return Asked(options=self.options, share=self.share)
        if piece == "where":
            return replace(self, options=replace(self.options, where=""))
        if piece == "unlike":
            return replace(self, unlike=tuple(other for other in self.unlike if other != id_))
        left = replace(
            self,
            text="" if piece == "text" else self.text,
            picture="" if piece == "picture" else self.picture,
            like="" if piece == "like" else self.like,
        )
        return left if left.anything else replace(left, unlike=())


def piece_key(piece: str, id_: str = "") -> str:
    """What `Asked.kept` calls a piece."""
    return f"unlike/{id_}" if piece == "unlike" else piece
