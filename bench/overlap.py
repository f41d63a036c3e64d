"""What less overlap of windows costs a map of TSViT: share of pixels that get the class they get with half overlap.

python bench/overlap.py --model out/demo/train_segmenter --scene data/demo --patches 4
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import cluemap  # noqa: F401  (before torch: it says how threads wait)

# isort: split
import numpy as np
import rasterio

from cluemap.data.formats.pastis_metadata import read_metadata
from cluemap.mapping.map_products import Order, make_map
from cluemap.mapping.raster_prediction import Settings

OVERLAPS = (0.5, 0.25, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--scene", type=Path, required=True, help="a folder of PASTIS")
    parser.add_argument("--patches", type=int, default=4, help="how many of the test fold's (fold 5)")
    given = parser.parse_args()
    entries = read_metadata(given.scene / "metadata.geojson")
    chosen = [name for name, entry in entries.items() if entry.fold == 5][: given.patches]
    maps: dict[float, list[np.ndarray]] = {overlap: [] for overlap in OVERLAPS}
    with tempfile.TemporaryDirectory() as folder:
        for overlap in OVERLAPS:
            for patch in chosen:
                out = Path(folder) / f"{patch}_{overlap}.tif"
                order = Order(given.model, given.scene, out, patch, settings=Settings(overlap=overlap))
                make_map(order, progress=False)
                with rasterio.open(out) as file:
                    maps[overlap].append(file.read(1))
    print(f"{len(chosen)} patches of the test fold\n\n| overlap | same class as with half |\n|---:|---:|")
    for overlap in OVERLAPS[1:]:
        same = np.mean([(one == half).mean() for one, half in zip(maps[overlap], maps[0.5], strict=True)])
        print(f"| {overlap} | {100 * same:.1f} % |")


if __name__ == "__main__":
    main()
