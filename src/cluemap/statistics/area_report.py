"""From a map and a labelled sample to areas one can publish: what src/estimate_area.py does."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from cluemap.files import atomic, write_json
from cluemap.mapping.postprocessing.class_map import ClassMap, open_map
from cluemap.statistics.reference_sample import read_sample
from cluemap.statistics.sampling_design import Design, drawn_design, map_design
from cluemap.statistics.stratified_estimates import Estimate, Estimates, stratified_estimates

NO_DATA = "no data"  # the map's class where it has none


@dataclass(frozen=True)
class AreaOrder:
    """Which map, which sample, and how it was drawn."""

    map: Path
    sample: Path
    column: str = "reference"
    extra: tuple[str, ...] = ()  # classes of the reference that the map lacks
    random: bool | None = None  # None: as the sample's columns say; else what the user says
    out: Path | None = None  # stem of the files; None: beside the sample


@dataclass(frozen=True)
class AreaReport:
    """Areas and accuracies of one map."""

    design: Design
    classes: list[str]
    estimates: Estimates
    table: pd.DataFrame  # one row a class
    hectares: float  # of the region
    source: ClassMap


def estimate_areas(order: AreaOrder) -> AreaReport:
    """Raises DataError: a bad map or sample, or one that is no probability sample where nothing is said."""
    source = open_map(order.map)
    pixel = source.hectares_per_pixel
    sample = read_sample(order.sample, source, order.column, order.extra)
    design = drawn_design(sample, source) if order.random is None else map_design(sample, source, order.random)
    mapped = [source.names.get(int(number), NO_DATA) for number in design.sample.mapped]
    held = [source.names[int(number)] for number in np.flatnonzero(source.counts)]
    classes = list(dict.fromkeys([*held, *sorted({*design.sample.reference, *mapped})]))
    index = {name: number for number, name in enumerate(classes)}
    estimates = stratified_estimates(
        design.stratum, np.array([index[name] for name in mapped]),
        np.array([index[name] for name in design.sample.reference]),
        design.sizes, len(classes), finite=True, names=design.names,
    )  # fmt: skip
    hectares = float(design.sizes.sum() * pixel)
    counted = {name: float(source.counts[number] * pixel) for number, name in source.names.items()}
    table = _table(classes, estimates, hectares, [counted.get(name, 0.0) for name in classes], design)
    return AreaReport(design, classes, estimates, table, hectares, source)


def _table(
    classes: list[str], estimates: Estimates, hectares: float, counted: list[float], design: Design
) -> pd.DataFrame:
    area = estimates.area.scaled(hectares)
    table = pd.DataFrame({"class": classes, "mapped_ha": np.round(counted, 2), "area_ha": area.value.round(2)})
    table["area_se_ha"] = area.standard_error.round(2)
    table["area_low_ha"], table["area_high_ha"] = _interval(area, hectares)
    table["share"] = estimates.area.value.round(6)
    for name, figure in (("users", estimates.users), ("producers", estimates.producers)):
        table[f"{name}_accuracy"], table[f"{name}_se"] = figure.value.round(4), figure.standard_error.round(4)
    table["reference_units"] = [design.sample.reference.count(name) for name in classes]
    table["design"] = design.statement
    return table


def _interval(figure: Estimate, most: float) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % confidence interval, cut at 0 and `most`."""
    low, high = figure.value - figure.margin, figure.value + figure.margin
    return np.clip(low, 0, most).round(2), np.clip(high, 0, most).round(2)


def write_report(report: AreaReport, order: AreaOrder) -> list[Path]:
    """Write `<out>.csv`, `<out>_confusion.csv`, `<out>.json` and `<out>.gpkg` (the units, and where the map errs)."""
    out = order.out or order.sample.with_name(f"{order.sample.stem}_areas")
    files = [Path(f"{out}{ending}") for ending in (".csv", "_confusion.csv", ".json", ".gpkg")]
    names = pd.Index(report.classes, name="map class \\ reference")
    confusion = pd.DataFrame(report.estimates.confusion.round(6), names, report.classes)
    for path, table, index in ((files[0], report.table, False), (files[1], confusion, True)):
        with atomic(path) as temporary:
            table.to_csv(temporary, index=index)
    write_json(files[2], summary(report, order))
    _write_units(files[3], report)
    return files


def summary(report: AreaReport, order: AreaOrder) -> dict:
    overall = report.estimates.overall
    return {
        "map": order.map.name,
        "sample": order.sample.name,
        "design": report.design.statement,
        "probability_sample": report.design.probability,
        "units": len(report.design.sample),
        "region_ha": round(report.hectares, 2),
        "overall_accuracy": round(float(overall.value), 4),
        "overall_accuracy_se": round(float(overall.standard_error), 4),
        "classes": report.table.drop(columns="design").to_dict("records"),
    }


def _write_units(path: Path, report: AreaReport) -> None:
    sample = report.design.sample
    units = sample.table.drop(columns="fid", errors="ignore")
    units["map_class"] = [report.source.names.get(int(number), NO_DATA) for number in sample.mapped]
    units["reference_class"] = sample.reference
    units["right"] = (units["map_class"] == units["reference_class"]).astype(int)
    units["design"] = report.design.statement
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder:  # GDAL wants the file's true ending
        temporary = Path(folder) / path.name
        units.to_file(temporary, driver="GPKG", layer="units")
        os.replace(temporary, path)


def describe(report: AreaReport) -> str:
    """The table for the terminal, with its margins of 95 %."""
    area = report.estimates.area.scaled(report.hectares)
    rows = pd.DataFrame({"class": report.classes, "mapped ha": report.table["mapped_ha"].map("{:,.1f}".format)})
    rows["area ha"] = _plus_minus(area, "{:,.1f}")
    rows["user's accuracy"] = _plus_minus(report.estimates.users, "{:.3f}")
    rows["producer's accuracy"] = _plus_minus(report.estimates.producers, "{:.3f}")
    overall = report.estimates.overall
    return (
        f"{report.design.statement}\n{rows.to_string(index=False)}\n"
        f"overall accuracy {overall.value:.3f} +- {overall.margin:.3f}, region {report.hectares:,.1f} ha; +- is half "
        f"the 95 % confidence interval{'' if report.design.probability else ' OF A SAMPLE THAT IS NOT RANDOM'}"
    )


def _plus_minus(figure: Estimate, form: str) -> list[str]:
    return [
        "-" if np.isnan(value) else f"{form.format(value)} +- {form.format(margin)}"
        for value, margin in zip(figure.value, figure.margin, strict=True)
    ]
