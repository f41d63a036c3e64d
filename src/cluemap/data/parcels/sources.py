"""Where the parcels of a data set come from: images with a map of parcel numbers, or files of parcels."""

from dataclasses import dataclass
from typing import Protocol, cast

from numpy.typing import NDArray

from cluemap.data.formats.psetae import open_psetae
from cluemap.data.parcels.parcel import GEOMETRY, Found, ParcelSource, cut_parcels
from cluemap.data.patches import Legend, Patch
from cluemap.data.readers import open_reader
from cluemap.data.scenes.parcel_scene import open_parcel_scene
from cluemap.errors import DataError
from cluemap.params import Params


class NumberedReader(Protocol):
    """A reader of patches that knows which parcel a pixel belongs to."""

    @property
    def legend(self) -> Legend: ...
    def __len__(self) -> int: ...
    def read(self, index: int) -> Patch: ...
    def parcel_numbers(self, index: int) -> NDArray: ...


@dataclass(frozen=True, eq=False)
class PatchParcels:
    """The parcels of a data set of patches; part i is patch i."""

    reader: NumberedReader
    least: int  # pixels
    geometry: tuple[str, ...] = GEOMETRY

    @property
    def legend(self) -> Legend:
        return self.reader.legend

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, index: int) -> Found:
        return cut_parcels(self.reader.read(index), self.reader.parcel_numbers(index), self.least)


def open_parcels(params: Params) -> ParcelSource:
    """The parcels of `params.source`.

    Raises:
        DataError: the data are not there or not whole, or the layout has no parcels.
    """
    source, least = params.source, params.parcels.least_pixels
    if source.format == "psetae":
        return open_psetae(params.raw, source, least, params.dataset)
    if source.format == "scene":
        return open_parcel_scene(params.raw, params.windows, least)
    reader = open_reader(params)
    if not hasattr(reader, "parcel_numbers"):
        raise DataError(f"{params.raw}: the layout {source.format} has no parcel numbers: take PASTIS or a scene")
    return PatchParcels(cast(NumberedReader, reader), least)
