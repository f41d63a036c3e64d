"""How fast is `prepare` on Germany, and how much memory does it take? Synthetic tiles in the published layout.

Writes the tiles (28 s for 1,000) into a folder that goes again afterwards, runs the stage on them in a process of its
own and prints tiles a second and the most memory that process held (Linux and macOS).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from ruamel.yaml import YAML  # noqa: E402

from cluemap.data.synthetic.demo_germany import write_demo_germany  # noqa: E402
from cluemap.runtime.memory import peak  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        print(write_demo_germany(folder / "data", tiles=given.tiles))
        params = changed_params(folder)
        since = time.perf_counter()
        command = [sys.executable, str(ROOT / "src" / "prepare.py"), "--dataset", "demo_germany"]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        subprocess.run([*command, "--params", str(params), "--out", str(folder / "out")], check=True, env=environment)
        seconds = time.perf_counter() - since
        most = peak(resource.RUSAGE_CHILDREN) / 2**20
        files = sum(1 for file in (folder / "out" / "demo_germany" / "prepare" / "windows").iterdir())
        print(f"{given.tiles} tiles in {seconds:.0f} s with start and end: {given.tiles / seconds:.0f} tiles/s; "
              f"at most {most:.0f} MiB; {files} files; {os.cpu_count()} cores")  # fmt: skip


def changed_params(folder: Path) -> Path:
    """The project's params with demo_germany lying in `folder`."""
    yaml = YAML()
    tree = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["datasets"] = {"demo_germany": str(folder / "data")}
    with (folder / "params.yaml").open("w", encoding="utf-8") as handle:
        yaml.dump(tree, handle)
    return folder / "params.yaml"


if __name__ == "__main__":
    main()
