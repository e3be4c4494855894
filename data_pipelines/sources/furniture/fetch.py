"""The furniture libraries out of their Debian package, fetched and pinned by data_pipelines/packages.py.

Sweet Home 3D's contributed models stand in for paper section 4.1. A .deb is an `ar` archive (ar(5), deb(5)) with the
files in data.tar.*; each .sh3f in there is a zip with a catalogue, OBJ models and their textures.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.packages import FetchError

_MAGIC, _HEADER = b"!<arch>\n", 60
_SUFFIX = ".sh3f"


def unpack(package: Path, folder: Path) -> list[Path]:
    """Write the libraries of a .deb into `folder`; returns their paths by name.

    Raises FetchError, one line, for a damaged package or one without libraries.
    """
    libraries = []
    try:
        with package.open("rb") as file:
            _seek_data(file, package)
            with tarfile.open(fileobj=file, mode="r|*") as data:  # a stream: the package is 120 MB
                for member in data:
                    name = Path(member.name).name
                    if member.isfile() and name.endswith(_SUFFIX):
                        libraries.append(folder / name)
                        libraries[-1].write_bytes(data.extractfile(member).read())
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise FetchError(f"{package}: unreadable ({error}): delete it and fetch it again") from error
    if not libraries:
        raise FetchError(f"{package}: holds no {_SUFFIX} library")
    return sorted(libraries)


def _seek_data(file, package: Path) -> None:
    """Go to the first byte of data.tar.*."""
    for name, size in _members(file):
        if name.startswith("data.tar"):
            return
        file.seek(size + size % 2, 1)  # members begin at even places
    raise ValueError("no data.tar in it")


def _members(file) -> Iterator[tuple[str, int]]:
    """(name, size) of each member of an ar archive; the file stands at its first byte."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("no ar archive")
    while len(header := file.read(_HEADER)) == _HEADER:
        yield header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
