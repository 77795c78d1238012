"""`Collection`: lazy chains of steps over records, or over anything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bowerbird.collection.opening import Opening, Place
from bowerbird.errors import BowerbirdError, QueryError, SpaceMismatchError
from bowerbird.flow.embedding import Embed
from bowerbird.flow.functions import (
    DropMissing,
    Filter,
    FlatMap,
    Map,
    MapBatches,
    Select,
    Tee,
    function_name,
    named_value,
)
from bowerbird.flow.local import Local
from bowerbird.flow.nearest import METRICS, Join, Search
from bowerbird.flow.order import (
    Batch,
    DedupeContent,
    DedupeVectors,
    Limit,
    Progress,
    Report,
    Sample,
    Sort,
    share_of,
)
from bowerbird.flow.pictures import Decode, default_policy
from bowerbird.flow.plan import ERROR_POLICIES, Plan, Step
from bowerbird.flow.recipe import ModelRecipe, encoder_of
from bowerbird.flow.run import Executor, carried_out, closed, simplified
from bowerbird.record import Failure

if TYPE_CHECKING:
    import pyarrow as pa

    from bowerbird.flow.report import RunReport
    from bowerbird.media.policy import DecodePolicy
    from bowerbird.models.card import ModelCard
    from bowerbird.models.encoder import Encoder

T = TypeVar("T")
U = TypeVar("U")


class Collection(Opening, Generic[T]):
    """Elements, and steps that are done with them when a result is asked for: on this machine or on a cluster.

    Immutable: every step gives another collection. Nothing runs before a sink: iteration, `to_list`, `to_arrow`,
    `to_pandas`, `to_polars`, `count` or `write`.

    An element that a step fails on becomes a `Failure` at its own place, and all others go on; what failed is counted
    by kind and logged when the run ends. `on_error` changes that.

    >>> near = (
    ...     Collection.from_texts(["a cat", "a cup of coffee"])
    ...     .embed("mini")
    ...     .search(Collection.from_glob(samples()).embed("mini"), k=1)
    ... )
    >>> [record.hits[0].id.rsplit("/", 1)[-1] for record in near]
    ['chelsea.jpg', 'coffee.jpg']
    """

    def __init__(self, plan: Plan, executor: Executor | None = None) -> None:
        self.plan = plan
        self.executor: Executor = executor or Local()

    def _then(self, step: Step) -> Collection[Any]:
        return Collection(self.plan.then(step), self.executor)

    # Steps that call a function.

    def map(self, function: Callable[[T], U], *, threads: int = 1, processes: int = 0) -> Collection[U]:
        """Each element becomes what the function returns for it.

        Args:
            function: called with one element.
            threads: elements that are worked on at once, for functions that wait or release the interpreter's lock;
                the function must be safe to call so.
            processes: likewise in processes of their own, for functions that compute in Python.

        >>> Collection.range(3).map(lambda n: n * n).to_list()
        [0, 1, 4]
        """
        return self._then(Map(function, f"map({function_name(function)})", *_lanes(threads, processes)))

    def filter(self, function: Callable[[T], Any], *, threads: int = 1, processes: int = 0) -> Collection[T]:
        """Only elements for which the function is true stay. The other arguments are those of `map`.

        >>> Collection.range(10).filter(lambda n: n % 4 == 1).to_list()
        [1, 5, 9]
        """
        return self._then(Filter(function, f"filter({function_name(function)})", *_lanes(threads, processes)))

    def flat_map(
        self, function: Callable[[T], Iterable[U]], *, threads: int = 1, processes: int = 0
    ) -> Collection[U]:
        """Each element becomes all that the function returns for it. The other arguments are those of `map`.

        >>> Collection.from_items(["a b", "c"]).flat_map(str.split).to_list()
        ['a', 'b', 'c']
        """
        return self._then(
            FlatMap(function, f"flat_map({function_name(function)})", *_lanes(threads, processes))
        )

    def tee(self, function: Callable[[T], Any]) -> Collection[T]:
        """The function is called with each element, and the elements go on as they are.

        >>> seen = []
        >>> Collection.range(3).tee(seen.append).count(), seen
        (3, [0, 1, 2])
        """
        return self._then(Tee(function, f"tee({function_name(function)})"))

    def map_batches(
        self,
        function: Any,
        *,
        size: int = 0,
        model: str | ModelCard | Encoder | None = None,
        threads: int = 1,
        processes: int = 0,
    ) -> Collection[Any]:
        """Lists of elements become what the function returns for each list: one result for each element.

        When the function raises on a list it is called again with each element alone, so that only those fail on
        which it raises.

        Args:
            function: called with a list; a class is made an object of once in each worker, which is then called.
            size: elements in a list at the most; 0: as many as come together.
            model: the function is called with a list and this model, which each worker builds by itself from a small
                recipe.
            threads: as of `map`.
            processes: as of `map`.

        >>> Collection.range(5).map_batches(lambda numbers: [sum(numbers)] * len(numbers), size=5).to_list()
        [10, 10, 10, 10, 10]
        >>> words = Collection.from_items(["a cat", "a dog"])
        >>> words.map_batches(lambda texts, model: model.embed(texts), model="mini").to_list()[0].shape
        (384,)
        """
        if size < 0:
            raise BowerbirdError(f"size={size} is negative.", hint="Give 0 to have it chosen.")
        recipe = ModelRecipe.of(model) if model is not None else None
        label = f"map_batches({function_name(function)})"
        return self._then(MapBatches(function, label, size, recipe, *_lanes(threads, processes)))

    def select(self, *names: str) -> Collection[dict[str, Any]]:
        """Each record, or mapping, becomes a dictionary of some of its values; see `Record` for their names.

        >>> Collection.from_texts(["a cat"]).select("id", "text").to_list()
        [{'id': 'text:0', 'text': 'a cat'}]
        """
        return self._then(Select(names, f"select({', '.join(names)})"))

    # Steps of records.

    def drop_missing(self, *parts: str) -> Collection[T]:
        """Leave out records that lack one of some parts: `image`, `text`, or an attribute. They are counted.

        A picture whose file is not there is missing too.

        >>> records = Collection.from_items([Record("a", texts=("words",)), Record("b")])
        >>> records.drop_missing("text").select("id").to_list()
        [{'id': 'a'}]
        """
        wanted = parts or ("image",)
        return self._then(DropMissing(wanted, f"drop_missing({', '.join(wanted)})"))

    def decode(self, policy: DecodePolicy | None = None) -> Collection[T]:
        """The picture of each record becomes an upright RGB Pillow image.

        `embed` does this by itself, at the scale that its model needs, where nobody looks at the picture in between.

        Args:
            policy: what pictures mean and may cost; None: EXIF is obeyed, transparency becomes white. Under a policy of
                your own, `embed` takes the picture as it was decoded, in full, instead of reading the file by itself.

        A function that changes the picture gives a record with another one (`dataclasses.replace`): `embed` does not
        notice what is drawn into the picture itself.

        >>> Collection.from_glob(samples() / "coffee.jpg").decode().map(lambda record: record.image.size).to_list()
        [(320, 213)]
        """
        return self._then(Decode(policy or default_policy()))

    def embed(
        self,
        model: str | ModelCard | Encoder = "",
        *,
        name: str = "",
        role: str = "document",
        cache: bool = True,
    ) -> Collection[T]:
        """Both parts of each record become vectors of length 1, as far as the model takes them.

        They are in `record.vectors`: `image`, `text` (one row for each text, where there are several), and
        `image.OUTPUT` for further outputs that a model publishes for pictures.

        Args:
            model: as `bowerbird.load` takes it, or an encoder; empty takes `BOWERBIRD_MODEL`.
            name: put before the names of the vectors, as `NAME.image`: needed to embed with several models.
            role: which of the model's prompts texts get: `document` for what is searched, `query` for questions.
            cache: take vectors from the cache that all runs share, and put new ones there. It is keyed on the bytes of
                the part and everything that decides what vectors mean.

        Raises:
            ModelError: there is no such model, or its files cannot be read.
            UnsupportedInputError: the model has no such role.

        >>> cat = Collection.from_glob(samples() / "chelsea.jpg").embed("mini").to_list()[0]
        >>> sorted(cat.vectors), cat.vector.shape
        (['image', 'image.features'], (384,))
        """
        encoder = encoder_of(model)
        if encoder.card.text is not None:
            encoder.card.text.rules.prompt(role)  # a role that the model does not know is an error now
        recipe = ModelRecipe.of(encoder)
        for other in self._embeds():
            if other.name == name:
                raise BowerbirdError(
                    f"Vectors of {other.recipe.name} are called {name or 'image and text'!r} already.",
                    hint="Give the second model a name: .embed(MODEL, name='second').",
                )
        step = Embed(recipe, f"embed({recipe.name})", name, role, cached=cache)
        step.local.get("model", lambda: encoder)  # every run of this collection uses it
        return self._then(step)

    def _embeds(self) -> list[Embed]:
        return [step for step in self.plan.steps if isinstance(step, Embed)]

    def search(
        self,
        data: Collection[Any],
        *,
        k: int = 10,
        metric: str = "cosine",
        by: str | tuple[str, str] | None = None,
    ) -> Collection[T]:
        """Each record gets `hits`: the nearest records of another collection, by exact comparison.

        The other collection is run once, and its vectors are held in memory. For more than fits there, write an
        index and search that.

        Args:
            data: what is searched, embedded with the same model.
            k: results for each record.
            metric: `cosine` or `dot`, higher is nearer; `l2`, Euclidean distance, lower is nearer.
            by: name of the vector, or (looked for, looked among); None: a picture asks pictures, words ask pictures if
                there are any, else words.

        Raises:
            QueryError: `k` or the metric cannot be.
            SpaceMismatchError: the two collections are embedded with different models.

        >>> cats = Collection.from_texts(["a cat"]).embed("mini")
        >>> photos = Collection.from_glob(samples()).embed("mini")
        >>> cats.search(photos, k=2).select("ids", "scores").to_list()[0]["ids"][0].rsplit("/")[-1]
        'chelsea.jpg'
        """
        _check_collection(data, "search", "An index is asked with its own `search`.")
        _check_whole(k, "k", least=1)
        if by is not None and not isinstance(by, str) and len(by) != 2:
            raise QueryError(
                f"by={by!r} is not two names.", hint="Give (looked for, looked among), or one name."
            )
        if metric not in METRICS:
            raise QueryError(f"There is no metric {metric!r}.", hint=f"There are {', '.join(METRICS)}.")
        mine, theirs = self._embeds(), data._embeds()
        for one in mine:
            for other in theirs:
                if one.name == other.name and one.recipe.space != other.recipe.space:
                    raise SpaceMismatchError(
                        f"The questions are embedded with {one.recipe.name}, what is searched with "
                        f"{other.recipe.name}: their vectors cannot be compared.",
                        hint="Embed both with the same model.",
                    )
        pair = (by, by) if isinstance(by, str) else by
        model = theirs[0].recipe.name if theirs else "vectors"
        better = tuple(name for step in theirs for name in _similarity(step))
        return self._then(Search(data.plan, k, metric, f"search(k={k}, {metric})", pair, better, model))

    def join(self, other: Collection[Any], *, on: str = "id", how: str = "inner") -> Collection[T]:
        """Complete each record by the record of the same id of another collection, which is held in memory.

        Args:
            other: has each id once; where both say something, the left one counts.
            on: the name that both have: `id`, or an attribute.
            how: `inner` leaves out records without a counterpart, `left` keeps them.

        >>> prices = Collection.from_items([{"id": "text:1", "price": 5}])
        >>> goods = Collection.from_texts(["a cup", "a hat"]).select("id", "text")
        >>> goods.join(prices).to_list()
        [{'id': 'text:1', 'price': 5, 'text': 'a hat'}]
        """
        _check_collection(other, "join", "Make one of a table with Collection.from_arrow.")
        if how not in ("inner", "left"):
            raise BowerbirdError(f"how={how!r} is not known.", hint="Use 'inner' or 'left'.")
        return self._then(Join(other.plan, on, how == "left", f"join({on})"))

    def dedupe(
        self, *, by: str | Callable[[T], Any] | None = None, threshold: float | None = None
    ) -> Collection[T]:
        """Leave out elements that repeat an earlier one. They are counted.

        Args:
            by: None: records by the bytes of their parts, other elements as they are; a name, or a function: by that
                value; with `threshold`, the name of the vector.
            threshold: records whose vectors have at least this cosine to one kept before, from -1 to 1.

        >>> Collection.from_items([3, 1, 3]).dedupe().to_list()
        [3, 1]
        >>> Collection.from_texts(["a cat", "A CAT", "a dog"]).embed("mini").dedupe(threshold=0.99).count()
        2
        """
        if threshold is not None:
            if not -1 <= threshold <= 1:
                raise BowerbirdError(
                    f"threshold={threshold} is no cosine.", hint="Give a number from -1 to 1."
                )
            if by is not None and not isinstance(by, str):
                raise BowerbirdError(
                    "A threshold compares vectors.", hint="Give the name of a vector as `by`."
                )
            return self._then(DedupeVectors(threshold, by or "", f"dedupe({by or 'vector'}, {threshold:g})"))
        key = _getter(by) if by is not None else None
        return self._then(DedupeContent(f"dedupe({_shown(by)})", key))

    # Steps of order.

    def batch(self, size: int) -> Collection[list[T]]:
        """Lists of so many elements, the last one shorter.

        >>> Collection.range(5).batch(2).to_list()
        [[0, 1], [2, 3], [4]]
        """
        _check_whole(size, "size", least=1)
        return self._then(Batch(size, f"batch({size})"))

    def limit(self, count: int) -> Collection[T]:
        """The first so many elements; nothing beyond them is worked on that need not be.

        >>> Collection.range(10**12).map(lambda n: n + 1).limit(2).to_list()
        [1, 2]
        """
        _check_whole(count, "count", least=0)
        return self._then(Limit(count, f"limit({count})"))

    def sample(self, size: int | float, *, seed: int = 0) -> Collection[T]:
        """Some elements by chance, in the order they come.

        Args:
            size: a whole number: exactly so many; a number below 1: each with this probability, which depends only on
                the element's name and the seed.
            seed: another one gives other elements.

        >>> Collection.range(1000).sample(3, seed=1).count()
        3
        """
        if isinstance(size, float) and 0 <= size <= 1:
            return self._then(_Share(0.0, size, seed, f"sample({size:g})").step())
        if not 0 <= size < math.inf or size != int(size):
            raise BowerbirdError(
                f"sample({size}) is not possible.", hint="Give a whole number, or a share below 1."
            )
        return self._then(Sample(int(size), seed, f"sample({size})"))

    def split(self, *shares: float, seed: int = 0) -> tuple[Collection[T], ...]:
        """Several collections that share the elements out among them, by chance and for good.

        Where an element goes depends on its name and the seed alone: not on the others, nor on their order.

        Args:
            shares: one for each part, summing to 1; none: 0.8, 0.1 and 0.1, for training, validation and test.
            seed: another one shares them out otherwise.

        >>> train, test = Collection.range(100).split(0.8, 0.2)
        >>> train.count() + test.count(), set(train.to_list()) & set(test.to_list())
        (100, set())
        """
        wanted = shares or (0.8, 0.1, 0.1)
        if any(share < 0 for share in wanted) or abs(sum(wanted) - 1) > 1e-9:
            raise BowerbirdError(
                f"The shares {wanted} do not sum to 1.", hint="Give for example 0.8, 0.1, 0.1."
            )
        # The last part ends beyond 1, so that rounding leaves nobody out.
        ends = [sum(wanted[: place + 1]) for place in range(len(wanted) - 1)] + [2.0]
        starts = [0.0, *ends[:-1]]
        return tuple(
            self._then(_Share(start, end, seed, f"split({share:g})").step())
            for start, end, share in zip(starts, ends, wanted, strict=True)
        )

    def sort(self, key: str | Callable[[T], Any] | None = None, *, reverse: bool = False) -> Collection[T]:
        """All elements in the order of a key: a name, a function, or the elements themselves; without a key last.

        >>> Collection.from_items([3, 1, 2]).sort(reverse=True).to_list()
        [3, 2, 1]
        """
        getter = _getter(key) if key is not None else _itself
        return self._then(Sort(getter, f"sort({_shown(key)})", reverse))

    def progress(self, function: Callable[[Progress], Any] | None = None) -> Collection[T]:
        """Tell a function how far the run has come; without one, it is logged every few seconds.

        >>> told = []
        >>> _ = Collection.range(3).progress(told.append).to_list()
        >>> told[-1].done, told[-1].total
        (3, 3)
        """
        total = self.plan.source.count() if not self.plan.steps else None
        return self._then(Report(function, total, "progress"))

    # How it runs.

    def on_error(self, policy: str) -> Collection[T]:
        """What becomes of elements that a step fails on.

        Args:
            policy: `keep`: a `Failure` stays at the element's place; `drop`: it is left out; in both it is counted,
                logged and listed in the errors file of what is written. `raise`: the run stops at the first.

        >>> Collection.from_items(["1", "x", "2"]).map(int).on_error("drop").to_list()
        [1, 2]
        """
        if policy not in ERROR_POLICIES:
            raise BowerbirdError(
                f"on_error({policy!r}) is not known.", hint=f"Use {', '.join(ERROR_POLICIES)}."
            )
        return Collection(replace(self.plan, on_error=policy), self.executor)

    def on(self, executor: Executor) -> Collection[T]:
        """Where it runs: `bowerbird.Local(...)` or `bowerbird.Ray(...)`. The steps and the results are the same.

        The executor's `report` tells about the last run: failures, the time each stage took, and what took most of it.

        >>> here = Local(threads=2)
        >>> Collection.range(3).on(here).count(), here.report.done
        (3, 3)
        """
        if not callable(getattr(executor, "stream", None)) or isinstance(executor, type):
            raise BowerbirdError(
                f"{executor!r} does not run collections.", hint="Give bowerbird.Local() or bowerbird.Ray()."
            )
        return Collection(self.plan, executor)

    def explain(self) -> str:
        """What would run where, a line for each stage.

        >>> print(Collection.range(10).map(str).explain().splitlines()[1])
        one by one  map(str)
        """
        plan = simplified(self.plan, pictures=False)
        lines = self.executor.explain(plan)
        if len(plan.steps) < len(self.plan.steps):
            lines.append(
                f"{'left out':<12}decode: embed opens the files, unless the end of the chain gives pictures"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        steps = "".join(f" > {step.label}" for step in self.plan.steps)
        return f"<Collection {self.plan.source.describe()}{steps}>"

    # Sinks.

    def __iter__(self) -> Iterator[T | Failure]:
        """Run, and give the elements one by one as they are ready.

        >>> for number in Collection.range(2):
        ...     print(number)
        0
        1
        """
        from bowerbird.collection.sinks import logged

        with logged(self.executor), closed(carried_out(self.plan, self.executor)) as chunks:
            for chunk in chunks:
                yield from chunk

    def take(self, count: int) -> list[T | Failure]:
        """Run until there are so many elements, and give those.

        >>> Collection.range(10**12).take(3)
        [0, 1, 2]
        """
        return self.limit(count).to_list()

    def to_list(self) -> list[T | Failure]:
        """Run, and give all elements.

        >>> Collection.from_items(["1", "x"]).map(int).to_list()[1].kind
        'ValueError'
        """
        return list(self)

    def count(self) -> int:
        """Run, and give the number of elements that came through; failures are not among them.

        >>> Collection.range(5).filter(lambda n: n > 2).count()
        2
        """
        from bowerbird.collection.sinks import logged

        with logged(self.executor), closed(carried_out(self.plan, self.executor, pictures=False)) as chunks:
            return sum(sum(item.__class__ is not Failure for item in chunk) for chunk in chunks)

    def to_arrow(self) -> pa.Table:
        """Run, and give an Arrow table; failures are left out, and logged.

        >>> Collection.from_texts(["a cat"]).to_arrow().column("id").to_pylist()
        ['text:0']
        """
        from bowerbird.collection.sinks import to_arrow

        return to_arrow(self.plan, self.executor)

    def to_pandas(self) -> Any:
        """Run, and give a pandas data frame; see `to_arrow`.

        Raises:
            MissingExtraError: pandas is not installed.

        >>> Collection.from_texts(["a cat"]).to_pandas().shape[0]  # doctest: +PANDAS
        1
        """
        from bowerbird.collection.sinks import to_pandas

        return to_pandas(self.plan, self.executor)

    def to_polars(self) -> Any:
        """Run, and give a polars data frame; see `to_arrow`.

        Raises:
            MissingExtraError: polars is not installed.

        >>> Collection.from_texts(["a cat"]).to_polars().height  # doctest: +POLARS
        1
        """
        from bowerbird.collection.sinks import to_polars

        return to_polars(self.plan, self.executor)

    def write(self, target: Place, *, format: str = "", overwrite: bool = False) -> RunReport:
        """Run, and write to an index or to files. What failed is listed in an errors file beside the output.

        Args:
            target: a path or, for indexes, an address in an object store.
            format: `index`, `npy`, `parquet`, `lance` or `clip-retrieval`; empty: by the suffix of the target:
                `.bower`, `.parquet`, `.lance`, none for a folder of NumPy arrays.
            overwrite: replace files that are there. An index is never replaced: it is brought up to date, and what it
                holds already is not embedded again.

        Returns:
            what the run did.

        Raises:
            BowerbirdError: the format is not known, or something is there already.
            StoreError: the index cannot be written to.

        >>> report = Collection.from_glob(samples()).embed("mini").write(tmp / "photos.bower")
        >>> report.done, report.failed.total()
        (6, 0)
        """
        from bowerbird.collection.sinks import logged, write

        with logged(self.executor):
            return write(self.plan, self.executor, target, format, overwrite=overwrite)


def _check_collection(value: object, step: str, hint: str) -> None:
    if not isinstance(value, Collection):
        raise BowerbirdError(f"{step} takes a Collection, not {type(value).__name__}.", hint=hint)


def _check_whole(value: object, name: str, *, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise QueryError(f"{name}={value!r} is not possible.", hint=f"Give a whole number, at least {least}.")


def _lanes(threads: int, processes: int) -> tuple[int, int]:
    if threads < 0 or processes < 0:
        raise BowerbirdError(
            "threads and processes cannot be negative.", hint="Leave them out for one by one."
        )
    if threads != 1 and processes:
        raise BowerbirdError("Both threads and processes were given.", hint="Give one of them.")
    return threads, processes


def _similarity(step: Embed) -> list[str]:
    """Names of the vectors that compare pictures better than the shared ones."""
    tower = step.encoder().card.image
    if tower is None or tower.similarity_output == tower.output:
        return []
    return [step.vector_name(f"image.{tower.similarity_output}")]


def _itself(item: Any) -> Any:
    return item


def _getter(key: str | Callable[[Any], Any]) -> Callable[[Any], Any]:
    return _Named(key) if isinstance(key, str) else key


class _Named:
    """Gets a value by its name; a class of its own, so that it can be sent to other processes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, item: Any) -> Any:
        value = named_value(item, self.name)
        return tuple(value) if isinstance(value, list) else value


def _shown(key: Any) -> str:
    return "" if key is None else key if isinstance(key, str) else function_name(key)


class _Share:
    """Whether an element's share lies in a range."""

    def __init__(self, start: float, end: float, seed: int, label: str) -> None:
        self.start, self.end, self.seed, self.label = start, end, seed, label

    def __call__(self, item: Any) -> bool:
        return self.start <= share_of(item, self.seed) < self.end

    def step(self) -> Filter:
        """The step that keeps these elements."""
        return Filter(self, self.label)
