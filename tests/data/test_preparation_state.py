"""A prepare that is stopped at any moment and started again gives the bytes of one that never was, or starts over."""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import write_pastis
from locations import PROJECT

from cluemap.data import preparation, preparation_state, window_writer
from cluemap.data.appendable_arrays import GrowingArray
from cluemap.data.formats.pastis import open_pastis
from cluemap.data.preparation import prepare
from cluemap.errors import DataError
from cluemap.params import MtlccSource, Params, WindowParams, load_params

FOLDS = {10001: 1, 10002: 4, 10003: 5, 10004: 2, 10005: 3}  # 5 patches of 2 x 2 windows of 7 px


class Watched:
    """A reader that says which patches were read, and stops at one as Ctrl-C does."""

    def __init__(self, raw: Path, stop: int | None = None, classes="all"):
        self._reader, self._stop, self.reads = open_pastis(raw, classes), stop, []
        self.legend = self._reader.legend

    def __repr__(self):
        return repr(self._reader)

    def __len__(self):
        return len(self._reader)

    def read(self, index):
        if index == self._stop:
            raise KeyboardInterrupt
        self.reads.append(index)
        return self._reader.read(index)


class Nowhere(Watched):
    """Patches with a split and without a place: their x, y are NaN, their crs is null."""

    def read(self, index):
        split = ("train", "validation", "test")[index % 3]
        return replace(super().read(index), fold=None, split=split, corner=None, crs=None)


def params_of(raw: Path, **windows) -> Params:
    default = {"size": 7, "stride": 7, "flush_edge": False, "max_dates": 60, "presence": 0.01, "fold": 1}
    params = load_params("demo", PROJECT / "params.yaml")
    return params.model_copy(update={"windows": WindowParams(**{**default, **windows}), "root": str(raw)})


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def fresh(raw: Path, folder: Path, reader=Watched, **windows) -> dict[str, bytes]:
    prepare(reader(raw), params_of(raw, **windows), folder, progress=False)
    return files_of(folder)


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_pastis(tmp_path / "raw", FOLDS, size=14, dates=[5, 3, 4, 2, 5], seed=1)


@pytest.fixture(autouse=True)
def save_always(monkeypatch):
    """Every patch is saved, and the images lie in several shards of at most 20 dates."""
    monkeypatch.setattr(preparation_state, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(window_writer, "SHARD_BYTES", 20 * 10 * 7 * 7 * 2)


@pytest.fixture
def state(tmp_path) -> Path:
    """The stage's state folder, in which the tracked run has its journal."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "journal.jsonl").write_text("{}\n")
    return tmp_path / "state"


@pytest.fixture
def cut_short(raw, state, tmp_path) -> Path:
    """The folder of a prepare that was stopped after three of five patches."""
    with pytest.raises(KeyboardInterrupt):
        prepare(Watched(raw, stop=3), params_of(raw), tmp_path / "out", progress=False, state=state)
    return state / "partial"


def go_on(raw: Path, tmp_path: Path, reader=Watched, **windows) -> list[int]:
    """Prepare again; gives the patches that were read for it."""
    watched = reader(raw)
    prepare(watched, params_of(raw, **windows), tmp_path / "out", progress=False, state=tmp_path / "state")
    assert [file.name for file in (tmp_path / "state").iterdir()] == ["journal.jsonl"]
    return sorted(watched.reads)


# ------------------------------------------------------------------ the same bytes


@pytest.mark.parametrize("reader", [Watched, Nowhere])
@pytest.mark.parametrize("stops", [[0], [1], [4], [1, 1, 2, 4]])
def test_what_was_done_is_not_done_again(raw, state, tmp_path, reader, stops):
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            prepare(reader(raw, stop), params_of(raw), tmp_path / "out", progress=False, state=state)
        assert not (tmp_path / "out").exists()
    assert go_on(raw, tmp_path, reader) == list(range(stops[-1], 5))
    assert files_of(tmp_path / "out") == fresh(raw, tmp_path / "undisturbed", reader)
    assert len(list((tmp_path / "out").glob("images_*.npy"))) == 4


def test_work_that_was_not_saved_is_done_again(raw, state, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation_state, "SAVE_EVERY", 3600.0)
    with pytest.raises(KeyboardInterrupt):
        prepare(Watched(raw, stop=4), params_of(raw), tmp_path / "out", progress=False, state=state)
    assert go_on(raw, tmp_path) == [0, 1, 2, 3, 4]
    assert files_of(tmp_path / "out") == fresh(raw, tmp_path / "undisturbed")


@pytest.mark.parametrize("after", [0, 1, 21, 47, 85])
def test_a_full_disk_costs_no_more_than_a_patch(raw, state, tmp_path, monkeypatch, after):
    original, calls = GrowingArray.append, []

    def append(self, rows):
        calls.append(rows)
        if len(calls) > after:
            original(self, rows[: len(rows) // 2])  # half of it is on disk
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        return original(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(GrowingArray, "append", append)
        with pytest.raises(
            DataError, match=r"out cannot be written .*No space left.*free some room.*not be done again"
        ):
            prepare(Watched(raw), params_of(raw), tmp_path / "out", progress=False, state=state)
    assert go_on(raw, tmp_path) == list(
        range(after // 17, 5)
    )  # 4 windows of 4 arrays a patch, and its rows of the table
    assert files_of(tmp_path / "out") == fresh(raw, tmp_path / "undisturbed")


def killed(raw: Path, tmp_path: Path, moment: str, number: int) -> None:
    """Run by a child process: prepare, and be killed at a moment."""

    def die(*_, **__):
        if number != signal.SIGKILL:  # whatever the process that was forked does with it
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pause()

    append, calls = GrowingArray.append, []

    def append_half(self, rows):
        calls.append(rows)
        if len(calls) < 41:  # in the third patch
            return append(self, rows)
        append(self, rows[: len(rows) // 2])
        die()

    def publish(place, folder):
        preparation_state.publish(place, folder)
        die()

    if moment == "writing":
        GrowingArray.append = append_half
    elif moment == "table":
        window_writer.pq.write_table = lambda table, path: path.write_bytes(b"PAR1") and die()
    elif moment == "card":
        window_writer.write_json = lambda path, _: path.with_name(".card.json.7.tmp").write_text("{") and die()
    else:
        preparation.publish = publish if moment == "published" else die
    prepare(Watched(raw), params_of(raw), tmp_path / "out", progress=False, state=tmp_path / "state")


@pytest.mark.parametrize(
    ("moment", "number", "left"),
    [
        ("writing", signal.SIGKILL, [2, 3, 4]),
        ("writing", signal.SIGTERM, [2, 3, 4]),
        ("table", signal.SIGKILL, []),
        ("card", signal.SIGKILL, []),
        ("finished", signal.SIGKILL, []),
        ("published", signal.SIGKILL, [0, 1, 2, 3, 4]),
    ],
)
def test_a_killed_process_leaves_a_whole_output_or_none(raw, state, tmp_path, moment, number, left):
    undisturbed = fresh(raw, tmp_path / "undisturbed")
    child = multiprocessing.get_context("fork").Process(target=killed, args=(raw, tmp_path, moment, number))
    child.start()
    child.join(120)
    assert child.exitcode == -number
    assert (tmp_path / "out").exists() == (moment == "published")
    if moment == "published":
        assert files_of(tmp_path / "out") == undisturbed
    assert go_on(raw, tmp_path) == left
    assert files_of(tmp_path / "out") == undisturbed


def test_a_state_on_another_disk_is_copied(raw, state, tmp_path, monkeypatch):
    rename = os.replace

    def replace_within_a_disk(source, target):
        if Path(source).name == preparation_state.ARRAYS:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    undisturbed = fresh(raw, tmp_path / "undisturbed")
    monkeypatch.setattr(os, "replace", replace_within_a_disk)
    assert go_on(raw, tmp_path) == [0, 1, 2, 3, 4]
    assert files_of(tmp_path / "out") == undisturbed


# ------------------------------------------------------------------ starting over


def starts_over(raw: Path, tmp_path: Path, caplog, why: str, reader=Watched, **windows) -> None:
    assert go_on(raw, tmp_path, reader, **windows) == list(range(len(reader(raw))))
    (said,) = [record.getMessage() for record in caplog.records if "starts over" in record.getMessage()]
    assert why in said
    assert "\n" not in said
    assert files_of(tmp_path / "out") == fresh(raw, tmp_path / "undisturbed", reader, **windows)


@pytest.mark.parametrize("changed", [{"stride": 5}, {"presence": 0.3}, {"max_dates": 3}, {"fold": 2}])
def test_other_params_start_over(raw, cut_short, tmp_path, caplog, changed):
    starts_over(raw, tmp_path, caplog, f"changed since: windows.{next(iter(changed))}", **changed)


def test_another_class_list_starts_over(raw, cut_short, tmp_path, caplog):
    starts_over(raw, tmp_path, caplog, "legend", lambda raw: Watched(raw, classes=[3, 1, 2]))


def test_other_splits_start_over(raw, cut_short, tmp_path, caplog):
    Other = type("Other", (Nowhere,), {"__repr__": lambda self: "other splits"})
    starts_over(raw, tmp_path, caplog, "changed since: list of patches", Other)


def test_a_patch_less_starts_over(raw, cut_short, tmp_path, caplog):
    file = raw / "metadata.geojson"
    tree = json.loads(file.read_text())
    file.write_text(json.dumps({**tree, "features": tree["features"][:3]}))
    starts_over(raw, tmp_path, caplog, "changed since: list of patches, raw files")


def test_a_changed_raw_file_starts_over(raw, cut_short, tmp_path, caplog):
    path = raw / "DATA_S2" / "S2_10001.npy"
    images = np.load(path)
    images[0, 0, 0, 0] += 1
    np.save(path, images)
    starts_over(raw, tmp_path, caplog, "changed since: raw files")


def test_a_changed_file_outside_the_root_starts_over(raw, state, tmp_path, caplog):
    outside = tmp_path / "elsewhere.tif"
    outside.write_bytes(b"1")
    Other = type("Other", (Watched,), {"files": (outside,)})
    with pytest.raises(KeyboardInterrupt):
        prepare(Other(raw, 3), params_of(raw), tmp_path / "out", progress=False, state=state)
    outside.write_bytes(b"12")
    starts_over(raw, tmp_path, caplog, "changed since: raw files", Other)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["windows/images_0000.npy", "windows/days.npy", "windows/masks_train.npy", "rows.npy"])
@pytest.mark.parametrize("how", ["cut short", "damaged", "missing"])
def test_partial_files_that_are_not_what_they_were_start_over(raw, cut_short, tmp_path, caplog, name, how):
    path = cut_short / name
    if how == "cut short":
        os.truncate(path, path.stat().st_size - 1)
    elif how == "damaged":
        flip(path) if path.stat().st_size > 200 else path.write_bytes(path.read_bytes()[:-1] + b"\7")
    else:
        path.unlink()
    starts_over(raw, tmp_path, caplog, f"{path.name} is {how}")


@pytest.mark.parametrize("how", ["cut", "number", "empty", "other"])
def test_a_damaged_record_starts_over(raw, cut_short, tmp_path, caplog, how):
    path = cut_short / preparation_state.RECORD
    record = json.loads(path.read_text())
    record["content"]["patches"] = 4
    texts = {"cut": path.read_text()[:-9], "number": json.dumps(record), "empty": "", "other": "[1]"}
    path.write_text(texts[how])
    starts_over(raw, tmp_path, caplog, "progress.json is damaged")


def test_lost_arrays_start_over(raw, cut_short, tmp_path, caplog):
    shutil.rmtree(cut_short / "windows")
    starts_over(raw, tmp_path, caplog, "windows is missing")


def test_two_at_once_are_refused(raw, cut_short, tmp_path):
    before = {path: path.read_bytes() for path in cut_short.rglob("*") if path.is_file()}
    with open(cut_short / preparation_state.LOCK, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is preparing in"):
            go_on(raw, tmp_path)
    assert {path: path.read_bytes() for path in cut_short.rglob("*") if path.is_file()} == before
    assert go_on(raw, tmp_path) == [3, 4]


# ------------------------------------------------------------------ what is said


def test_listed_patches_without_a_file_are_counted(raw, tmp_path, caplog):
    reader = Watched(raw)
    assert "absent" not in prepare(reader, params_of(raw), tmp_path / "out", progress=False)
    reader.absent = 0
    assert prepare(reader, params_of(raw), tmp_path / "out", progress=False)["absent"] == 0
    assert not caplog.records
    reader.absent = 3
    assert prepare(reader, params_of(raw), tmp_path / "out", progress=False)["absent"] == 3
    assert [record.getMessage() for record in caplog.records] == [
        "3 of the 8 listed patches have no file here and are left out"
    ]


GERMANY = MtlccSource(format="mtlcc", classes="all", tiles=240, years=[2016], fold=6)


@pytest.mark.parametrize(
    ("source", "mended_by"),
    [
        (None, r"windows.fold = 1 wants other folds than the data's \[1, 2\]; set another windows.fold"),
        (GERMANY, r"`demo.source.fold` = 6"),
    ],
)
def test_an_empty_split_is_mended_where_the_data_set_says(tmp_path, source, mended_by):
    raw = write_pastis(tmp_path / "raw", {10001: 1, 10002: 2}, size=14, dates=2)
    params = params_of(raw).model_copy(update={"source": source} if source else {})
    with pytest.raises(DataError, match=rf"the validation split of demo is empty: .*{mended_by}"):
        prepare(open_pastis(raw, "all"), params, tmp_path / "out", progress=False)
