"""What a model does for one number of rows: a list of steps over buffers that are made once."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One call.

    Attributes:
        name: of the layer; steps of one name are one layer, done in parts.
        form: how it is computed.
        run: does it.
        multiplications: multiply-adds done, whatever the form.
        published: multiply-adds of the published form: upsampling first, 3x3 convolutions as such.
        traffic: bytes that it must read and write at the least.
        key: of the table of forms, if its form comes from there.
        stream: the residual stream as it then is, where a block ends.
    """

    name: str
    form: str
    run: Callable[[], object]
    multiplications: int = 0
    published: int = 0
    traffic: int = 0
    key: str = ""
    stream: Callable[[], Tensor] | None = None

    def and_of(self, other: "Step") -> "Step":
        """This step with the counts of another added."""
        names = ("multiplications", "published", "traffic")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})


class Plan:
    """The steps of one call.

    Attributes:
        steps: in order.
        device, compute: where, and in which dtype they multiply.
        largest: the largest magnitude of the residual stream behind each layer where a block ends, by the layer's name, on calibration
            noise; empty until that was run.
    """

    def __init__(self, device: torch.device, compute: torch.dtype) -> None:
        self.steps: list[Step] = []
        self.device, self.compute = device, compute
        self.largest: dict[str, float] = {}

    def describe(self, rounds: int = 5) -> str:
        """A table of the layers, measured now: form, GFLOP done and of the published form, megabytes moved at the least, milliseconds
        (medians of ``rounds``), which share of the floor's speed that is, and where a block ends the largest magnitude of the residual
        stream on calibration noise.

        The floor of a layer is what its multiplications take at the rate of a large matrix product, or its bytes at the rate of a
        large copy, whichever is longer, both measured beside it. Not for use while the plan runs elsewhere.
        """
        if not self.largest:
            self.calibrate()
        flops, bandwidth = self._matrix_product(), self._copy()
        times = list(zip(*(self.seconds() for _ in range(rounds)), strict=True))
        layers: dict[str, tuple[Step, float]] = {}
        for step, found in zip(self.steps, times, strict=True):
            seconds = statistics.median(found)
            if step.name in layers:
                so_far, spent = layers[step.name]
                step, seconds = so_far.and_of(step), seconds + spent
            layers[step.name] = step, seconds
        rows: list[tuple[str, ...]] = [
            ("layer", "form", "GFLOP", "published", "MB", "ms", "of floor", "largest" * bool(self.largest))
        ]
        total = Step("all", "", lambda: None)
        spent = least = 0.0
        for step, seconds in layers.values():
            floor = max(2 * step.multiplications / flops, step.traffic / bandwidth)
            largest = self.largest.get(step.name)
            rows.append((*_row(step, seconds, floor), "" if largest is None else f"{largest:.3g}"))
            total = total.and_of(step)
            spent, least = spent + seconds, least + floor
        rows.append((*_row(total, spent, least), ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        peaks = (
            f"floor: {1e-9 * flops:.0f} GFLOP/s (matrix product, {self.compute}), {1e-9 * bandwidth:.1f} GB/s (copy)"
        )
        return "\n".join([*(line.rstrip() for line in lines), peaks])

    def calibrate(self) -> None:
        """Fill the inputs with noise like what they are for, and :attr:`largest` where there is a residual stream to be measured."""

    def measure_stream(self) -> None:
        """Fill :attr:`largest`, running the steps over what their inputs hold. It waits for the device."""
        self.largest.clear()
        for step in self.steps:
            step.run()
            if step.stream is not None:
                # NaN is the worst, whichever part of a layer has it: torch's maximum keeps it, Python's does not.
                both = self.largest.get(step.name, 0.0), float(step.stream().float().abs().max())
                self.largest[step.name] = float(torch.tensor(both, dtype=torch.float64).max())

    def seconds(self) -> list[float]:
        """What each step takes, in one run. Not for use while the plan runs elsewhere."""
        return [self._seconds(step.run) for step in self.steps]

    def _seconds(self, run: Callable[[], object]) -> float:
        self._synchronize()
        begun = time.perf_counter()
        run()
        self._synchronize()
        return time.perf_counter() - begun

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _matrix_product(self) -> float:
        """Operations a second."""
        side = 4096 if self.device.type == "cuda" else 1024
        a = torch.randn(side, side, device=self.device).to(self.compute)
        return 2 * side**3 / min(self._seconds(lambda: a @ a) for _ in range(5))

    def _copy(self) -> float:
        """Bytes a second, read and written."""
        count = (1 << 28) if self.device.type == "cuda" else 1 << 26
        a, b = (torch.zeros(count, dtype=torch.uint8, device=self.device) for _ in range(2))
        return 2 * count / min(self._seconds(lambda: b.copy_(a)) for _ in range(5))


def _row(step: Step, seconds: float, floor: float) -> tuple[str, ...]:
    def giga(count: int) -> str:
        return f"{2e-9 * count:.3f}" if count else ""

    return (
        step.name,
        step.form,
        giga(step.multiplications),
        giga(step.published),
        f"{1e-6 * step.traffic:.2f}" if step.traffic else "",
        f"{1e3 * seconds:.3f}",
        f"{100 * floor / seconds:.0f}%" if floor else "",
    )
