"""The first look at a GPU, under 5 minutes on one H100 or H200: does it compute what the CPU does, and how fast?

In this order: the card's own rates; parity of every network, its gradients and the clue maths with the CPU; training
at the paper's size in batches of 48, 128 and 384; CAMs, maps, predict, the loader, the whole training loop, masks and
their refinement; at last training under torch.compile. Every result is in the record as soon as it is measured; what
raises leaves its error there, and what does not fit into `--seconds` is skipped. bf16 unless said.

    python bench/gpu.py                                  # on a GPU
    python bench/gpu.py --size tiny --device cpu         # the same code anywhere, in seconds; its rates mean nothing

It imports, beside torch: numpy, pandas, pyarrow, scipy, scikit-learn, einops, pydantic, ruamel.yaml, safetensors,
psutil and tqdm.
"""

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from work import CLASSIFIER, SEGMENTERS  # first: it loads cluemap, which says how threads wait, before torch

# isort: split
import gpu_parity as parity
import gpu_parts as parts
import torch

from cluemap.runtime.distributed import join

NETWORKS = (CLASSIFIER, *SEGMENTERS)


class Part(NamedTuple):
    """One line of the record."""

    name: str
    seconds: float  # that it may need at the paper's size: less left, and it is skipped
    work: Callable[[], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=parts.SCALES, default="paper")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=290, help="nothing begins that would end later (default: 290)")
    parser.add_argument("--out", type=Path, default=Path("gpu_record.json"), help="the record (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="parts whose name holds one of these words; the card's rates too")
    parser.add_argument("--show", type=Path, metavar="RECORD", help="print an earlier record's table and stop")
    given = parser.parse_args()
    if given.show:
        print(markdown(json.loads(given.show.read_text(encoding="utf-8"))))
        return
    os.environ["CLUEMAP_DEVICE"] = given.device
    join()  # as every stage does: threads, memory, and how exact fp32 is on a GPU
    with tempfile.TemporaryDirectory() as scratch:
        bench = parts.Bench(given.device, parts.SCALES[given.size], Path(scratch), {})
        plan = [part for part in every_part(bench) if wanted(part, given.only)]
        record = measured(plan, given, bench)
    print(markdown(record))
    print(f"written: {given.out}")


def wanted(part: Part, words: list[str] | None) -> bool:
    return not words or part.name == "card" or any(word in part.name for word in words)


def every_part(bench: parts.Bench) -> list[Part]:
    """What is measured, in order."""
    told, device, scale = bench.scale.told, bench.device, bench.scale
    plan = [Part("card", 15, partial(parts.card, bench))]
    plan += [
        Part(f"parity {name}, {precision}", 15, partial(parity.network, name, told, precision, device))
        for precision in ("fp32", "bf16")
        for name in NETWORKS
    ]
    plan.append(Part("parity clue maths, fp32", 10, partial(parity.clue_maths, told, device)))
    plan.append(Part("parity batches", 15, lambda: parity.batches(bench.windows(), device)))
    plan.append(Part("parity many sequences, fp32", 10, partial(parity.many_sequences, device)))
    for name in NETWORKS:
        plan += [
            Part(f"train {name}, batch {count}", 12, partial(parts.step, bench, name, count, "bf16", False))
            for count in scale.batches
        ]
    plan.append(Part(f"train {CLASSIFIER}, batch {scale.batches[0]}, fp32", 12,
                     partial(parts.step, bench, CLASSIFIER, scale.batches[0], "fp32", False)))  # fmt: skip
    plan += [Part(f"profile {name}", 8, partial(parts.profile, bench, name, "bf16")) for name in NETWORKS]
    plan.append(Part("clue CAM", 10, partial(parts.clue_cams, bench, "bf16")))
    plan += [Part(f"map {name}", 8, partial(parts.maps_of, bench, name, "bf16")) for name in SEGMENTERS]
    plan += [Part(f"predict {name}", 20, partial(parts.predict_scene, bench, name, "bf16")) for name in SEGMENTERS]
    plan.append(Part("loader from files", 10, partial(parts.loader, bench, False)))
    plan.append(Part("loader, windows on the device", 10, partial(parts.loader, bench, True)))
    plan += [Part(f"training loop {name}", 15, partial(parts.loop, bench, name, "bf16")) for name in NETWORKS]
    plan.append(Part("masks scored", 10, partial(parts.scored_masks, bench)))
    plan.append(Part("refine_masks, one round", 15, partial(parts.refined_round, bench)))
    plan += [
        Part(f"train {name}, batch {scale.compiled}, compiled", 75,
             partial(parts.step, bench, name, scale.compiled, "bf16", True))
        for name in NETWORKS if scale.compiled
    ]  # fmt: skip
    return plan


def measured(plan: list[Part], given: argparse.Namespace, bench: parts.Bench) -> dict[str, Any]:
    """Every part in turn; the record is on disk after each."""
    begun = time.monotonic()
    about = {"date": datetime.now(UTC).date().isoformat(), "size": given.size, "device": given.device}
    record: dict[str, Any] = {"about": about, "lines": []}
    for part in plan:
        start = time.monotonic()
        needed = part.seconds if given.size == "paper" else 0.0
        if start - begun + needed > given.seconds:
            line: dict[str, Any] = {"skipped": f"may need {needed:.0f} s, {given.seconds - start + begun:.0f} are left"}
        else:
            line = outcome(part)
            line["seconds"] = round(time.monotonic() - start, 2)
        record["lines"].append({"part": part.name, **line})
        about["seconds"] = round(time.monotonic() - begun, 1)
        about["card"] = bench.rates.get("name", given.device)
        keep(given.out, record)
        print(json.dumps(record["lines"][-1])[:300], flush=True)
        gc.collect()
        if given.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return record


def outcome(part: Part) -> dict[str, Any]:
    """What the part found, or the error that it raised."""
    try:
        return part.work()
    except Exception as error:  # the next part has a chance of its own
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
        return {"error": f"{type(error).__name__}: {error}"[:600], "where": where}


def keep(file: Path, record: dict[str, Any]) -> None:
    """The record under its name, whole."""
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(file)


def markdown(record: dict[str, Any]) -> str:
    """The record as tables: the card, parity, rates."""
    about = record["about"]
    lines = [f"{about['card']}, {about['date']}, size {about['size']}, {about.get('seconds')} s in all", ""]
    top = next((line for line in record["lines"] if line["part"] == "card"), {})
    lines += [", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                        for key, value in top.items() if key not in ("part", "seconds")), ""]  # fmt: skip
    lines += ["| parity with the CPU | largest relative error | of | within 1e-4 |", "|---|---:|---|---|"]
    for line in record["lines"]:
        if "errors" in line:
            name, value = max(line["errors"].items(), key=lambda item: item[1])
            fine = {True: "yes", False: "NO", None: "no limit"}[line["within"]]
            lines.append(f"| {line['part'].removeprefix('parity ')} | {value:.1e} | {name} | {fine} |")
    lines += ["", "| what | windows/s | TFLOP/s | share of the matrix rate | GB |", "|---|---:|---:|---:|---:|"]
    for line in record["lines"]:
        if "windows_per_second" in line:
            share = f"{100 * line['share']:.0f} %" if line.get("share") else ""
            flops = f"{line['tflops']:.1f}" if "tflops" in line else ""
            memory = f"{line['memory_gb']:.1f}" if "memory_gb" in line else ""
            lines.append(f"| {line['part']} | {line['windows_per_second']:.4g} | {flops} | {share} | {memory} |")
    left = [line for line in record["lines"] if "error" in line or "skipped" in line]
    lines += [""] * bool(left) + [
        f"- {line['part']}: {line.get('error') or 'skipped, ' + line['skipped']}" for line in left
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
