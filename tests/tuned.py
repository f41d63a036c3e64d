"""For the tests of tuning: a project whose stage is a stand-in that trains nothing, in a second, and can misbehave."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import tiny
from locations import PROJECT
from ruamel.yaml import YAML

SPACE = {
    "clues.count": {"low": 1, "high": 8},
    "clues.tau": {"low": 0.02, "high": 0.5, "log": True},
    "temporal_weighting.kind": {"choices": ["power", "softmax"]},
    "temporal_weighting.sharpness": {"low": 0.0, "high": 4.0, "when": {"temporal_weighting.kind": "power"}},
}
CLASSIFIER = {"steps": 18, "validate_every": 1}
# Behaviours by trial: "raise" always, "raise once", "kill once" (a rank dies), "memory", "stubborn" (ignores SIGTERM).
STAND_IN = """
import json, os, pathlib, signal, subprocess, sys, time
from ruamel.yaml import YAML
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out, dataset, root = pathlib.Path(given["--out"]), given["--dataset"], pathlib.Path(os.environ["CLUEMAP_ROOT"])
tree = YAML(typ="safe").load(pathlib.Path(given["--params"]).read_text())
params = {**tree["clues"], **tree[dataset]["clues"]}
course = tree[dataset]["classifier"]
plan = json.loads((root / "plan.json").read_text())
what = plan.get(str(int(out.name)), "")
state = out / dataset / ".state" / "train_classifier"
state.mkdir(parents=True, exist_ok=True)
tries = state.parent / "tries"
first_try = not tries.exists()
tries.touch()
visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
def note(word):
    with (root / "events.txt").open("a") as log:
        print(out.name, word, os.getpid(), visible, repr(time.time()), file=log, flush=True)
note("start")
rank = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN if what == "stubborn" else lambda *_: (note("stopped"), os._exit(130)))
saved = state / "step"
step = int(saved.read_text()) if saved.exists() else 0
score = 0.9 - abs(params["count"] - 4) / 10 - plan.get("minus", {}).get(str(int(out.name)), 0)
while step < course["steps"]:
    time.sleep(plan.get("pace", 0.02))
    step += 1
    if step == 9 and (what == "raise" or (what == "raise once" and first_try)):
        sys.exit("ValueError: the stand-in raises")
    if step == 9 and what == "memory":
        sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    if step == 9 and what == "kill once" and first_try:
        os.kill(os.getpid(), signal.SIGKILL)
    if step % course["validate_every"] == 0:
        record = {"kind": "points", "time": 1, "step": step, "values": {"validation/clue_cam_miou_fixed": score}}
        with (state / "journal.jsonl").open("a") as journal:
            journal.write(json.dumps(record) + "\\n")
        note(f"report{step}")
    saved.write_text(str(step))
done = out / dataset / "train_classifier"
done.mkdir(parents=True, exist_ok=True)
(done / "metrics.json").write_text(json.dumps({"validation": {"clue_cam_miou_fixed": score}}))
note("done")
"""


def make_project(root: Path, plan: dict[str, Any] | None = None, **tune: Any) -> Path:
    """A project folder with a `tune` block, the stand-in as its stage, and no windows but their card."""
    block = {"objective": "clue_cam_miou", "budget": 1.0, "reports": 9, "space": SPACE, **tune}
    clues = {"count": 3, "start_step": 9, "momentum": 0.9}
    tiny.write_params(root / "params.yaml", {"classifier": CLASSIFIER, "clues": clues}, tune=block)
    card = root / "out" / "tiny" / "prepare" / "windows" / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"digest": "0" * 32}))
    (root / "src").mkdir()
    (root / "src" / "train_classifier.py").write_text(STAND_IN)
    (root / "plan.json").write_text(json.dumps(plan or {}))
    return root


def change(file: Path, **blocks: Any) -> None:
    """Lay values over a params file's blocks."""
    yaml = YAML()
    tree = yaml.load(file.read_text(encoding="utf-8"))
    for name, values in blocks.items():
        tree[name].update(values)
    with file.open("w", encoding="utf-8") as handle:
        yaml.dump(tree, handle)


def command(*options: str) -> list[str]:
    return [sys.executable, str(PROJECT / "src" / "tune.py"), "--dataset", "tiny", *options]


def environment(root: Path, **more: str) -> dict[str, str]:
    return {**tiny.environment(root, **more), "MLFLOW_DISABLE_TELEMETRY": "true"}


def events(root: Path) -> list[list[str]]:
    """What the stand-ins did: trial, word, process, GPUs, time."""
    file = root / "events.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return [
        [words[0], words[1], words[2], words[3] if len(words) == 5 else "", words[-1]]
        for words in map(str.split, lines)
    ]


def alive(root: Path) -> list[int]:
    """Every process that works in this project."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CLUEMAP_ROOT") == str(root) and process.pid != os.getpid():
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
