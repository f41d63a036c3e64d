"""How hard is the demo? Pixel classifiers given the true labels of folds 1 to 3, scored on fold 5 (mIoU, 9 classes).

Prints Markdown: majority class, one date alone (the best one of the year), the whole series; then how crops spread over
the windows. Clouds are cut out by brightness and filled linearly in time, a generous start for the single date.
"""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

ROOT = Path(__file__).resolve().parents[1]
DAYS = np.arange(-90, 286, 15)  # days from 1 January of the harvest year
NAMES = {0: "background", 1: "meadow", 2: "wheat", 3: "corn", 4: "barley", 5: "rapeseed", 7: "sunflower", 9: "beet",
         13: "potatoes"}  # fmt: skip
CLOUD, VOID, WINDOW, LEAST = 1800, 19, 24, 6  # blue above this is cloud; a window's class covers at least 6 pixels


@dataclass(frozen=True)
class Pixels:
    features: NDArray[np.float32]  # n days (c + 1): bands and NDVI
    labels: NDArray[np.uint8]  # n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "demo")
    parser.add_argument("--pixels", type=int, default=40000, help="training pixels (default: 40000)")
    given = parser.parse_args()
    train, test = read(given.data, (1, 2, 3)), read(given.data, (5,))
    chosen = np.random.default_rng(0).permutation(len(train.labels))[: given.pixels]
    train = Pixels(train.features[chosen], train.labels[chosen])
    common = np.bincount(train.labels).argmax()
    print("| pixel classifier | mIoU on fold 5 |\n|---|---|")
    majority = np.mean(ious(test.labels, np.full_like(test.labels, common)))
    print(f"| majority class ({NAMES[int(common)]}) | {majority:.3f} |")
    dated = {int(day): score(train, test, [row]) for row, day in enumerate(DAYS) if row % 2 == 0}
    best = max(dated, key=lambda day: float(np.mean(dated[day])))
    print(f"| best single date (day {best}) | {np.mean(dated[best]):.3f} |")
    whole = score(train, test, list(range(len(DAYS))))
    print(f"| whole series | {np.mean(whole):.3f} |\n")
    print("single dates:", {day: round(float(np.mean(one)), 2) for day, one in dated.items()}, "\n")
    print_windows(given.data, whole, dated[best])


def read(folder: Path, folds: tuple[int, ...]) -> Pixels:
    parts = [
        pixels(np.load(folder / f"DATA_S2/S2_{number}.npy"), labels, season_days(feature))
        for feature, number, labels in patches(folder)
        if feature["Fold"] in folds
    ]
    return Pixels(np.concatenate([p.features for p in parts]), np.concatenate([p.labels for p in parts]))


def patches(folder: Path):
    for feature in json.loads((folder / "metadata.geojson").read_text())["features"]:
        number = feature["properties"]["ID_PATCH"]
        yield feature["properties"], number, np.load(folder / f"ANNOTATIONS/TARGET_{number}.npy")[0]


def season_days(properties: dict) -> NDArray[np.float64]:
    whole = [str(date) for date in properties["dates-S2"].values()]
    dates = np.array([f"{date[:4]}-{date[4:6]}-{date[6:]}" for date in whole], "datetime64[D]")
    return (dates - np.datetime64("2019-01-01")).astype(np.float64)


def pixels(images: NDArray[np.int16], labels: NDArray[np.uint8], days: NDArray[np.float64]) -> Pixels:
    series = images.transpose(2, 3, 0, 1).reshape(-1, *images.shape[:2]).astype(np.float32)  # n t c
    series, labels = series[labels.ravel() != VOID], labels.ravel()[labels.ravel() != VOID]
    clear = (series[:, :, 0] < CLOUD) & (series[:, :, 0] > -9000)
    filled = np.empty((len(series), len(DAYS), series.shape[2] + 1), np.float32)
    for one, (values, seen) in enumerate(zip(series, clear, strict=True)):
        seen = seen if seen.any() else np.ones_like(seen)
        known, place = days[seen], values[seen]
        after = np.searchsorted(known, DAYS).clip(1, len(known) - 1) if len(known) > 1 else np.zeros(len(DAYS), int)
        share = ((DAYS - known[after - 1]) / np.maximum(known[after] - known[after - 1], 1)).clip(0, 1)[:, None]
        filled[one, :, :-1] = (1 - share) * place[after - 1] + share * place[after]
    red, near = filled[:, :, 2], filled[:, :, 6]
    filled[:, :, -1] = (near - red) / np.maximum(near + red, 1)
    return Pixels(filled, labels)


def score(train: Pixels, test: Pixels, rows: list[int]) -> list[float]:
    model = HistGradientBoostingClassifier(
        max_iter=60, learning_rate=0.15, max_leaf_nodes=15, early_stopping=False, random_state=0
    )
    model.fit(train.features[:, rows].reshape(len(train.labels), -1), train.labels)
    return ious(test.labels, model.predict(test.features[:, rows].reshape(len(test.labels), -1)))


def ious(truth: NDArray[np.uint8], guess: NDArray[np.uint8]) -> list[float]:
    return [float(((truth == k) & (guess == k)).sum() / max(((truth == k) | (guess == k)).sum(), 1)) for k in NAMES]


def print_windows(folder: Path, whole: list[float], single: list[float]) -> None:
    present: dict[int, list[NDArray[np.bool_]]] = {}
    share: dict[int, list[NDArray[np.float64]]] = {}
    for feature, _, labels in patches(folder):
        cut = labels[: 5 * WINDOW, : 5 * WINDOW].reshape(5, WINDOW, 5, WINDOW).transpose(0, 2, 1, 3).reshape(25, -1)
        present.setdefault(feature["Fold"], []).append(np.stack([(cut == k).sum(1) >= LEAST for k in NAMES], axis=1))
        share.setdefault(feature["Fold"], []).append(np.array([(labels == k).mean() for k in [*NAMES, VOID]]))
    folds = {fold: np.concatenate(rows) for fold, rows in present.items()}
    everything = np.concatenate(list(folds.values()))
    print("crops a window:", round(float(everything[:, 1:].sum(1).mean()), 2), "; windows by number of crops:",
          np.bincount(everything[:, 1:].sum(1)).tolist(), "\n")  # fmt: skip
    head = " | ".join(f"fold {fold}" for fold in sorted(folds))
    print(f"| class | IoU series | IoU best date | share of the land | windows | {head} |")
    print("|---" * (5 + len(folds)) + "|")
    area = np.mean([row for rows in share.values() for row in rows], axis=0)
    for k, name in enumerate(NAMES.values()):
        counts = " | ".join(str(int(folds[fold][:, k].sum())) for fold in sorted(folds))
        total = int(everything[:, k].sum())
        print(f"| {name} | {whole[k]:.2f} | {single[k]:.2f} | {area[k]:.3f} | {total} | {counts} |")
    print(f"| void | | | {area[-1]:.3f} | | {' | '.join('' for _ in folds)} |")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
