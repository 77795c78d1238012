"""What training makes small: losses of pairs that belong together, each a small piece of data with its formula.

A loss is a frozen dataclass, so it can be printed, compared and sent to another process. `module()` makes the PyTorch
module that holds what is learned of it, such as a temperature. PyTorch is imported there and not before.

False negatives: within a batch, a text can belong to more pictures than the one it was drawn with. All losses know of
it by ids: row i's picture and row j's text *belong together* where the pictures or the texts of both rows are the same
one, and they are *akin* where the labels are. Neither is ever a negative.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bowerbird.errors import LearnError
from bowerbird.origin.packages import TRAIN, need

__all__ = ["Embedded", "InfoNCE", "Loss", "Margin", "Sigmoid", "SupervisedContrastive", "Triplet"]

LARGEST_SCALE = 100.0
"""Of logits, when it is learned; beyond it training becomes unstable (CLIP, arXiv 2103.00020, section 2.5)."""

_NEARLY_ZERO = 1e-12


@dataclass
class Embedded:
    """A batch of pairs as vectors of the shared space.

    Attributes:
        images: tensor (b, dim), rows of length 1.
        texts: tensor (b, dim), likewise; row i belongs to row i of `images`. None where there is no tower for texts.
        pictures: tensor int64 (b,): which picture each row of `images` is.
        captions: tensor int64 (b,): which text each row of `texts` is.
        labels: tensor int64 (b,): the class of each picture; None: there are no classes.
    """

    images: Any
    texts: Any
    pictures: Any
    captions: Any
    labels: Any = None

    def __len__(self) -> int:
        return len(self.pictures)

    def float(self) -> Embedded:
        """The same in fp32, whatever precision the towers ran in."""
        texts = None if self.texts is None else self.texts.float()
        return replace(self, images=self.images.float(), texts=texts)


def belonging(batch: Embedded) -> Any:
    """Which pictures and texts belong together: bool (b, b), pictures by texts; its diagonal is True."""
    return _same(batch.pictures) | _same(batch.captions)


def negatives(batch: Embedded) -> Any:
    """Which texts are wrong for which pictures: bool (b, b), without what belongs together or is akin."""
    right = belonging(batch)
    return ~(right if batch.labels is None else right | _same(batch.labels))


def _same(ids: Any) -> Any:
    return ids[:, None] == ids[None, :]


class Loss(ABC):
    """A loss as data: frozen, picklable, with a formula."""

    @abstractmethod
    def of(self, batch: Embedded, learned: Mapping[str, Any]) -> Any:
        """The loss of a batch: a tensor without axes.

        Args:
            batch: vectors of pairs.
            learned: a scalar tensor for each name of `numbers`.

        Raises:
            LearnError: the batch lacks texts or labels that it needs.
        """

    def numbers(self) -> dict[str, float]:
        """What is learned besides the network, and where it begins; empty for most."""
        return {}

    def scale_and_bias(self, learned: Mapping[str, float]) -> tuple[float, float] | None:
        """Those of the sigmoid that turns a cosine into a probability; None where it was not trained with one."""
        del learned
        return None

    def facts(self, learned: Mapping[str, float]) -> dict[str, float]:
        """What was learned, in the words of the user, such as the temperature."""
        return dict(learned)

    def module(self) -> Any:
        """A `torch.nn.Module`: called with `Embedded`, gives the loss.

        It holds what is learned in `learned`, and has `scale_and_bias()` and `facts()`.

        Raises:
            MissingExtraError: PyTorch is not installed.
        """
        return _module(self)


def _module(spec: Loss) -> Any:
    torch = need("torch", TRAIN)

    class LossModule(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.spec = spec
            self.learned = torch.nn.ParameterDict(
                {name: torch.nn.Parameter(torch.tensor(value)) for name, value in spec.numbers().items()}
            )

        def forward(self, batch: Embedded) -> Any:
            return spec.of(batch, self.learned)

        def _values(self) -> dict[str, float]:
            return {name: float(value.detach()) for name, value in self.learned.items()}

        def scale_and_bias(self) -> tuple[float, float] | None:
            return spec.scale_and_bias(self._values())

        def facts(self) -> dict[str, float]:
            return spec.facts(self._values())

        def extra_repr(self) -> str:
            return repr(spec)

    return LossModule()


@dataclass(frozen=True)
class InfoNCE(Loss):
    """Each picture has to find its text among those of the batch (van den Oord 2018), and the other way round.

    `mean_i(-log(exp(s_ii / temperature) / sum_j exp(s_ij / temperature)))` with cosines s; j runs over i itself and its
    negatives.

    Attributes:
        temperature: what cosines are divided by; the smaller, the more the hardest negatives count.
        learned: whether it is learned, from there, as in CLIP (arXiv 2103.00020); its inverse stays <= 100.
        both: the mean of both directions; otherwise only pictures look for texts.
    """

    temperature: float = 0.07
    learned: bool = False
    both: bool = True

    def __post_init__(self) -> None:
        _positive(self, "temperature", self.temperature)

    def numbers(self) -> dict[str, float]:
        """The logarithm of the scale, where it is learned."""
        return {"log_scale": -math.log(self.temperature)} if self.learned else {}

    def facts(self, learned: Mapping[str, float]) -> dict[str, float]:
        """The temperature."""
        scale = math.exp(learned["log_scale"]) if self.learned else 1 / self.temperature
        return {"temperature": 1 / min(scale, LARGEST_SCALE) if self.learned else 1 / scale}

    def of(self, batch: Embedded, learned: Mapping[str, Any]) -> Any:
        """See `Loss`."""
        torch = need("torch", TRAIN)
        cosines = _cosines(batch, self)
        logits = cosines * (_learned_scale(learned["log_scale"]) if self.learned else 1 / self.temperature)
        logits = logits.masked_fill(~_own_or_negative(batch), -math.inf)
        right = torch.arange(len(batch), device=logits.device)
        loss = torch.nn.functional.cross_entropy(logits, right)
        if not self.both:
            return loss
        return (loss + torch.nn.functional.cross_entropy(logits.T, right)) / 2


@dataclass(frozen=True)
class Sigmoid(Loss):
    """Each cell of pictures by texts is a question of its own: do they belong together? (SigLIP, arXiv 2303.15343)

    `sum_ij(-log(sigmoid(z_ij (scale s_ij + bias)))) / b` with z = 1 for what belongs together and -1 for negatives.
    What is only akin is left out: whether the text fits is not known. Scale and bias are learned. They turn cosines
    into probabilities afterwards.

    Attributes:
        scale: where it begins.
        bias: likewise; negative, since most cells are.
    """

    scale: float = 10.0
    bias: float = -10.0

    def __post_init__(self) -> None:
        _positive(self, "scale", self.scale)

    def numbers(self) -> dict[str, float]:
        """The logarithm of the scale, and the bias."""
        return {"log_scale": math.log(self.scale), "bias": self.bias}

    def scale_and_bias(self, learned: Mapping[str, float]) -> tuple[float, float]:
        """As they were learned."""
        return math.exp(learned["log_scale"]), learned["bias"]

    def facts(self, learned: Mapping[str, float]) -> dict[str, float]:
        """Both."""
        scale, bias = self.scale_and_bias(learned)
        return {"scale": scale, "bias": bias}

    def of(self, batch: Embedded, learned: Mapping[str, Any]) -> Any:
        """See `Loss`."""
        torch = need("torch", TRAIN)
        logits = _cosines(batch, self) * learned["log_scale"].exp() + learned["bias"]
        right = belonging(batch)
        cells = torch.nn.functional.softplus(torch.where(right, -logits, logits))
        return cells.masked_fill(~(right | negatives(batch)), 0).sum() / len(batch)


@dataclass(frozen=True)
class Margin(Loss):
    """What belongs together is pulled to one place, what does not is pushed apart up to a margin (Hadsell 2006).

    `mean(D^2) / 2` of pairs + `mean(max(0, margin - D)^2) / 2` of negatives, with Euclidean distances D between unit
    vectors, 0 to 2. Each mean is over its own cells, so that the weight of a pair does not depend on the batch's size.

    Attributes:
        margin: distance from which on negatives are left alone; unrelated unit vectors are about 1.4 apart.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "margin", self.margin)

    def of(self, batch: Embedded, learned: Mapping[str, Any]) -> Any:
        """See `Loss`."""
        del learned
        cosines = _cosines(batch, self)
        squares = (2 - 2 * cosines).clamp_min(_NEARLY_ZERO)  # the root has no slope at 0
        wrong = negatives(batch)
        pushed = (self.margin - squares.sqrt()).clamp_min(0).square().masked_fill(~wrong, 0)
        return (squares.diagonal().mean() + pushed.sum() / wrong.sum().clamp_min(1)) / 2


@dataclass(frozen=True)
class Triplet(Loss):
    """The right text has to be nearer than the nearest wrong one, by a margin (VSE++, arXiv 1707.05612).

    `mean_i(max(0, margin + max_j s_ij - s_ii))` over negatives j, for pictures and for texts, added.

    Attributes:
        margin: in cosines.
        hard: only the hardest negative of each counts; otherwise the mean over all of them.
    """

    margin: float = 0.2
    hard: bool = True

    def __post_init__(self) -> None:
        _positive(self, "margin", self.margin)

    def of(self, batch: Embedded, learned: Mapping[str, Any]) -> Any:
        """See `Loss`."""
        del learned
        cosines, wrong = _cosines(batch, self), negatives(batch)
        right = cosines.diagonal()
        return self._side(cosines, right, wrong) + self._side(cosines.T, right, wrong.T)

    def _side(self, cosines: Any, right: Any, wrong: Any) -> Any:
        hinges = (self.margin + cosines - right[:, None]).clamp_min(0).masked_fill(~wrong, 0)
        if self.hard:
            return hinges.amax(1).mean()
        return (hinges.sum(1) / wrong.sum(1).clamp_min(1)).mean()


@dataclass(frozen=True)
class SupervisedContrastive(Loss):
    """What is of one class comes together (Khosla 2020, arXiv 2004.11362, equation 2).

    `mean_i(-mean_p(log(exp(s_ip / temperature) / sum_a exp(s_ia / temperature))))`: p runs over the others of i's
    class, a over all others. Each picture and each text counts once, however often it is in the batch. What has no
    other of its class is no i.

    Attributes:
        temperature: what cosines are divided by.
        texts: the texts take part beside the pictures, each with the class of its row; otherwise pictures alone.
    """

    temperature: float = 0.07
    texts: bool = True

    def __post_init__(self) -> None:
        _positive(self, "temperature", self.temperature)

    def of(self, batch: Embedded, learned: Mapping[str, Any]) -> Any:
        """See `Loss`."""
        del learned
        torch = need("torch", TRAIN)
        if batch.labels is None:
            raise LearnError(
                "SupervisedContrastive learns from classes, and these examples have none.",
                hint="Give labels, or take InfoNCE.",
            )
        first = _first(batch.pictures)
        rows, labels = batch.images[first], batch.labels[first]
        if self.texts:
            _cosines(batch, self)
            first = _first(batch.captions)
            rows = torch.cat([rows, batch.texts[first]])
            labels = torch.cat([labels, batch.labels[first]])
        others = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        positives = _same(labels) & others
        logits = (rows @ rows.T / self.temperature).masked_fill(~others, -math.inf)
        logs = logits.log_softmax(1).masked_fill(~positives, 0)
        counts = positives.sum(1)
        return -(logs.sum(1) / counts.clamp_min(1)).sum() / (counts > 0).sum().clamp_min(1)


def _first(ids: Any) -> Any:
    """Places of the first row of each id, in order."""
    torch = need("torch", TRAIN)
    earlier = _same(ids) & torch.ones(len(ids), len(ids), dtype=torch.bool, device=ids.device).tril(-1)
    return (~earlier.any(1)).nonzero().squeeze(1)


def _cosines(batch: Embedded, loss: Loss) -> Any:
    """(b, b), pictures by texts."""
    if batch.texts is None:
        raise LearnError(
            f"{type(loss).__name__} learns from pictures and texts, and there is no tower for texts.",
            hint="Give a text model, or take SupervisedContrastive(texts=False).",
        )
    return batch.images @ batch.texts.T


def _own_or_negative(batch: Embedded) -> Any:
    torch = need("torch", TRAIN)
    return negatives(batch) | torch.eye(len(batch), dtype=torch.bool, device=batch.pictures.device)


def _learned_scale(log_scale: Any) -> Any:
    torch = need("torch", TRAIN)
    # Held in place, as CLIP does: a value that is only cut off here would have no slope and never come back.
    with torch.no_grad():
        log_scale.clamp_(max=math.log(LARGEST_SCALE))
    return log_scale.exp()


def _positive(loss: Loss, name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise LearnError(f"{type(loss).__name__}: {name} is {value!r}.", hint="Give a number above 0.")
