"""How far a pass over a loader has come, and the state that says so: a position, which any number of ranks can go on from."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch

from dali_icgan.data.order import ListedOrder, ShardedOrder
from dali_icgan.documents import shown

STATE_KIND, STATE_FORMAT = "dali_icgan.DataLoader", 2


@dataclass
class Progress:
    """How far a pass has come; outlives the pass, so that a state can be taken after ``break``.

    Attributes:
        epoch: the pass's.
        order: its order, from where it began.
        sampler: :func:`sampler_state` from before the order was listed.
        delivered: batches handed out.
        finished: whether the pass has said that there are no more.
    """

    epoch: int
    order: ShardedOrder | ListedOrder
    sampler: dict[str, Any] = field(default_factory=dict)
    delivered: int = 0
    finished: bool = False

    def state(self) -> dict[str, Any]:
        """Where the epoch stands. After the last batch that is its end, not the next epoch's beginning: code that saves in the loop over
        an epoch finds that epoch done when it goes on, and not begun again."""
        position = self.order.position(self.delivered)
        state = {"epoch": self.epoch, "position": position}
        if isinstance(self.order, ListedOrder):
            state |= {"checksum": self.order.checksum(position), **self.sampler}
        return state


def check_state(state: Any, expected: dict[str, Any]) -> None:
    """Refuse what is no state, or one of something else.

    Args:
        state: what was given.
        expected: what the loader says of itself, by name.

    Raises:
        ValueError: names what differs, what it must be and what it is.
    """
    if not isinstance(state, dict) or state.get("kind") != STATE_KIND:
        raise ValueError("state must come from DataLoader.state_dict() of this package")
    for name, value in {"format": STATE_FORMAT, **expected}.items():
        if type(state.get(name)) is not type(value) or state[name] != value:
            raise ValueError(f"state must be of this loader: {name} must be {value!r}, got {shown(state.get(name))}")
    for name, least, most in (("seed", -(2**63), 2**64), ("epoch", 0, 2**32), ("position", 0, 2**62)):
        if type(state.get(name)) is not int:
            raise ValueError(f"state must have an integer {name}, got {shown(state.get(name))}")
        if not least <= state[name] < most:
            bound = f">= {least}" if state[name] < least else f"< {most}"
            raise ValueError(f"state must have {name} {bound}, got {shown(state[name])}")
    if state["order"] == "own" and state["position"] > state["samples"]:
        raise ValueError(f"state must have a position of at most {state['samples']} samples, got {state['position']}")


def sampler_state(sampler: Any) -> dict[str, Any]:
    """What a sampler carries from pass to pass: its own ``state_dict()``, or the random numbers of its own generator."""
    if hasattr(sampler, "state_dict"):
        return {"sampler": copy.deepcopy(sampler.state_dict())}
    generator = getattr(sampler, "generator", None)
    if isinstance(generator, torch.Generator):
        return {"sampler_generator": generator.get_state().numpy().tobytes().hex()}
    return {}


def restore_sampler(sampler: Any, state: dict[str, Any]) -> None:
    """Give it back what :func:`sampler_state` took.

    Raises:
        ValueError: the generator's numbers are damaged.
    """
    if "sampler" in state and hasattr(sampler, "load_state_dict"):
        sampler.load_state_dict(copy.deepcopy(state["sampler"]))
    generator, numbers = getattr(sampler, "generator", None), state.get("sampler_generator")
    if isinstance(generator, torch.Generator) and numbers is not None:
        try:
            generator.set_state(torch.frombuffer(bytearray.fromhex(numbers), dtype=torch.uint8))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"state must have the sampler's generator as it was saved, got others: {error}") from error
