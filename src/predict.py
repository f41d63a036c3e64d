"""Map a scene: a trained segmenter and a time series in, a crop map for QGIS out, with tables and a preview.

The scene is a folder with a scene.yaml (docs/data/scene.md), or PASTIS or Germany with --patch. A prediction
that was killed continues when the same command is given again. Several GPUs share the tiles, as do CLUEMAP_PROCESSES
processes or all that torchrun starts: the map has the same bits.
"""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.mapping.map_products import Order, make_map
from cluemap.mapping.raster_prediction import Settings
from cluemap.runtime.distributed import join, launched, leave, run_under_torchrun, say_error, wanted_processes
from cluemap.runtime.messages import show_messages


def parse() -> Order:
    parser = argparse.ArgumentParser(
        prog="src/predict.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Settings()
    models = "a checkpoint file, a stage folder (out/demo/train_segmenter; train_baselines: the best of trees, forest "
    models += "and linear, one of them: out/demo/train_baselines/model/trees_weak), a run id, or models:/<name>@<alias>"
    parser.add_argument("--model", required=True, help=models)
    parser.add_argument("--scene", required=True, type=Path, help="folder with scene.yaml, PASTIS or Germany")
    parser.add_argument("--out", required=True, type=Path, help="the map to write, e.g. map.tif")
    parser.add_argument("--patch", help="of PASTIS (10000) or Germany (2016_43757): which one")
    parser.add_argument("--parcels", type=Path, help="polygons to sum up the map by")
    parser.add_argument("--label-next", type=int, default=0, metavar="N",
                        help="also name the N parcels (or windows) whose labels would teach most")  # fmt: skip
    parser.add_argument("--probabilities", action="store_true", help="also write each class's probability")
    unlike = "also write how unlike the training each pixel's series is"
    parser.add_argument("--unlike", action="store_true", help=unlike)
    shares = "share of a window's side that neighbours have in common (default: half for tsvit, what it sees for ltae)"
    parser.add_argument("--overlap", type=float, default=usual.overlap, help=shares)
    numbers = {
        "tile": "pixels a side that are read at once; 0 = whole blocks of the files, as many as fit into memory",
        "batch": "windows a forward pass",
    }
    for name, text in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name), help=f"{text} (default %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=usual.precision)
    finer = "pixels of the map along a pixel of the images: 2 = a map of 5 m from images of 10 m (default %(default)s)"
    parser.add_argument("--scale", type=int, default=usual.scale, help=finer)
    given = parser.parse_args()
    settings = Settings(given.tile, given.batch, given.overlap, given.precision, given.scale)
    return Order(
        given.model, given.scene, given.out, given.patch, given.probabilities, given.parcels, settings,
        unlike=given.unlike, label_next=given.label_next,
    )  # fmt: skip


def main() -> int:
    show_messages()
    order = parse()
    try:
        processes = wanted_processes()
        if processes > 1 and not launched():
            return run_under_torchrun(sys.argv[0], sys.argv[1:], processes)
        ranks = join()
        files = make_map(order, ranks=ranks)
        leave(ranks)
    except CluemapError as error:
        say_error(f"predict: error: {error}")
        return 2
    except OSError as error:  # a full disk, a lost mount: the tiles that are done stay
        say_error(f"predict: error: {error}: make room, then the same command continues with the tiles that are left")
        return 2
    except KeyboardInterrupt:
        say_error("predict: stopped; the same command continues with the tiles that are left")
        return 130
    if files:
        print(f"predict: {', '.join(file.name for file in files)} -> {order.out.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
