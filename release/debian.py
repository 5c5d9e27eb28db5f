"""Packages of Debian, unpacked into a folder and not installed, from this machine's own mirror and checked by its keys."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


class PackageError(RuntimeError):
    """A package could not be had, or is not the one that was asked for."""


def unpack(package: str, suite: str, component: str, folder: Path, sha256: str | None = None) -> Path:
    """Unpack ``package`` ("libc6", or "libc6=2.31-13") of a suite into ``folder`` and return it.

    Raises:
        PackageError: this is no Debian, its mirror does not have it, or it has another hash.
    """
    if not shutil.which("apt-get"):
        raise PackageError(f"{package} comes from Debian's archive, and there is no apt-get here")
    with tempfile.TemporaryDirectory() as scratch:
        apt = Path(scratch)
        for name in ("lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "sources.list").write_text(f"deb [signed-by={_KEYS}] {_mirror()} {suite} {component}\n")
        options = {
            "Dir::Etc::sourcelist": apt / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": apt / "lists",
            "Dir::Cache": apt / "cache",
            "APT::Sandbox::User": "root",
        }
        flags = [f"-o{name}={value}" for name, value in options.items()]
        run(["apt-get", "-q", *flags, "update"])
        if "=" not in package:  # the suite's own, not what happens to be installed
            package = f"{package}={run(['apt-cache', *flags, 'madison', package]).split('|')[1].strip()}"
        run(["apt-get", "-q", *flags, "download", package], cwd=apt)
        (archive,) = apt.glob("*.deb")
        check(package, archive, sha256)
        run(["dpkg-deb", "-x", str(archive), str(folder)])
    return folder


def check(package: str, path: Path, sha256: str | None) -> None:
    """Raises PackageError where a file has not the hash that is known of it."""
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 is not None and got != sha256:
        raise PackageError(f"{package} must have the SHA-256 {sha256}, got {got} ({path.name})")


def run(command: list[str], cwd: Path | None = None) -> str:
    """What a command writes; raises PackageError with its complaint where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise PackageError(f"{' '.join(command[:4])} ... {command[-1]} failed: {done.stderr.strip()}")
    return done.stdout


def _mirror() -> str:
    listed = run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"])
    for line in listed.splitlines():
        origin, label, address = line.split("|")
        if (origin, label) == ("Debian", "Debian"):
            return address
    raise PackageError("apt knows no mirror of Debian: run apt-get update")
