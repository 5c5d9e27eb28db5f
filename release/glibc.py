"""Links against an older glibc than the machine's own: libraries without code, which export only what that version had.

A linker takes a symbol's newest version. On a new system that binds pthread_create to GLIBC_2.34, and a cluster with an older one
cannot load the result. But every glibc still exports the versions of its elders, so that its own table of symbols tells what an
older one had: a stub of each library with those alone, put first in the linker's way, is all that it takes. The compiler, its
headers and its flags stay the same: so do the objects.
"""

import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from release.elf import Library, Offered, version_numbers

LIBRARIES = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux-x86-64.so.2")
# Until 2.34 these lived outside of libc.so.6; a file must name the library in which an old system looks for them.
_OLD_HOMES = {
    "libpthread.so.0": ("pthread_", "sem_", "__pthread_", "_pthread_"),
    "libdl.so.2": ("dl",),
    "librt.so.1": ("aio_", "clock_", "lio_", "mq_", "shm_", "timer_"),
}
Versions = dict[str, list[Offered]]  # of one library: version -> symbols


def link_flags(folder: Path, floor: tuple[int, int], cxx: str = "g++") -> str:
    """Make the stubs in ``folder`` and return the LDFLAGS that link a module to need glibc ``floor`` and nothing else.

    libstdc++ and libgcc go into the module; what they ask of a newer glibc is in newer_glibc.c.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host = {name: Library(Path(_output(cxx, f"-print-file-name={name}"))) for name in LIBRARIES}
    for name, versions in older(host, floor).items():
        _build_stub(folder, name, versions, cxx)
    # What /usr/lib/.../libc.so says as well: the shared library, and the functions that every module holds itself.
    nonshared = _output(cxx, "-print-file-name=libc_nonshared.a")
    loader = folder / "ld-linux-x86-64.so.2"
    (folder / "libc.so").write_text(f"GROUP ( {nonshared} {folder / 'libc.so.6'} AS_NEEDED ( {loader} ) )\n")
    newer = folder / "newer_glibc.o"
    subprocess.run([cxx.replace("g++", "gcc"), "-O2", "-fPIC", "-fvisibility=hidden", "-c", Path(__file__).with_name("newer_glibc.c"), "-o", newer], check=True)  # fmt: skip
    return f"-L{folder} {newer} -static-libstdc++ -static-libgcc -Wl,--as-needed -Wl,-s"


def older(host: dict[str, Library], floor: tuple[int, int]) -> dict[str, Versions]:
    """What each library had at version ``floor``: every symbol once, at the newest version that existed."""
    result: dict[str, Versions] = {name: defaultdict(list) for name in host}
    for library, table in host.items():
        symbols = defaultdict(list)
        for each in table.offered:
            if version_numbers(each.version) and each.kind != "STT_TLS" and each.name != each.version:
                symbols[each.name].append(each)
        for name, known in symbols.items():
            there = [each for each in known if version_numbers(each.version) <= floor]
            if there:
                moved = any(each.default and version_numbers(each.version) > floor for each in known)
                home = _old_home(name, library) if moved and library == "libc.so.6" else library
                newest = max(there, key=lambda each: version_numbers(each.version))
                result[home][newest.version].append(newest)
    return result


def _old_home(name: str, library: str) -> str:
    return next((home for home, prefixes in _OLD_HOMES.items() if name.startswith(prefixes)), library)


def _build_stub(folder: Path, name: str, versions: Versions, cxx: str) -> None:
    source, script = folder / f"{name}.s", folder / f"{name}.map"
    source.write_text("".join(_assembler(each) for symbols in versions.values() for each in symbols))
    script.write_text("".join(_node(version, versions[version]) for version in sorted(versions, key=version_numbers)))
    command = [cxx, "-shared", "-nostdlib", f"-Wl,-soname,{name}", f"-Wl,--version-script={script}", source]
    subprocess.run([*map(str, command), "-o", str(folder / name)], check=True)
    short = folder / (name.split(".so")[0] + ".so")  # the name that -l looks for
    if name != "libc.so.6":
        short.unlink(missing_ok=True)
        short.symlink_to(name)


def _assembler(symbol: Offered) -> str:
    kind = "object" if symbol.kind == "STT_OBJECT" else "function"
    return f".globl {symbol.name}\n.type {symbol.name}, @{kind}\n{symbol.name}: .quad 0\n.size {symbol.name}, 8\n"


def _node(version: str, symbols: Iterable[Offered]) -> str:
    names = "".join(f" {each.name};" for each in symbols)
    return f"{version} {{ global:{names} local: *; }};\n"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
