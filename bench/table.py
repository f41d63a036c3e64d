"""A bench record as Markdown, and beside another one."""

from typing import Any

RELEASED = {  # seconds a window of the released code, paper size, fp32, where fp32 products run at RELEASED_AT GFLOP/s
    "classifier before clues": 2.3, "classifier after clues": 2.3, "cams": 0.55, "segmenter": 0.61, "maps": 0.20,
}  # fmt: skip
RELEASED_AT = 190
WITH_CSCL = " with the context loss"  # how the name of such a training step ends
PLACE = ("what", "precision", "dates", "classes", "batch")  # which line is which


def markdown(record: dict[str, Any]) -> str:
    """The whole record."""
    about = record["about"]
    clock = "CPU seconds of one thread" if about["clock"] == "cpu" else f"wall clock, {about['threads']} threads"
    head = f"# Speed, {about['size']} size, {about['date']}\n\n"
    head += f"{about['processor']}, torch {about['torch']}, {clock}.\n\n"
    first = next((line for line in record["lines"] if line["what"] == "ceiling"), None)
    if first:
        head += (
            f"Ceilings: matrix product {first['fp32_gflops']:.0f} GFLOP/s in fp32, {first['bf16_gflops']:.0f} in bf16; "
            f"copy {first['copy_gbps']:.1f} GB/s.{_onednn(first)}\n\n"
        )
    rows = [
        "| what | precision | dates, classes, batch | rate | GFLOP/s | share of the ceiling beside it | peak memory |"
    ]
    rows += ["|---|---|---|---:|---:|---:|---:|"]
    rows += [row(line, first) for line in record["lines"] if line["what"] != "ceiling"]
    return head + "\n".join(rows) + "\n"


def _onednn(first: dict[str, Any]) -> str:
    if "onednn_gflops" not in first:
        return ""
    why = "blocks use it, so that shares of torch's own product rate can be over 100 %"
    return f" oneDNN's fp32 product: {first['onednn_gflops']:.0f} GFLOP/s ({why})."


def row(line: dict[str, Any], first: dict[str, Any] | None) -> str:
    """One line of the table; the bf16 ceiling is taken to move with the fp32 one."""
    speed, share = "", ""
    if "gflops" in line:
        top = line["ceiling"]
        if line["precision"] == "bf16" and first:
            top *= first["bf16_gflops"] / first["fp32_gflops"]
        speed, share = f"{line['gflops']:.0f}", f"{100 * line['gflops'] / top:.0f} %"
    sizes = f"{line['dates']}, {line['classes']}, {line['batch']}"
    return f"| {line['what']} | {line['precision']} | {sizes} | {rate(line)} | {speed} | {share} | {memory(line)} |"


def rate(line: dict[str, Any]) -> str:
    """What was measured, with its unit."""
    if "windows_per_second" in line:
        return f"{line['windows_per_second']:.3g} windows/s"
    if "mb_per_second" in line:
        return f"{line['mb_per_second']:.0f} MB/s"
    if "microseconds_per_step" in line:
        return f"{line['microseconds_per_step']:.0f} µs a logged step"
    grown = f"{line['memory_growth_mb']:.0f} MB more after 1,500 steps, {100 * line['slower']:+.0f} % time a step"
    return f"{line['steps_per_second']:.0f} steps/s; {grown}"


def memory(line: dict[str, Any]) -> str:
    return f"{line['memory_gb']:.2f} GB"


def against_released(record: dict[str, Any]) -> str:
    """Seconds a window, brought to the machine of the released code's figures by the ceiling beside each line."""
    first = next((line for line in record["lines"] if line["what"] == "ceiling"), None)
    if first is None or record["about"]["size"] != "paper":
        return ""
    rows = []
    for line in record["lines"]:
        usual = all(line[name] == first[name] for name in ("dates", "classes", "batch"))
        if line["what"] in RELEASED and usual and not line.get("compiled"):
            seconds, old = 1 / line["windows_per_second"], RELEASED[line["what"]]
            there = seconds * line["ceiling"] / RELEASED_AT
            numbers = f"{seconds:.2f} | {there:.2f} | {old} | {old / there:.1f} | {memory(line)}"
            rows.append(f"| {line['what']} | {line['precision']} | {numbers} |")
    title = f"\nAgainst the released code (7.2 GB), seconds a window; `there` = at {RELEASED_AT} GFLOP/s in fp32:\n\n"
    head = "| what | precision | here | there | released | ratio | peak memory |\n|---|---|---:|---:|---:|---:|---:|\n"
    return title + head + "\n".join(rows) + "\n"


def cost_of_context(record: dict[str, Any]) -> str:
    """Time and memory of a training step with the context loss (joint) over those without."""
    plain = {tuple(line[name] for name in PLACE): line for line in record["lines"]}
    rows = []
    for line in record["lines"]:
        if line["what"].endswith(WITH_CSCL):
            of = line["what"].removesuffix(WITH_CSCL)
            other = plain.get((of, *(line[name] for name in PLACE[1:])))
            if other:
                speeds = [found["windows_per_second"] / found["ceiling"] for found in (other, line)]
                memories = [found["memory_gb"] for found in (line, other)]
                numbers = f"{speeds[0] / speeds[1]:.2f} | {memories[0] / memories[1]:.2f}"
                rows.append(f"| {of} | {line['precision']} | {line['batch']} | {numbers} |")
    if not rows:
        return ""
    head = "| what | precision | batch | time | peak memory |\n|---|---|---|---:|---:|\n"
    return "\nA training step with the context loss, with / without:\n\n" + head + "\n".join(rows) + "\n"


def compared(record: dict[str, Any], before: dict[str, Any]) -> str:
    """Rates over their ceilings, now against before."""
    old = {tuple(line[name] for name in PLACE): line for line in before["lines"]}
    rows = []
    for line in record["lines"]:
        other = old.get(tuple(line[name] for name in PLACE))
        if other and "windows_per_second" in line and "windows_per_second" in other:
            now, then = (found["windows_per_second"] / found["ceiling"] for found in (line, other))
            rows.append(
                f"| {line['what']} | {line['precision']} | {line['dates']} | {line['batch']} | {now / then:.2f} |"
            )
    if not rows:
        return ""
    title = f"\nAgainst {before['about']['date']} ({before['about']['processor']}), rate over ceiling, now / then:\n\n"
    return title + "| what | precision | dates | batch | ratio |\n|---|---|---|---|---:|\n" + "\n".join(rows) + "\n"
