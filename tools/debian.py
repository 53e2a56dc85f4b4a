"""Debian's packages, unpacked and not installed: all of it is in .platforms/, which git ignores.

    python tools/debian.py packages NAME...            unpack packages, with what they depend on
    python tools/debian.py source NAME                 unpack the upstream source of a package

Without --suite, packages are those of this system, and what it has installed is not unpacked. With it, they are those
of another release (`--suite sid`) and perhaps of another architecture (`--architecture arm64`), whose lists are fetched
beside the system's. --into names a folder below .platforms/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).resolve().parent.parent / ".platforms"
KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"


def main() -> str | int:
    """Runs a command; returns its exit status, or why it could not be run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["packages", "source"])
    parser.add_argument("--suite", default="")
    parser.add_argument("--architecture", default="")
    parser.add_argument("--into", default="root")
    parser.add_argument("names", nargs="+", metavar="NAME")
    options = parser.parse_args()
    fetch = {"packages": unpack, "source": unpack_source}[options.command]
    folder = FOLDER / options.into
    return attempt(lambda: fetch(folder, options.names, options.suite, options.architecture)) or 0


def attempt(fetch: Callable[[], str]) -> str:
    """Why something could not be fetched; empty if it could."""
    if not shutil.which("apt-get"):
        return "this is not Debian"
    try:
        return fetch()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"it could not be fetched: {error}"


@contextmanager
def release(suite: str, architecture: str = "", kind: str = "deb") -> Iterator[dict[str, str]]:
    """An environment in which apt-get knows the packages of this release alone, and none as installed."""
    apt = FOLDER / "apt" / f"{suite}-{architecture}"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    configuration = (
        f'Dir::Etc::SourceList "{apt}/sources.list"; Dir::Etc::SourceParts "-"; Dir::State::Lists "{apt}/lists";\n'
        f'Dir::State::Status "{apt}/status"; Dir::Cache "{apt}/cache"; APT::Sandbox::User "root";\n'
    )
    if architecture:
        configuration += f'APT::Architecture "{architecture}"; APT::Architectures {{ "{architecture}"; }};\n'
    (apt / "apt.conf").write_text(configuration)
    # As the system's own: from the same mirror, and signed by the same keys.
    mirrors = output("apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian").split()
    line = f"{kind} [signed-by={KEY}] {mirrors[0]} {suite} main\n" if mirrors else ""
    (apt / "sources.list").write_text(line)
    environment = os.environ | {"APT_CONFIG": str(apt / "apt.conf")}
    subprocess.run(["apt-get", "--quiet=2", "update"], env=environment, check=False)
    try:
        yield environment
    finally:
        shutil.rmtree(apt)


def unpack(root: Path, names: list[str], suite: str = "", architecture: str = "") -> str:
    """Unpacks packages, and those that they depend on and this machine lacks; returns why it could not."""
    unpacked = root / ".unpacked"
    known = set(unpacked.read_text().split()) if unpacked.exists() else set()
    if known.issuperset(names):
        return ""
    if suite:
        with release(suite, architecture) as environment:
            return unpack_missing(root, names, known, environment)
    return unpack_missing(root, names, known, None)


def unpack_missing(root: Path, names: list[str], known: set[str], env: dict[str, str] | None) -> str:
    """Unpacks those that are not known; returns why it could not."""
    options = ("--option", "Debug::NoLocking=1", "--no-install-recommends")
    uris = output("apt-get", "--print-uris", "--quiet=2", *options, "install", *names, env=env)
    if not uris:
        return f"apt-get knows no package {' '.join(names)}: `apt-get update`"
    root.mkdir(parents=True, exist_ok=True)
    wanted = {line.split()[1].partition("_")[0] for line in uris.splitlines()} - known
    packages = root.with_name(f"{root.name}.packages")
    download(packages, *sorted(wanted), env=env)
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    shutil.rmtree(packages)
    (root / ".unpacked").write_text("\n".join(sorted(known | wanted | set(names))))
    return ""


def unpack_source(folder: Path, names: list[str], suite: str = "", architecture: str = "") -> str:
    """Unpacks what upstream published, without Debian's changes, into a folder; returns why it could not."""
    (name,) = names
    if folder.exists():
        return ""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with release(suite, architecture, "deb-src") as environment:
        command = ["apt-get", "--quiet=2", "source", "--download-only", name]
        subprocess.run(command, cwd=part, env=environment, stdout=subprocess.DEVNULL, check=True)
    (archive,) = (file for file in part.glob("*.orig.tar.*") if file.suffix != ".asc")
    subprocess.run(["tar", "--extract", "--file", archive, "--strip-components", "1"], cwd=part, check=True)
    part.rename(folder)
    return ""


def download(folder: Path, *packages: str, env: dict[str, str] | None = None) -> None:
    """Downloads packages into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = ["apt-get", "--quiet=2", "--option", "APT::Sandbox::User=root", "download", *packages]
    subprocess.run(command, cwd=folder, env=env, check=True)


def output(*command: str, env: dict[str, str] | None = None) -> str:
    """What a command prints; empty if it fails."""
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
