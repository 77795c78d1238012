"""One object for all workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Keeper:
    """Runs as an actor: it holds an object, and calls its methods."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """What a method of the object returns."""
        return getattr(self._value, method)(*arguments)


@dataclass(frozen=True)
class Remote:
    """A method of the object, as a function that any worker may call.

    Attributes:
        keeper: the actor.
        method: its name.
    """

    keeper: Any
    method: str

    def __call__(self, *arguments: Any) -> Any:
        """What the method returns."""
        import ray

        return ray.get(self.keeper.call.remote(self.method, arguments))


def kept(value: Any, methods: tuple[str, ...]) -> tuple[Callable[..., Any], ...]:
    """Send an object to an actor beside this process, and give some of its methods.

    The actor lives as long as the methods are held. It is on the machine the run was started on: when that dies, the
    run does too.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Nowhere else, however busy it is: the object could not be had again.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    keeper = ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here, max_concurrency=8).remote(value)
    return tuple(Remote(keeper, method) for method in methods)
