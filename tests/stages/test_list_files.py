"""Stage list_files: a changed file that params name changes the record that its stages depend on, and no other's."""

from itertools import pairwise
from pathlib import Path

import pytest
import tiny

import list_files

RECORDS = ("files", "labelled", "init", "parcels")
FILES = {
    "labelled": "names.txt",
    "init": "model/segmenter.safetensors",  # of the stage's folder that params name
    "parcels": "out/tiny/prepare_parcels/parcels/card.json",
}


def listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Each record after a run of the stage in `root`."""
    monkeypatch.setattr("sys.argv", tiny.command("list_files", root)[1:])
    assert list_files.main() == 0
    return {name: (root / "out" / "tiny" / "list_files" / f"{name}.json").read_text() for name in RECORDS}


def write(root: Path, content: str, file: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(content)


def test_the_content_of_what_params_name_is_seen(tmp_path, monkeypatch):
    named = {
        "labelled": {"file": str(tmp_path / "names.txt")}, "segmenter": {"init": str(tmp_path)},
        "refine": {"parcels": True},
    }  # fmt: skip
    tiny.write_params(tmp_path / "params.yaml", named)
    held, expected = [listed(tmp_path, monkeypatch)], []
    for name, file in FILES.items():
        for content in ("one", "two"):
            write(tmp_path, content, file)
            held.append(listed(tmp_path, monkeypatch))
            expected.append({name})
    changed = [{name for name in RECORDS if before[name] != after[name]} for before, after in pairwise(held)]
    assert changed == expected


def test_what_params_do_not_name_changes_no_record(tmp_path, monkeypatch):
    tiny.write_params(tmp_path / "params.yaml")
    before = listed(tmp_path, monkeypatch)
    for file in FILES.values():
        write(tmp_path, "one", file)
    assert listed(tmp_path, monkeypatch) == before
