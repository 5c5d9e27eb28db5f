"""Ranks for tests: processes with gloo between them, that end when the test does, whatever happens.

They are forked from a server that has imported torch, DALI and the package once, and never computed: a rank is there in milliseconds.
"""

import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from dali_icgan.ranks import Ranks

_CONTEXT = multiprocessing.get_context("forkserver")
# torch._dynamo: what loading a model imports, for seconds; the trainer: timm and torchvision.
_CONTEXT.set_forkserver_preload(
    ["dali_icgan.loader", "nvidia.dali.fn", "torch._dynamo", "tests.processes", "dali_icgan.recipes.trainer"]
)


class RankProcesses:
    """Runs ``function(*arguments)`` in ``world`` processes, as ranks of torch.distributed (gloo), and kills them when it is left.

    Args:
        function: of a module that can be imported; what it returns must be JSON.
        folder: for results and errors; a new one inside it is used.
        timeout: of the process group, in seconds.
        threads: torch's in each process, whatever the environment says.
        distributed: whether there is a process group.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        world: int,
        arguments: Sequence[Any] = (),
        *,
        folder: Path,
        timeout: float = 60,
        threads: int = 1,
        distributed: bool = True,
    ) -> None:
        self.folder = folder / f"ranks-{uuid.uuid4().hex[:12]}"
        self.folder.mkdir(parents=True)
        self.world = world
        self.processes = [
            _CONTEXT.Process(
                target=_run,
                args=(function, tuple(arguments), rank, world, str(self.folder), timeout, threads, distributed),
                daemon=True,
            )
            for rank in range(world)
        ]

    def __enter__(self) -> "RankProcesses":
        try:
            for process in self.processes:
                process.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self, *ranks: int) -> None:
        """SIGKILL; without arguments to all. Returns when they are gone."""
        chosen = [self.processes[rank] for rank in ranks or range(self.world)]
        for process in chosen:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        for process in chosen:
            if process.pid is not None:
                process.join(10)

    def stop(self, rank: int) -> None:
        """SIGSTOP: it hangs, with its connections open."""
        os.kill(self.processes[rank].pid, signal.SIGSTOP)

    def connected(self) -> bool:
        """Whether torch has connected all ranks. A rank that is lost before that is missed by the others after five times the timeout:
        Gloo tries again, and only a launcher (torchrun) ends them sooner."""
        return all((self.folder / f"{rank}.connected").exists() for rank in range(self.world))

    def alive(self) -> list[int]:
        return [rank for rank, process in enumerate(self.processes) if process.is_alive()]

    def wait(self, seconds: float, ranks: Sequence[int] | None = None) -> list[int | None]:
        """Exit codes, -9 for a killed one. Fails where one is still running after ``seconds``."""
        ranks = range(self.world) if ranks is None else ranks
        deadline = time.monotonic() + seconds
        for rank in ranks:
            self.processes[rank].join(max(0.0, deadline - time.monotonic()))
        hanging = [rank for rank in ranks if self.processes[rank].is_alive()]
        for rank in hanging:
            os.kill(self.processes[rank].pid, signal.SIGUSR1)  # says where it is
        if hanging:
            time.sleep(1)
            said = "\n".join(f"rank {rank}:\n{self.output(rank)}" for rank in hanging)
            raise AssertionError(f"ranks {hanging} of {self.world} still run after {seconds} s\n{said}")
        return [process.exitcode for process in self.processes]

    def results(self, seconds: float) -> list[Any]:
        """What each rank returned. Fails where one did not end well."""
        codes = self.wait(seconds)
        assert not any(codes), "\n".join(f"rank {r}: {codes[r]}\n{self.error(r)}" for r in range(self.world))
        return [json.loads((self.folder / f"{rank}.json").read_text()) for rank in range(self.world)]

    def error(self, rank: int) -> str:
        """Type and message of what ended a rank; "" where nothing did."""
        path = self.folder / f"{rank}.error"
        return path.read_text() if path.exists() else ""

    def output(self, rank: int) -> str:
        """What it wrote to stdout and stderr."""
        return (self.folder / f"{rank}.txt").read_text()


def _run(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    rank: int,
    world: int,
    folder: str,
    timeout: float,
    threads: int,
    distributed: bool,
) -> None:
    descriptor = os.open(f"{folder}/{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    faulthandler.register(signal.SIGUSR1, file=descriptor)
    torch.set_num_threads(threads)
    try:
        if distributed:
            torch.distributed.init_process_group(
                "gloo",
                init_method=f"file://{folder}/store",
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=timeout),
            )
        Path(f"{folder}/{rank}.connected").touch()
        result = function(*arguments)
        Path(f"{folder}/{rank}.json").write_text(json.dumps(result))
        if distributed:
            Ranks.here().barrier("leaving")  # a rank that leaves takes its connections with it
    except BaseException as error:
        Path(f"{folder}/{rank}.error").write_text(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a thread of torch's that waits for a lost rank must not hold the end up
    sys.stdout.flush()
    os._exit(0)
