"""Layers of a canvas as Cloud-Optimised GeoTIFFs. GDAL reads the raw layer through a VRT that carries grid, names and
colours, and writes the rest."""

import os
from pathlib import Path
from xml.sax.saxutils import escape

import rasterio
from rasterio.errors import RasterioError
from rasterio.shutil import copy

from cluemap.data.patches import VOID, Legend
from cluemap.data.scenes.grid import Grid
from cluemap.errors import DataError
from cluemap.mapping.map_canvas import Canvas

Rgb = tuple[int, int, int]


def rgb(colour: str) -> Rgb:
    """ "#rrggbb" -> 0..255 each."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def entries(legend: Legend) -> list[tuple[int, str, str]]:
    """(id, name, colour) of every class a map can hold."""
    ground = [(0, "background", legend.background_colour)] if legend.background else []
    return ground + [(number, crop.name, crop.colour) for number, crop in enumerate(legend.classes, 1)]


def write_cog(canvas: Canvas, name: str, grid: Grid, out: Path, bands: list[str], legend: Legend | None = None) -> None:
    """Write layer `name` of the canvas to `out`, whole or not at all. With `legend` the values are classes.

    Raises:
        DataError: it cannot be written.
    """
    vrt = canvas.folder / f"{name}.vrt"  # beside the raw file: GDAL reads no others
    vrt.write_text(_vrt(canvas, name, grid, bands, legend), encoding="utf-8")
    temporary = canvas.folder / f"{name}.tif"
    resampling = "MODE" if legend else "AVERAGE"
    try:
        copy(
            vrt, temporary, driver="COG", COMPRESS="DEFLATE", PREDICTOR="NO" if legend else "YES", BIGTIFF="IF_SAFER",
            BLOCKSIZE=512, OVERVIEW_RESAMPLING=resampling, NUM_THREADS="ALL_CPUS",
        )  # fmt: skip
        with rasterio.open(temporary) as file:
            if file.shape != (grid.height, grid.width):
                raise DataError(f"{temporary} came out as {file.shape}, not {grid}: run again")
    except (RasterioError, OSError) as error:
        raise DataError(f"{out} cannot be written ({error}): free some room and run the same command again") from error
    for ending in (".aux.xml", ""):  # GDAL keeps the class names in the first
        part = temporary.with_name(temporary.name + ending)
        if part.exists():
            os.replace(part, out.with_name(out.name + ending))


def _vrt(canvas: Canvas, name: str, grid: Grid, bands: list[str], legend: Legend | None) -> str:
    left, top, pixel = grid.left, grid.top, grid.pixel
    meaning = _classes(legend) if legend else ""
    described = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}" subClass="VRTRawRasterBand">'
        f"<Description>{escape(band)}</Description><NoDataValue>{VOID}</NoDataValue>{meaning}"
        f'<SourceFilename relativeToVRT="1">{escape(canvas.file(name).name)}</SourceFilename>'
        f"<ImageOffset>{(number - 1) * grid.height * grid.width}</ImageOffset>"
        f"<PixelOffset>1</PixelOffset><LineOffset>{grid.width}</LineOffset></VRTRasterBand>"
        for number, band in enumerate(bands, 1)
    )
    return (
        f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}"><SRS>{escape(grid.crs.to_wkt())}</SRS>'
        f"<GeoTransform>{left!r},{pixel!r},0,{top!r},0,{-pixel!r}</GeoTransform>{described}</VRTDataset>"
    )


def _classes(legend: Legend) -> str:
    names, colours = [""] * 256, [(0, 0, 0, 0)] * 256
    for number, name, colour in entries(legend):
        names[number], colours[number] = name, (*rgb(colour), 255)
    last = len(legend.classes) + 1
    categories = "".join(f"<Category>{escape(name)}</Category>" for name in names[:last])
    table = "".join(f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{a}"/>' for r, g, b, a in colours)
    inside = "".join(f'<MDI key="class_{number}">{escape(name)}</MDI>' for number, name, _ in entries(legend))
    return (
        f"<Metadata>{inside}</Metadata>"  # in the file itself: categories lie beside it and are lost when it is moved
        f"<ColorInterp>Palette</ColorInterp><CategoryNames>{categories}</CategoryNames><ColorTable>{table}</ColorTable>"
    )
