"""How features flow through an ONNX graph: the cuts between input and output, and the layers made of them.

Exporters name tensors as they like, so layers are found by structure. A *cut* is a tensor through which
everything passes that an output knows of the input: as many ways lead through it as from the input to the output.
Cuts that differ only by steps without weights (an activation, a normalisation, another shape) are one layer, and so
are an attention and the feed-forward step after it. Counted that way the layers of a transformer are the
`hidden_states` of the library it came from, and those of a residual network its blocks, whichever exporter wrote the
graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

FLOATS = ("float16", "float32", "float64", "bfloat16")
"""Element types that a vector can be made of."""

INPUTS = ("pixel_values", "input_ids", "input_features", "image", "images", "text", "input", "inputs_embeds")
"""Names of the input that carries the picture or the text, where a graph has several; the first found wins."""


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


# What a step does to the numbers. None of these has weights that mix features.
_ARITHMETIC = _ops(
    "Abs Add Cast CastLike Ceil Celu Clip Cos DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Erf Exp "
    "Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Log LogSoftmax Max Mean Min Mish Mul Neg PRelu Pow "
    "QuantizeLinear Reciprocal Relu Round Selu Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Sub Sum Swish Tanh "
    "ThresholdedRelu Where BiasGelu FastGelu QuickGelu BatchNormalization GroupNormalization "
    "InstanceNormalization LayerNormalization LpNormalization MeanVarianceNormalization RMSNormalization "
    "SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization"
)
_REDUCING = _ops(
    "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool ReduceL1 ReduceL2 ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare"
)
_RESHAPING = _ops(
    "Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Pad Reshape Slice SpaceToDepth Split Squeeze "
    "Tile Transpose Unsqueeze"
)
_PASSIVE = _ARITHMETIC | _REDUCING | _RESHAPING
_PRODUCTS = _ops(
    "Conv ConvInteger Einsum FusedConv FusedMatMul Gemm MatMul MatMulInteger MatMulInteger16 MatMulNBits QGemm "
    "QLinearConv QLinearMatMul"
)
_ATTENTION = _ops("Attention GroupQueryAttention MultiHeadAttention PackedAttention QAttention")
_LOOKUP = _ops("EmbedLayerNormalization Gather GatherBlockQuantized QEmbedLayerNormalization")
_MASKING = _ops("Div Mul Where")
_FEATURES_SECOND = _ops(
    "AveragePool BatchNormalization Conv ConvInteger FusedConv GlobalAveragePool GlobalMaxPool GroupNormalization "
    "InstanceNormalization MaxPool QLinearConv"
)
_FEATURES_LAST = _ops(
    "Attention EmbedLayerNormalization Gemm LayerNormalization MatMul MatMulInteger MatMulNBits QAttention "
    "RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization"
)
_FEATURES_KEPT = _ARITHMETIC | _ops("Concat Expand Pad Slice Tile")


@dataclass
class Step:
    """An operator of the graph.

    Attributes:
        op: its type.
        inputs: tensors it reads, in its own order, then those that its subgraphs read.
        outputs: tensors it makes.
        kernel: sides of a convolution's kernel.
        order: of a `Transpose`: for each axis of the output, which of the input it was.
    """

    op: str
    inputs: list[str]
    outputs: list[str]
    kernel: tuple[int | None, ...] = ()
    order: tuple[int, ...] = ()


@dataclass
class Wiring:
    """The graph without its weights.

    Attributes:
        steps: in an order in which they can be run.
        types: tensor -> element type and shape; missing where nothing says so.
        reads: tensor -> the graph's inputs, as bits, whose values (not merely sizes) it depends on.
        positions: input of the graph -> its bit.
    """

    steps: list[Step]
    types: dict[str, tuple[str, tuple[int | None, ...] | None]]
    reads: dict[str, int] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)

    def is_float(self, name: str) -> bool:
        """Whether a vector can be made of a tensor; true where its type is not known."""
        return self.types.get(name, ("", None))[0] in (*FLOATS, "")

    def is_data(self, name: str) -> bool:
        """Whether a tensor may carry features: floats, and the bytes that quantised graphs make of them."""
        return self.is_float(name) or self.types[name][0] in ("int8", "uint8")

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Shape of a tensor; None where not even the rank is known."""
        return self.types.get(name, ("", None))[1]

    def has_places(self, name: str) -> bool:
        """Whether a tensor has features for each token or place: more than one axis that is not one, batch aside."""
        shape = self.shape(name)
        return shape is None or sum(side != 1 for side in shape[1:]) > 1


def trace(wiring: Wiring, output: str) -> tuple[str, tuple[str, ...], str] | None:
    """The source, layers and penultimate tensor of an output: see `bowerbird.models.network.graph.Flow`.

    None where the output does not depend on any input.
    """
    source = _source(wiring, output)
    if not source:
        return None
    path = _path(wiring, source, output)
    if path is None:
        return source, (), ""
    return source, tuple(path.layers()), path.penultimate()


def feature_axes(wiring: Wiring) -> dict[str, int]:
    """Tensor -> the axis of its features, where the steps that make or read it tell.

    Maps come as (n, c, h, w) or as (n, h, w, c), and nothing but the steps around them says which.
    """
    axes: dict[str, int] = {}

    def rank(name: str) -> int:
        return len(wiring.shape(name) or ())

    def learn(names: list[str], axis: int | None, of_rank: int) -> None:
        if axis is not None:
            axes.update({n: axis for n in names if rank(n) == of_rank > axis and n not in axes})

    for step in wiring.steps:
        ranks = rank(step.outputs[0]) if step.outputs else 0
        like = next((name for name in step.inputs if name in axes and rank(name) == ranks), None)
        axis = _own_axis(wiring, step, ranks)
        if axis is None and like is not None and step.op in _FEATURES_KEPT:
            axis = axes[like]
        elif axis is None and like is not None and step.order:
            axis = step.order.index(axes[like])
        learn(step.outputs[:1], axis, ranks)
    for step in reversed(wiring.steps):
        read = [name for name in step.inputs[:1] if wiring.reads.get(name, 0)]
        ranks = rank(read[0]) if read else 0
        axis = _own_axis(wiring, step, ranks)
        made = next((axes[n] for n in step.outputs if n in axes and rank(n) == ranks), None)
        if axis is None and made is not None and step.op in _FEATURES_KEPT:
            read = [name for name in step.inputs if wiring.reads.get(name, 0)]
            axis = made
        elif axis is None and made is not None and step.order:
            axis = step.order[made]
        learn(read, axis, ranks)
    return axes


def _own_axis(wiring: Wiring, step: Step, rank: int) -> int | None:
    """Where a step itself has its features, in what it reads and makes."""
    if step.op in _FEATURES_SECOND:
        return 1
    is_weighted = "MatMul" not in step.op or any(not wiring.reads.get(name, 0) for name in step.inputs[1:2])
    is_table = step.op == "Gather" and not wiring.reads.get(step.inputs[0], 0)
    return rank - 1 if (step.op in _FEATURES_LAST and is_weighted) or is_table else None


def _source(wiring: Wiring, output: str) -> str:
    """The input that carries what the output shows; empty where it depends on none."""
    read = wiring.reads.get(output, 0)
    there = [name for name, bit in wiring.positions.items() if read & bit]
    for name in INPUTS:
        if name in there:
            return name
    side = ("mask", "type", "position", "shape")
    return next((name for name in there if not any(word in name for word in side)), there[0] if there else "")


def _path(wiring: Wiring, source: str, output: str) -> _Path | None:
    """Everything between an input and an output that carries features."""
    for is_lookup in (True, False):
        counts = _ways(wiring, source, lookups_only=is_lookup)
        if output in counts:
            return _Path(wiring, counts, _ways_on(wiring, counts, output), source, output)
    return None


def _ways(wiring: Wiring, source: str, *, lookups_only: bool) -> dict[str, int]:
    """Tensor that carries features of the source -> how many ways lead to it.

    A picture carries features itself; of token ids they come out of the table in which the ids are looked up. Other
    numbers made of ids (masks, places) do not count where there is such a table.
    """
    counts: dict[str, int] = {}
    if wiring.is_data(source):
        counts[source] = 1
    bit = wiring.positions[source]
    for step in wiring.steps:
        ways = sum(counts.get(name, 0) for name in step.inputs)
        if not ways and any(wiring.reads.get(name, 0) & bit for name in step.outputs):
            is_table = step.op in _LOOKUP and any(not wiring.reads.get(name, 0) for name in step.inputs)
            ways = int(is_table or not lookups_only)
        # The sums of an integer product are features although they are integers.
        is_product = step.op in _PRODUCTS
        if ways:
            counts.update({name: ways for name in step.outputs if is_product or wiring.is_data(name)})
    return counts


def _ways_on(wiring: Wiring, counts: Mapping[str, int], output: str) -> dict[str, int]:
    """Tensor that carries features -> how many ways lead from it to the output."""
    onward = {output: 1}
    for step in reversed(wiring.steps):
        ways = sum(onward.get(name, 0) for name in step.outputs if name in counts)
        if ways:
            for name in step.inputs:
                if name in counts:
                    onward[name] = onward.get(name, 0) + ways
    return onward


@dataclass
class _Cut:
    """A tensor through which everything passes, and the steps since the cut before it."""

    name: str
    steps: list[Step]


def _trimmed(run: list[_Cut], ops: frozenset[str]) -> list[_Cut]:
    """A run of cuts without those at its end that come out of such operators alone."""
    end = len(run)
    while end > 1 and all(step.op in ops for step in run[end - 1].steps):
        end -= 1
    return run[:end]


class _Path:
    """The cuts on the way to an output."""

    def __init__(
        self, wiring: Wiring, before: Mapping[str, int], after: Mapping[str, int], source: str, output: str
    ) -> None:
        self._wiring = wiring
        self._source = source
        self._carries = before
        self.cuts: list[_Cut] = []
        steps: list[Step] = []
        for step in wiring.steps:
            made = [name for name in step.outputs if before.get(name) and after.get(name)]
            if not made:
                continue
            steps.append(step)
            for name in made:
                if before[name] * after[name] == before[output] and wiring.is_float(name):
                    self.cuts.append(_Cut(name, steps))
                    steps = []

    def penultimate(self) -> str:
        """What goes into the last product with weights, if only steps without weights follow it."""
        for cut, earlier in zip(reversed(self.cuts), reversed(self.cuts[:-1]), strict=False):
            working = [step for step in cut.steps if step.op not in _PASSIVE]
            if [self._is_dense(step) for step in working] == [True]:
                return earlier.name
            # Before the pooling there are layers, of which a headless network's last one is no classifier.
            if working or (self._has_places(earlier) and not self._has_places(cut)):
                return ""
        return ""

    def layers(self) -> Iterator[str]:
        """The last tensor of each layer."""
        runs: list[list[_Cut]] = []
        for cut in self._trunk():
            if runs and self._is_passive(cut):
                runs[-1].append(cut)
            else:
                runs.append([cut])
        if runs and self._carries.get(self._source) and all(self._is_passive(cut) for cut in runs[0]):
            del runs[0]  # The picture itself, cast or padded.
        for place, run in enumerate(runs):
            is_last = place == len(runs) - 1
            if not is_last and self._mixes(run[0]) and self._feeds_forward(runs[place + 1][0]):
                continue  # An attention whose feed-forward step follows: together they are one layer.
            yield (self._settled(run) if is_last else _trimmed(run, frozenset(["Pad"]))[-1]).name

    def _trunk(self) -> list[_Cut]:
        """The cuts before pooling and head; all but the output itself where nothing has tokens or places."""
        placed = [i for i, cut in enumerate(self.cuts) if self._has_places(cut)]
        if not placed:
            return self.cuts[:-1]
        end = placed[-1] + 1
        for place, cut in enumerate(self.cuts[: end + 1]):
            if self._pools(cut):
                return self._before_projection(self.cuts[:place])
        return self.cuts[:end]

    def _before_projection(self, cuts: list[_Cut]) -> list[_Cut]:
        """Without the projection to keys and values, where all of them come out of one product."""
        for place in range(len(cuts) - 1, 0, -1):
            if not self._is_passive(cuts[place]):
                is_projection = [self._is_dense(step) for step in cuts[place].steps] == [True]
                return cuts[:place] if is_projection else cuts
        return cuts

    def _settled(self, run: list[_Cut]) -> _Cut:
        """The end of the last layer: without the mask and the change of shape that prepare the pooling."""
        kept = [run[0]]
        for cut in run[1:]:
            if any(step.op in _MASKING and self._is_masked(step) for step in cut.steps):
                break
            kept.append(cut)
        return _trimmed(kept, _RESHAPING | _REDUCING - {"MaxPool"})[-1]

    def _has_places(self, cut: _Cut) -> bool:
        return self._wiring.has_places(cut.name)

    def _features(self, step: Step) -> list[str]:
        return [name for name in step.inputs if name in self._carries]

    def _is_masked(self, step: Step) -> bool:
        return any(self._wiring.reads.get(name, 0) for name in step.inputs if name not in self._carries)

    def _is_passive(self, cut: _Cut) -> bool:
        joins = any(step.op == "Concat" and len(self._features(step)) > 1 for step in cut.steps)
        return not joins and all(step.op in _PASSIVE for step in cut.steps)

    def _is_dense(self, step: Step) -> bool:
        """Whether a step multiplies features by weights, everywhere the same."""
        if step.op not in _PRODUCTS or self._is_masked(step):
            return False
        # An integer product takes the zero points of its factors after them.
        factors = step.inputs[:2] if step.op.startswith(("MatMulInteger", "ConvInteger")) else step.inputs
        return sum(name in self._carries for name in factors) == 1 and all(side == 1 for side in step.kernel)

    def _mixes(self, cut: _Cut) -> bool:
        """Whether tokens attend to each other."""
        if any(step.op in _ATTENTION for step in cut.steps):
            return True
        return self._has_softmax_of(cut, is_of_features_alone=True)

    def _pools(self, cut: _Cut) -> bool:
        """Whether a learned query, rather than the tokens themselves, asks the tokens."""
        if any(step.op in _ATTENTION and step.inputs[0] not in self._carries for step in cut.steps):
            return True
        return self._has_softmax_of(cut, is_of_features_alone=False)

    def _has_softmax_of(self, cut: _Cut, *, is_of_features_alone: bool) -> bool:
        pairs = False
        for step in cut.steps:
            pairs |= step.op in ("Einsum", "MatMul", "FusedMatMul") and len(self._features(step)) > 1
            if step.op == "Softmax" and len(cut.steps) > 1:
                return pairs == is_of_features_alone
        return False

    def _feeds_forward(self, cut: _Cut) -> bool:
        """Whether a cut is a sum of the one before it and of products of it with weights, token by token."""
        working = [step for step in cut.steps if step.op not in _PASSIVE]
        return len(cut.steps) > len(working) > 0 and all(self._is_dense(step) for step in working)
