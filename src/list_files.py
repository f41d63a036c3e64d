"""Record what DVC does not see: raw files (scene.yaml, what lies behind links or outside the data set's folder), for
`prepare`, and the content of what params name (labelled.file, segmenter.init, the parcels of refine.parcels), so that
the stages which read them run again when it changes. DVC runs this at every `dvc repro`; it reads no imagery.
"""

import argparse
import sys
from pathlib import Path

from cluemap.data.unseen_files import content_of, linked_folders, record
from cluemap.errors import CluemapError
from cluemap.files import write_json
from cluemap.model.storage.named_files import named_files
from cluemap.params import Params, load_params
from cluemap.paths import OUT, ROOT, stage_folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a data set of params.yaml, e.g. demo")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="another params file")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of all outputs (default: out)")
    given = parser.parse_args()
    try:
        params = load_params(given.dataset, given.params)
    except CluemapError as error:
        print(f"list_files: error: {error}", file=sys.stderr)
        return 2
    folder = params.raw
    found = {"files": record(folder), **{name: content_of(file) for name, file in named(params, given.out).items()}}
    for name, content in found.items():
        write_json(stage_folder(given.dataset, "list_files", given.out) / f"{name}.json", content)
    for link in linked_folders(folder):
        print(
            f"list_files: {link} is a link: its files are watched by size and time; `dvc add` and `dvc push` skip them"
        )
    return 0


def named(params: Params, out: Path) -> dict[str, Path | None]:
    """Record -> the file that params name, None where they name none."""
    files = named_files(params)
    parcels = stage_folder(params.dataset, "prepare_parcels", out) / "parcels" / "card.json"
    return {
        "labelled": files.get("labelled.file"),
        "init": files.get("segmenter.init"),
        "parcels": parcels if params.refine.parcels else None,
    }


if __name__ == "__main__":
    sys.exit(main())
