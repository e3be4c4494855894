"""Fetches the emoji packages through the ordinary npm client, pinned by version and sha256.

The table below is the whole provenance of the corpus (it stands in for the paper's unreleased stage-2 datasets,
section 4.1): package, version, checksum, author and licence. Nothing is trusted that does not match its checksum.
"""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


class FetchError(ValueError):
    """A package that cannot be had: no npm, no network, or a checksum that disagrees."""


@dataclasses.dataclass(frozen=True)
class Package:
    """One pinned npm package and what its licence asks to be named."""

    name: str
    version: str
    sha256: str
    author: str
    licence: str  # SPDX
    home: str

    @property
    def archive(self) -> str:
        """The file name that `npm pack` gives: scope and slash become one dash."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


_MICROSOFT = ("Microsoft Corporation", "MIT", "https://github.com/microsoft/fluentui-emoji")
_GOOGLE = ("Google Inc", "Apache-2.0", "https://github.com/googlefonts/noto-emoji")
_EMOJI_ONE = ("Emoji One", "CC-BY-4.0", "https://github.com/EmojiTwo/emojitwo")

NAMES = Package(
    "emojibase-data",
    "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "Miles Johnson",
    "MIT",
    "https://github.com/milesj/emojibase",
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    *_MICROSOFT,
)
FLUENT_COLOR = Package(
    "@iconify-json/fluent-emoji",
    "1.2.7",
    "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    *_MICROSOFT,
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    *_MICROSOFT,
)
FLUENT_HC = Package(
    "@iconify-json/fluent-emoji-high-contrast",
    "1.2.6",
    "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    *_MICROSOFT,
)
NOTO = Package(
    "@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", *_GOOGLE
)
NOTO_BLOB = Package(
    "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", *_GOOGLE
)
TWEMOJI = Package(
    "@iconify-json/twemoji",
    "1.2.5",
    "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "Twitter",
    "CC-BY-4.0",
    "https://github.com/jdecked/twemoji",
)
EMOJIONE = Package(
    "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e", *_EMOJI_ONE
)
EMOJIONE_MONO = Package(
    "@iconify-json/emojione-monotone",
    "1.2.1",
    "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
    *_EMOJI_ONE,
)
OPENMOJI = Package(
    "openmoji",
    "17.0.0",
    "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    "OpenMoji, HfG Schwaebisch Gmuend",
    "CC-BY-SA-4.0",
    "https://openmoji.org",
)
FXEMOJI = Package(
    "@iconify-json/fxemoji",
    "1.2.2",
    "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    "Mozilla",
    "CC-BY-4.0",  # the package says Apache-2.0, but upstream grants that for the code only: the art is CC-BY
    "https://github.com/mozilla/fxemoji",
)


def fetch(package: Package, cache: Path) -> Path:
    """The package's archive in `cache`, downloaded unless a file with the right checksum is there already.

    Raises FetchError with one line when npm is missing or fails, or when the checksum disagrees.
    """
    target = Path(cache) / package.archive
    if target.exists() and _sha256(target) == package.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        _npm_pack(package, folder)
        archive = Path(folder) / package.archive
        found = _sha256(archive) if archive.exists() else "no file"
        if found != package.sha256:
            raise FetchError(f"{package.archive}: sha256 is {found}, expected {package.sha256}: not used; try again")
        os.replace(archive, target)
    return target


def _npm_pack(package: Package, folder: str) -> None:
    wanted = f"{package.name}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(f"{wanted}: npm is not installed: install Node.js, or put {package.archive} into the cache")
    done = subprocess.run(
        [npm, "pack", "--silent", "--pack-destination", folder, wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reason = lines[0] if lines else "no message"
        raise FetchError(f"{wanted}: `npm pack` failed ({reason}): is the network up? Nothing was written")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
