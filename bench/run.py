"""Measure how fast this machine runs cluemap: a table in bench/results/, and ratios to the last one recorded there.

Every line is a process of its own. Rates are compared as shares of the machine's own matrix-product rate, measured in
turns with the work, so that machines can differ. On a machine that does other work: `--clock cpu` (CPU seconds of one
thread; the disk's and the other cores' parts are then not seen).
"""

import argparse
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from table import WITH_CSCL, against_released, compared, cost_of_context, markdown
from tqdm import tqdm

HERE = Path(__file__).parent
RESULTS = HERE / "results"
NETWORKS = ("classifier before clues", "classifier after clues", "cams", "segmenter", "maps")
OTHERS = ("masks", "loader cold", "loader warm", "loader resident", "prepare", "tracking", "long run")
SPREADS = {"paper": {"dates": (20, 40), "classes": (5, 30), "batch": (1, 2)},
           "demo": {"dates": (20, 60), "classes": (5, 30), "batch": (2, 4)}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SPREADS, default="paper")
    parser.add_argument("--device", help="cuda | cpu (default: cuda where there is one)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--rounds", type=int, default=3, help="repeats, of which the median counts (default: 3)")
    parser.add_argument("--only", nargs="*", help="lines whose name holds one of these words")
    parser.add_argument("--name", default=platform.node().split(".")[0] or "machine", help="of the machine")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    wanted = [
        call for call in calls(given.size) if not given.only or any(word in " ".join(call) for word in given.only)
    ]
    record: dict[str, Any] = {"about": about(given), "lines": []}
    before = last(given.results, given.size)
    stem = given.results / f"{record['about']['date']}_{given.name}_{given.size}"
    given.results.mkdir(parents=True, exist_ok=True)
    for call in tqdm(wanted, unit="line", mininterval=5):
        line = measured(call, given)
        if line:
            record["lines"].append(line)
        text = markdown(record) + against_released(record) + cost_of_context(record)  # kept after each line
        text += compared(record, before) if before else ""
        stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    print(f"written: {stem}.md and .json")


def calls(size: str) -> list[list[str]]:
    """The arguments of every measurement."""
    found = [["ceiling"]]
    for what in NETWORKS:
        found += [[what, "--precision", precision] for precision in ("fp32", "bf16")]
    found += [[f"segmenter{WITH_CSCL}"], ["ltae"], [f"ltae{WITH_CSCL}"]]  # "segmenter": of kind tsvit
    found += [[what] for what in OTHERS]
    for name, values in SPREADS[size].items():
        found += [["classifier after clues", f"--{name}", str(value)] for value in values]
    return found


def measured(call: list[str], given: argparse.Namespace) -> dict[str, Any] | None:
    """One process's line; None (and a word on stderr) where it could not be measured."""
    device = ["--device", given.device] if given.device else []
    options = ["--size", given.size, "--clock", given.clock, "--rounds", str(given.rounds), *device]
    done = subprocess.run(
        [sys.executable, str(HERE / "measure.py"), *call, *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{' '.join(call)}: not measured\n{done.stderr[-1500:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def about(given: argparse.Namespace) -> dict[str, Any]:
    """Machine, software and way of measuring."""
    import torch

    gpu = given.device != "cpu" and torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": given.name,
        "processor": torch.cuda.get_device_name() if gpu else processor(),
        "threads": 1 if given.clock == "cpu" else torch.get_num_threads(),
        "torch": torch.__version__,
        "size": given.size,
        "clock": given.clock,
    }


def processor() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def last(results: Path, size: str) -> dict[str, Any] | None:
    """The newest record of this size."""
    files = sorted(results.glob(f"*_{size}.json"))
    return json.loads(files[-1].read_text(encoding="utf-8")) if files else None


if __name__ == "__main__":
    main()
