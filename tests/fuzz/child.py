"""The process in which mutants are read: ``python -m tests.fuzz.child DOMAIN SEED FIRST STOP FOLDER``, or FILE in place of numbers.

It may take no more memory than the product and a sound file do and some more, nothing in it may run code or another program, and it
says what became of each mutant in a line ``NUMBER OUTCOME``. Whoever started it watches the clock.
"""

import gc
import importlib
import logging
import os
import random
import resource
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

HEADROOM = 256 << 20  # bytes that a mutant may take; the largest seed is below one
EXPECTED = ("ValueError", "Refused", "DecodeError", "DeviceError", "FileNotFoundError")
_FORBIDDEN = (
    *(
        "exec",
        "os.system",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "subprocess.Popen",
        "pty.spawn",
    ),
    *(
        "os.remove",
        "os.rename",
        "os.kill",
        "socket.connect",
        "socket.bind",
        "shutil.rmtree",
        "webbrowser.open",
        "ctypes.dlopen",
    ),
    *("code.__new__", "function.__new__", "pickle.find_class", "marshal.loads", "urllib.Request"),
)


class Watch:
    """Audit hook: notes what a mutant makes Python do that reading a file never should."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[str] = []
        self.on = False
        self.refusal = ""  # the last one's message
        self._folder = str(folder)
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        inside = any(str(argument).startswith(self._folder) for argument in arguments[:1])
        if event in _FORBIDDEN and not (inside and event in ("os.remove", "os.rename", "shutil.rmtree")):
            self.seen.append(f"{event} {str(arguments)[:200]}")
        elif (
            event == "open"
            and not isinstance(arguments[0], int)  # its own opening was seen
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            and not inside
        ):
            self.seen.append(f"open for writing {arguments[0]}")


def outcome(domain: Any, data: bytes, folder: Path, watch: Watch) -> str:
    """What became of one mutant; a finding begins with ``!``."""
    watch.seen.clear()
    watch.on = True
    try:
        found = domain.check(data, folder)
    except AssertionError as error:
        found = f"!{error or traceback.format_exc()}"
    except BaseException as error:
        named = domain.NAMED in str(error)
        expected = type(error).__name__ in EXPECTED
        if expected and named:
            found, watch.refusal = "refused", str(error)
        else:
            what = "" if expected else f"{type(error).__name__} is none of the expected errors; "
            unnamed = "" if named else f"the message does not name {domain.NAMED}; "
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
            found = f"!{what}{unnamed}{type(error).__name__}: {str(error)[:300]} ({where})"
    finally:
        watch.on = False
    if watch.seen:
        found = f"!it made Python do what reading never should: {'; '.join(watch.seen[:3])}"
    return " ".join(found.split())


def mutant(domain: Any, seed: int, number: int) -> bytes:
    """Mutant ``number`` of a domain: a function of the seed."""
    return domain.mutant(random.Random(f"{domain.__name__} {seed} {number}"))


def limit_memory(headroom: int) -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + headroom, used + headroom))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(name: str, *arguments: str) -> None:
    tell = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    warnings.simplefilter("ignore")
    logging.disable()
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8-sig"):
        "".encode(encoding)  # json guesses among them, and Python imports them then
    folder = Path(arguments[-1])
    domain: Any = importlib.import_module(f"tests.fuzz.{name}")
    watch = Watch(folder)
    for data in getattr(domain, "warm", list)():
        outcome(domain, data, folder, watch)
    watch.seen.clear()
    for data in domain.seeds():
        # Also makes Python import all that it will need.
        said = outcome(domain, data, folder, watch) if watch.seen == [] else ""
        watch.seen.clear()
        if said.startswith("!it made"):
            said = outcome(domain, data, folder, watch)
        if said.startswith("!") or said == "refused":
            print(f"seed {said} {watch.refusal}", file=tell, flush=True)
            return
    limit_memory(getattr(domain, "HEADROOM", HEADROOM))
    if len(arguments) == 2:
        said = outcome(domain, Path(arguments[0]).read_bytes(), folder, watch)
        print(0, said, " ".join(watch.refusal.split()), file=tell, flush=True)
        return
    seed, first, stop = map(int, arguments[:3])
    for number in range(first, stop):
        print(number, outcome(domain, mutant(domain, seed, number), folder, watch), file=tell, flush=True)
        if number % 100 == 0:
            gc.collect()


if __name__ == "__main__":
    main(*sys.argv[1:])
