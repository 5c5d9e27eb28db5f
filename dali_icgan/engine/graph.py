"""Calls over fixed buffers as one CUDA graph."""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from dali_icgan.engine.plan import Step

_WARM_UP = 3  # runs before the capture: libraries load, allocate and choose on their first calls


class Graph:
    """Steps captured once and replayed; on a CPU (in tests, where the kernels are emulated) they run as they are.

    Args:
        device: where. On CUDA the capture waits for the device.
        steps: read and write the same buffers each time.
    """

    def __init__(self, device: torch.device, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._done: torch.cuda.Event | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._capture(device)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Within it the buffers are the caller's: calls on several streams are put one behind the other by an event."""
        if self._done is not None:
            self._done.wait()
        try:
            yield
        finally:
            if self._graph is not None:
                self._done = torch.cuda.current_stream().record_event()

    def replay(self) -> None:
        """Once, on the current stream."""
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()

    def _run(self) -> None:
        for step in self._steps:
            step.run()

    def _capture(self, device: torch.device) -> None:
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads go on allocating meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._run()
