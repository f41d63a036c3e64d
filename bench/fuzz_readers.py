"""Damaged input files, by seeded mutations: every one should end in a clear error or in arrays.

    python bench/fuzz_readers.py --mutations 2000

Prints a table with counts per kind of file. `traceback`, `killed` (by a signal, the clock or the memory limit) are
faults; `unnoticed` counts files whose damage changed values within what the format can hold (a pixel, a coordinate).
"""

import argparse
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import shapely

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from builders import write_pastis
from scenes import LEFT, TOP, write_raster, write_scene

from cluemap.data.formats.pastis import open_pastis
from cluemap.data.formats.psetae import open_psetae
from cluemap.data.scenes.imagery import open_imagery
from cluemap.data.scenes.scene_file import read_scene
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.errors import CluemapError
from cluemap.params import PsetaeSource, WindowParams

WINDOWS = WindowParams(size=12, stride=12, flush_edge=False, max_dates=60, presence=0.01, fold=1)
PARCELS = PsetaeSource(
    format="psetae", folder="", classes="all", labels="crop", bands=["B04", "B08"], scale=1.0, pixel=10.0
)
SECONDS, MORE_MEMORY = 20, 1_000_000_000
NUMBERS = (b"0", b"-1", b"1e309", b"nan", b"99999999999", b"0.00001", b"")
METADATA = """<?xml version="1.0"?><L2A><PROCESSING_BASELINE>05.00</PROCESSING_BASELINE>
<BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
<BOA_ADD_OFFSET band_id="1">-1000</BOA_ADD_OFFSET></L2A>"""
PRODUCT = "S2A_MSIL2A_20190529T102031_N0500_R065_T32UQD_20190529T102031.SAFE"


class Kind(NamedTuple):
    """One kind of file: which to damage, and how it is read; the result is hashed to see whether it changed."""

    file: Path  # below the folder
    head: int  # bytes at the front that most mutations fall on; 0 = all alike
    read: Callable[[Path], bytes]


def build(root: Path) -> dict[str, Kind]:
    """Small data sets of every kind below `root`."""
    generator = np.random.default_rng(0)
    values = generator.integers(500, 3000, (3, 60, 72)).astype(np.uint16)
    file = write_raster(root / "files" / "images" / "2019-05-29.tif", values, names=("B04", "B03", "B02"))
    boxes = [shapely.box(LEFT + 120 * i, TOP - 120 * j - 90, LEFT + 120 * i + 90, TOP - 120 * j)
             for i in range(6) for j in range(5)]  # fmt: skip
    fields = gpd.GeoDataFrame({"crop": ["corn", "beet"] * 15}, geometry=boxes, crs="EPSG:32632")
    classes, split = [{"name": "corn"}, {"name": "beet"}], {"block": 240.0, "gap": 0.0, "seed": 1}
    for ending in ("gpkg", "geojson", "shp", "fgb"):
        folder = root / ending
        shutil.copytree(root / "files" / "images", folder / "images")
        fields.to_file(folder / f"fields.{ending}")
        labels = {"kind": "polygons", "file": f"fields.{ending}", "column": "crop"}
        images = {"kind": "files", "path": "images", "bands": ["B04", "B03", "B02"]}
        write_scene(folder, images, labels=labels, classes=classes, split=split)
    place = root / "safe" / "images" / PRODUCT
    band = write_raster(place / "T32UQD_20190529T102031_B02_10m.jp2", values[0] + 1000)
    (place / "MTD_MSIL2A.xml").write_text(METADATA)
    write_scene(root / "safe", {"kind": "safe", "path": "images", "bands": ["B02"], "true_colour": ["B02"] * 3},
                labels=None)  # fmt: skip
    write_pastis(root / "pastis", patches=5, size=24, dates=3)
    write_parcels(root / "psetae", generator)
    return {
        "PSE-TAE .npy": Kind(Path("psetae/DATA/3.npy"), 128, of_psetae),
        "PSE-TAE dates": Kind(Path("psetae/META/dates.json"), 0, of_psetae),
        "PSE-TAE labels": Kind(Path("psetae/META/labels.json"), 0, of_psetae),
        "SAFE metadata": Kind(place.relative_to(root) / "MTD_MSIL2A.xml", 0, of_images),
        "jp2": Kind(band.relative_to(root), 200, of_images),
        "GeoTIFF": Kind(Path("gpkg") / file.relative_to(root / "files"), 400, of_scene),
        "scene.yaml": Kind(Path("gpkg/scene.yaml"), 0, of_scene),
        "GeoPackage": Kind(Path("gpkg/fields.gpkg"), 0, of_scene),
        "GeoJSON": Kind(Path("geojson/fields.geojson"), 0, of_scene),
        "Shapefile (.shp)": Kind(Path("shp/fields.shp"), 100, of_scene),
        "Shapefile (.dbf)": Kind(Path("shp/fields.dbf"), 100, of_scene),
        "FlatGeobuf": Kind(Path("fgb/fields.fgb"), 200, of_scene),
        "PASTIS .npy": Kind(Path("pastis/DATA_S2/S2_10001.npy"), 128, of_pastis),
        "metadata.geojson": Kind(Path("pastis/metadata.geojson"), 0, of_pastis),
    }


def write_parcels(root: Path, generator: np.random.Generator) -> None:
    """Seven parcels in PSE-TAE's layout, dates of their own."""
    names = [str(number) for number in range(1, 8)]
    for name in ("DATA", "META"):
        (root / name).mkdir(parents=True)
    for number, name in enumerate(names):
        np.save(root / "DATA" / f"{name}.npy", generator.uniform(0, 1, (5, 2, 3 + number)))
    tables = {
        "labels": {"crop": {name: number % 3 for number, name in enumerate(names)}},
        "dates": {name: [f"2024-0{month}-1{number}" for month in range(1, 6)] for number, name in enumerate(names)},
        "geomfeat": {name: [float(number)] for number, name in enumerate(names)},
    }
    for name, table in tables.items():
        (root / "META" / f"{name}.json").write_text(json.dumps(table))


def of_psetae(folder: Path) -> bytes:
    reader = open_psetae(folder, PARCELS, 2, "fuzz")
    return b"".join(
        parcel.pixels.tobytes() + parcel.days.tobytes() + bytes([parcel.crop])
        for part in range(len(reader))
        for parcel in reader.read(part).parcels
    )


def of_images(folder: Path) -> bytes:
    imagery = open_imagery(folder, read_scene(folder))
    if imagery.grid.height * imagery.grid.width > 10_000_000:
        return str(imagery.grid).encode()  # large, and read piece by piece
    return imagery.read(slice(0, imagery.grid.height), slice(0, imagery.grid.width)).tobytes()


def of_scene(folder: Path) -> bytes:
    reader = open_scene(folder, WINDOWS)
    return b"".join(
        reader.read(i).images.tobytes() + reader.read(i).labels.tobytes() for i in range(min(8, len(reader)))
    )


def of_pastis(folder: Path) -> bytes:
    return b"".join(patch.images.tobytes() + patch.days.tobytes() for patch in open_pastis(folder, "all"))


def mutated(content: bytes, head: int, chance: random.Random) -> bytes:
    """One to four changes: bits, bytes, a cut, a piece left out or doubled, a number replaced."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        most = len(data) - 1
        if most < 1:
            break
        at = chance.randrange(min(head, most)) if head and chance.random() < 0.7 else chance.randrange(most)
        length = min(chance.choice((1, 2, 4, 16, 200)), most - at + 1)
        match chance.randrange(6):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at : at + length] = chance.randbytes(length)
            case 2 if chance.random() < 0.3:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case _:
                data[at : at + length] = chance.choice(NUMBERS)
    return bytes(data)


def outcome(kind: Kind, root: Path, expected: bytes) -> tuple[str, str]:
    """What a reader makes of the damaged file, in a process of its own: refused | same | unnoticed | traceback |
    killed, and the last line of what it said."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        signal.alarm(SECONDS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, used + MORE_MEMORY))
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        try:
            found = ("same" if kind.read(root / kind.file.parts[0]) == expected else "unnoticed", "")
        except CluemapError as error:
            found = ("refused", str(error).splitlines()[0])
        except BaseException:
            found = ("traceback", traceback.format_exc()[-600:])
        os.write(send, pickle.dumps(found))
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return pickle.loads(told) if told and status == 0 else ("killed", f"signal {os.WTERMSIG(status)}")


def fuzz(mutations: int, seed: int = 0, kinds: tuple[str, ...] = ()) -> tuple[dict[str, Counter], list[str]]:
    """Counts per kind, and what the faults said."""
    counts: dict[str, Counter] = {}
    faults = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        known = build(root)
        chosen = {name: kind for name, kind in known.items() if not kinds or name in kinds}
        for number, (name, kind) in enumerate(chosen.items()):
            chance, file = random.Random(seed * 1000 + number), root / kind.file
            content, expected = file.read_bytes(), kind.read(root / kind.file.parts[0])
            counts[name] = Counter()
            for turn in range(-(-mutations // len(chosen))):
                file.write_bytes(mutated(content, kind.head, chance))
                found, said = outcome(kind, root, expected)
                counts[name][found] += 1
                if found in ("traceback", "killed"):
                    faults.append(f"{name}, mutation {turn}: {said}")
            file.write_bytes(content)
    return counts, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="counts as JSON")
    given = parser.parse_args()
    counts, faults = fuzz(given.mutations, given.seed)
    outcomes = ("refused", "same", "unnoticed", "traceback", "killed")
    print(f"| file | {' | '.join(outcomes)} |\n|---|{'---|' * len(outcomes)}")
    for name, found in counts.items():
        print(f"| {name} | {' | '.join(str(found[one]) for one in outcomes)} |")
    print("\n".join(faults))
    if given.out:
        given.out.write_text(json.dumps(counts, indent=2) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
