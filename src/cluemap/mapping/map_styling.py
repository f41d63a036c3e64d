"""A map's QGIS style and its preview with legend."""

from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import rasterio
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch as Swatch
from rasterio.enums import Resampling

from cluemap.data.patches import VOID, Legend
from cluemap.files import atomic, write_text
from cluemap.mapping.geotiff import entries

LONGEST = 1400  # pixels of the preview's longer side
DOTS_PER_INCH = 140  # of the preview


def write_style(out: Path, legend: Legend) -> Path:
    """`<map>.qml`: QGIS loads it with the map, since it lies beside it under the same name."""
    lines = "".join(
        f'<paletteEntry value="{number}" color="{colour}" alpha="255" label={quoteattr(name)}/>'
        for number, name, colour in entries(legend)
    )
    path = out.with_suffix(".qml")
    write_text(
        path,
        '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">\n<qgis version="3.22"><pipe>'
        '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">'
        f"<colorPalette>{lines}</colorPalette></rasterrenderer></pipe></qgis>\n",
    )
    return path


def write_unlike_style(raster: Path) -> Path:
    """`<map>_unlike.qml`: transparent where pixels are as usual, orange to red where few known ones are as unlike."""
    steps = [
        (90, "#ffffb2", 0, "usual"), (95, "#fecc5c", 255, "under 1 known pixel of 10 is as unlike"),
        (99, "#fd8d3c", 255, "under 1 of 20"), (100, "#bd0026", 255, "under 1 of 100"),
    ]  # fmt: skip
    items = "".join(
        f'<item value="{value}" color="{colour}" alpha="{alpha}" label={quoteattr(label)}/>'
        for value, colour, alpha, label in steps
    )
    path = raster.with_suffix(".qml")
    write_text(
        path,
        '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM">\n<qgis version="3.22"><pipe>'
        '<rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" classificationMin="0" '
        'classificationMax="100"><rastershader><colorrampshader colorRampType="DISCRETE" minimumValue="0" '
        f'maximumValue="100">{items}</colorrampshader></rastershader></rasterrenderer></pipe></qgis>\n',
    )
    return path


def write_preview(out: Path, legend: Legend, hectares: dict[str, float]) -> Path:
    """`<map>.png`: the map in little, read from its overviews, with a legend of the classes that it holds."""
    with rasterio.open(out) as file:
        scale = min(1.0, LONGEST / max(file.shape))
        shape = tuple(max(1, round(side * scale)) for side in file.shape)
        picture = file.read(1, out_shape=shape, resampling=Resampling.nearest)
        bounds = file.bounds
    colours = np.ones((256, 4))
    for number, _, colour in entries(legend):
        colours[number] = to_rgba(colour)
    colours[VOID] = (1.0, 1.0, 1.0, 0.0)
    figure = Figure(figsize=(10, 7.5), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    axes.imshow(
        picture, cmap=ListedColormap(colours), vmin=0, vmax=255, interpolation="nearest",
        extent=(bounds.left / 1000, bounds.right / 1000, bounds.bottom / 1000, bounds.top / 1000),
    )  # fmt: skip
    axes.set(xlabel="east (km)", ylabel="north (km)", title=out.stem)
    axes.ticklabel_format(useOffset=False)
    swatches = [
        Swatch(facecolor=colour, edgecolor="0.4", label=f"{name}  {hectares[name]:,.0f} ha")
        for _, name, colour in entries(legend)
        if hectares.get(name, 0) > 0
    ]
    axes.legend(handles=swatches, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
    path = out.with_suffix(".png")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight")
    return path
