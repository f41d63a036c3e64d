"""Products as sets of files: *.SAFE folders at any depth, and zip archives of them, which are read in place."""

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluemap.data.scenes.sources.granules import Layer
from cluemap.errors import DataError

ENDING = ".SAFE"


@dataclass(frozen=True)
class Package:
    """One product. `name` is its folder; of an archive, the folder in it."""

    name: Path
    path: Path  # of the folder or archive
    members: tuple[str, ...]  # files, as they are named below `path`
    zipped: bool

    def member(self, ending: str) -> str | None:
        """The first file of this name."""
        return next((name for name in self.members if name.rsplit("/", 1)[-1] == ending), None)

    def read(self, member: str) -> bytes:
        """A file's content; raises OSError or zipfile.BadZipFile."""
        if not self.zipped:
            return (self.path / member).read_bytes()
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(member)
        except (zlib.error, EOFError, RuntimeError, NotImplementedError) as error:  # damaged, cut short, encrypted
            raise OSError(str(error)) from None

    def layer(self, member: str) -> Layer:
        """The band of a file that holds one."""
        if not self.zipped:
            return Layer(self.path / member, 1)
        return Layer(self.path, 1, address=f"/vsizip/{{{self.path.resolve()}}}/{member}")


def find_packages(home: Path) -> Iterator[Package]:
    """Every product under `home`, however deep, in the order of their paths; or `home` itself.

    Raises:
        DataError: an archive that cannot be opened.
    """
    if home.suffix.upper() == ENDING:
        yield _folder(home)
        return
    for place, folders, files in os.walk(home, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(place)
        for name in [name for name in folders if name.upper().endswith(ENDING)]:
            folders.remove(name)  # its inside is the product's
            yield _folder(here / name)
        for name in sorted(files):
            if name.lower().endswith(".zip") and not name.startswith("."):
                yield from _archive(here / name)


def _folder(path: Path) -> Package:
    files = sorted(file for file in path.rglob("*") if not _hidden(file.name) and file.is_file())
    return Package(path, path, tuple(file.relative_to(path).as_posix() for file in files), False)


def _archive(path: Path) -> Iterator[Package]:
    """The products in an archive; other archives, without any jp2, are passed over."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(name for name in archive.namelist() if not name.endswith("/"))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is no whole zip archive ({error}): fetch it again, or take it out") from None
    members = [name for name in members if not any(_hidden(part) or part == "__MACOSX" for part in name.split("/"))]
    groups: dict[str, list[str]] = {}
    for name in members:
        parts = name.split("/")
        product = next((part for part in parts if part.upper().endswith(ENDING)), "")
        groups.setdefault(product, []).append(name)
    for product, names in groups.items():
        if any(name.lower().endswith(".jp2") for name in names):
            yield Package(path / product if product else path, path, tuple(names), True)


def _hidden(name: str) -> bool:
    """Also the `._name` files that macOS leaves beside others on foreign disks."""
    return name.startswith(".")
