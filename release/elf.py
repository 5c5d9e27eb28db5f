"""What a shared library needs, asks for and offers, by its own tables."""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from elftools.elf.elffile import ELFFile


class Offered(NamedTuple):
    """A symbol that a library exports."""

    name: str
    version: str  # such as "GLIBC_2.34"; "" without versions
    default: bool  # what a link without a wish of its own binds to
    kind: str  # "STT_FUNC", "STT_OBJECT", ...


class Asked(NamedTuple):
    """A symbol that a library wants from others."""

    name: str
    version: str  # "" if it takes any
    library: str  # that it was linked against; "" without a version
    weak: bool


class Library:
    """The dynamic part of an ELF file."""

    def __init__(self, path: Path) -> None:
        self.soname = path.name
        self.needed: list[str] = []
        self.offered: list[Offered] = []
        self.asked: list[Asked] = []
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            for tag in elf.get_section_by_name(".dynamic").iter_tags():
                if tag.entry.d_tag == "DT_NEEDED":
                    self.needed.append(tag.needed)
                elif tag.entry.d_tag == "DT_SONAME":
                    self.soname = tag.soname
            versions = _versions(elf)
            numbers = elf.get_section_by_name(".gnu.version")
            for i, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
                if not symbol.name:
                    continue
                number = numbers.get_symbol(i)["ndx"] if numbers else "VER_NDX_GLOBAL"
                hidden = isinstance(number, int) and bool(number & 0x8000)
                version, library = versions.get(number & 0x7FFF, ("", "")) if isinstance(number, int) else ("", "")
                if symbol["st_shndx"] == "SHN_UNDEF":
                    weak = symbol["st_info"]["bind"] == "STB_WEAK"
                    self.asked.append(Asked(symbol.name, version, library, weak))
                elif number != "VER_NDX_LOCAL" and symbol["st_info"]["bind"] != "STB_LOCAL":
                    self.offered.append(Offered(symbol.name, version, not hidden, symbol["st_info"]["type"]))

    def exports(self) -> list[str]:
        """Names that others may bind to, without the names of the versions themselves."""
        return sorted({each.name for each in self.offered if each.name != each.version})

    def highest(self, family: str) -> tuple[int, ...]:
        """The highest version of a family ("GLIBC") that is asked for; () if none is."""
        return max(
            (version_numbers(each.version) for each in self.asked if each.version.startswith(f"{family}_")), default=()
        )


def _versions(elf: ELFFile) -> dict[int, tuple[str, str]]:
    """Number -> (version, library): the library is the one it is wanted from, "" for the file's own versions."""
    found: dict[int, tuple[str, str]] = defaultdict(lambda: ("", ""))
    own = elf.get_section_by_name(".gnu.version_d")
    for version, names in own.iter_versions() if own else ():
        found[version["vd_ndx"]] = (next(names).name, "")
    others = elf.get_section_by_name(".gnu.version_r")
    for library, wanted in others.iter_versions() if others else ():
        for each in wanted:
            found[each["vna_other"]] = (each.name, library.name)
    return found


def version_numbers(version: str) -> tuple[int, ...]:
    """(2, 28) of "GLIBC_2.28"; () of what is no number, such as GLIBC_PRIVATE."""
    found = re.fullmatch(r"[A-Z]*_?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, found[1].split("."))) if found else ()
