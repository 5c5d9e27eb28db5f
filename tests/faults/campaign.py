"""Kills jobs at random moments, lets them go on elsewhere, and holds what came of it against a run that nothing happened to."""

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import jobs
from tests.photos import make_folder
from tests.processes import RankProcesses

PER_CLASS = 20  # photographs, of three classes
TIMEOUT = 20.0  # of the process group, in seconds
PATIENCE = 60.0  # in which whoever lost a rank must have ended
WHOLE = 240.0  # in which a job that nothing happens to must be done
RANKS = 4
LONGEST = {"training": 1.2, "bank": 0.6}  # seconds of a job's life in which it is killed


@dataclass
class Counts:
    """What was done, and what was wrong."""

    kills: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)
    resumed_on: Counter[int] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    mismatches: list[str] = field(default_factory=list)


class Campaign:
    """``kills`` kills, by a seed; ``say`` is told of each.

    Jobs are trainings (logged, with checkpoints) and buildings of banks. What is killed and when depends on the seed and on the machine's
    own pace: it does not come again exactly.
    """

    def __init__(self, folder: Path, kills: int, seed: int, say: Callable[[str], None] = lambda line: None) -> None:
        self.folder, self.wanted, self.say = folder, kills, say
        self.random = random.Random(seed)
        self.counts = Counts()
        self.photographs = str(make_folder(folder / "photographs", PER_CLASS))
        self.n = 3 * PER_CLASS
        self.bank = str(folder / "bank")
        self._alone(jobs.build, self.photographs, self.bank)
        rows = self._alone(jobs.unbroken, self.photographs, self.bank)
        self.reference = {(epoch, index, repeat): digest for epoch, index, repeat, digest in rows}
        assert len(self.reference) == jobs.EPOCHS * self.n

    def run(self) -> Counts:
        number = 0
        while self.counts.kills < self.wanted:
            kind = ("bank", "training")[number % 2]
            work = self.folder / f"{number:03d}-{kind}"
            work.mkdir()
            (self._train if kind == "training" else self._build)(work)
            self.counts.jobs[kind] += 1
            number += 1
        return self.counts

    # ------------------------------------------------------------------ jobs

    def _train(self, work: Path) -> None:
        attempt = 0

        def arguments() -> tuple[Any, ...]:
            nonlocal attempt
            attempt += 1
            choice = self.random
            return (self.photographs, self.bank, str(work), attempt, choice.randint(1, 5), choice.randint(1, 4))

        self._kill_until_done(jobs.train, arguments, work, "training")
        self._check_training(work)

    def _build(self, work: Path) -> None:
        bank = work / "bank"
        self._kill_until_done(jobs.build, lambda: (self.photographs, str(bank)), bank, "bank")
        for name in ("features.npy", "keys.txt", "labels.npy", "bank.json"):
            if (bank / name).read_bytes() != Path(self.bank, name).read_bytes():
                self.counts.mismatches.append(f"{bank / name} differs")
        left = sorted(path.name for path in bank.iterdir() if path.suffix in (".new", ".part"))
        if left:
            self.counts.mismatches.append(f"{bank} holds {left}")
        self.counts.samples += self.n

    def _kill_until_done(
        self, job: Callable[..., Any], arguments: Callable[[], Sequence[Any]], watched: Path, kind: str
    ) -> None:
        """Some attempts that are killed, each on its own number of ranks, then one that is not."""
        left = min(self.random.randint(2, 7), self.wanted - self.counts.kills)
        killed = False
        while True:
            world = self.random.randint(1, RANKS)
            if killed:
                self.counts.resumed_on[world] += 1
            before = _files(watched)
            with RankProcesses(job, world, arguments(), folder=self.folder, timeout=TIMEOUT) as processes:
                if not left or not self._strike(processes, watched, LONGEST[kind]):
                    processes.results(WHOLE)  # it may have been done before its moment came
                    return
            killed = True
            left -= 1
            self.counts.kills += 1
            changed = _files(watched) - before
            moment = f"{kind}, " + (
                "while a file was written"
                if any(name.endswith(".new") for name, _ in changed)
                else "at work"
                if changed
                else "before its first step"
            )
            self.counts.moments[moment] += 1
            self.say(f"kill {self.counts.kills}, {world} ranks, {moment}")

    def _strike(self, processes: RankProcesses, watched: Path, longest: float) -> bool:
        """Kill one rank or all at a random moment; whether there was still one to kill."""
        all_ = processes.world == 1 or self.random.random() < 0.5
        until = time.monotonic() + longest
        if self.random.random() < 0.5:
            victim = self.random.randrange(processes.world)
            until -= self.random.uniform(0, longest)
            while time.monotonic() < until and len(processes.alive()) == processes.world:
                time.sleep(0.001)
        else:  # while a file is written, or just behind that
            victim = 0  # who writes
            before, passing = _written(watched), self.random.randint(0, 9)
            while time.monotonic() < until and len(processes.alive()) == processes.world:
                if (now := _written(watched)) - before:
                    before, passing = now, passing - 1
                    if passing < 0:
                        time.sleep(self.random.choice([0, self.random.uniform(0, 0.002)]))
                        break
        all_ = all_ or not processes.connected()
        victims = range(processes.world) if all_ else [victim]
        if len(processes.alive()) < processes.world:
            return False
        processes.kill(*victims)
        others = [rank for rank in range(processes.world) if rank not in victims]
        codes = processes.wait(PATIENCE, others)
        if all(code == 0 for code in codes):
            return False  # it had ended in the meantime
        for rank in others:
            if codes[rank] != 0 and not processes.error(rank).startswith("RankError: "):
                self.counts.mismatches.append(f"rank {rank} ended with {processes.error(rank)!r}, no clear error")
        self.counts.victims["every rank" if all_ else "one of several"] += 1
        return True

    # ------------------------------------------------------------------ checking

    def _check_training(self, work: Path) -> None:
        attempts: dict[str, list[list[dict[str, Any]]]] = {}
        for path in sorted(work.glob("attempt-*-rank-*.jsonl")):
            lines = path.read_text().splitlines(keepends=True)
            entries = [json.loads(line) for line in lines if line.endswith("\n")]
            attempts.setdefault(path.name.split("-rank-")[0], []).append(entries)
        started = [[log for log in logs if log] for logs in attempts.values()]
        started = [logs for logs in started if logs]
        delivered = []
        for logs, later in zip(started, [*started[1:], None], strict=True):
            begun = {log[0]["from"] for log in logs}
            until = None if later is None else later[0][0]["from"]
            if len(begun) != 1:
                self.counts.mismatches.append(f"{work}: ranks of one attempt began at the steps {begun}")
            for log in logs:
                for entry in log[1:]:
                    if until is None or entry["step"] <= until:
                        delivered += [(entry["epoch"], *row) for row in entry["rows"]]
        counted = Counter((epoch, index) for epoch, index, *_ in delivered)
        wrong = {key: counted[key] for key in {*counted, *((e, i) for e, i, _ in self.reference)} if counted[key] != 1}
        if wrong:
            self.counts.mismatches.append(f"{work}: of (epoch, sample) not once: {wrong}")
        for epoch, index, repeat, digest in delivered:
            if self.reference.get((epoch, index, repeat)) != digest:
                self.counts.mismatches.append(f"{work}: other pixels of {(epoch, index, repeat)}")
        self.counts.samples += len(delivered)

    def _alone(self, job: Callable[..., Any], *arguments: Any) -> Any:
        with RankProcesses(job, 1, arguments, folder=self.folder, distributed=False) as processes:
            return processes.results(120)[0]


def _files(folder: Path) -> set[tuple[str, int]]:
    """Names and times of all files."""
    found = set()
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def _written(folder: Path) -> set[tuple[str, int]]:
    """All but the logs, which are written all the time."""
    return {each for each in _files(folder) if not each[0].startswith("attempt-")}
