"""Record the raw files that DVC does not see (scene.yaml, what lies behind links or outside the data set's folder), so
that `prepare` runs again when one of them changes. DVC runs this at every `dvc repro`; it reads no imagery.
"""

import argparse
import sys
from pathlib import Path

from cluemap.data.unseen_files import linked_folders, record
from cluemap.errors import CluemapError
from cluemap.files import write_json
from cluemap.params import load_params
from cluemap.paths import OUT, ROOT, stage_folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a data set of params.yaml, e.g. demo")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="another params file")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of all outputs (default: out)")
    given = parser.parse_args()
    try:
        folder = load_params(given.dataset, given.params).raw
    except CluemapError as error:
        print(f"list_files: error: {error}", file=sys.stderr)
        return 2
    found = record(folder)
    write_json(stage_folder(given.dataset, "list_files", given.out) / "files.json", found)
    for link in linked_folders(folder):
        print(
            f"list_files: {link} is a link: its files are watched by size and time; `dvc add` and `dvc push` skip them"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
