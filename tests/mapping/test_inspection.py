"""The inspection of a scene before training: how it cuts, what it ends with, how its texts are weighed."""

import sys

import pytest
import tiny
from scenes import LABELS, make_region, write_fields, write_files, write_scene

import inspect_scene
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.data.windowing import cut
from cluemap.mapping.inspection.scene_inspection import windows_of
from cluemap.params import METHOD_BLOCKS


@pytest.fixture(scope="module")
def region():
    return make_region()


@pytest.fixture
def scene(region, tmp_path):
    write_files(tmp_path / "images", region)
    write_fields(tmp_path / "fields.gpkg", region)
    return write_scene(tmp_path, {"kind": "files", "path": "images"})


def write_windows(file, scene, **windows):
    """params.yaml whose data set `mine` lies in `scene` and is cut in its own way."""
    mine = {**{name: {} for name in METHOD_BLOCKS}, "source": {"format": "scene"}, "windows": windows}
    tree = {"datasets": {"mine": str(scene)}, "mine": mine}
    kept = [text for name, text in tiny.method_texts().items() if name not in tree]
    file.write_text("".join([*kept, tiny.text_of(tree)]))
    return file


def call(monkeypatch, capsys, scene, *more):
    line = ["inspect_scene.py", str(scene), "--out", str(scene / "page.html"), *more]
    monkeypatch.setattr(sys, "argv", line)
    return inspect_scene.main(), capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize("flush_edge", [False, True])
def test_windows_are_cut_as_params_say(scene, tmp_path, monkeypatch, capsys, flush_edge):
    file = write_windows(tmp_path / "params.yaml", scene, size=10, stride=4, flush_edge=flush_edge)
    params, place = windows_of(scene, file)
    assert (params.size, params.stride, params.flush_edge, place) == (10, 4, flush_edge, "mine.windows of params.yaml")
    windows = sum(len(cut(patch, params)) for patch in open_scene(scene, params))
    status, said = call(monkeypatch, capsys, scene, "--params", str(file))
    assert status == 0
    assert f"{windows} windows of 10 px every 4 px (mine.windows of params.yaml)" in said.out


def test_labels_that_cannot_be_read_are_an_error(scene, monkeypatch, capsys):
    write_scene(scene, {"kind": "files", "path": "images"}, labels={**LABELS, "file": "nowhere.gpkg"})
    status, said = call(monkeypatch, capsys, scene)
    assert status == 2
    assert "error: " in said.err
    assert "nowhere.gpkg" in said.err
    assert "nowhere.gpkg" in (scene / "page.html").read_text()


def test_few_texts_each_with_its_weight(scene, monkeypatch, capsys):
    """Short of crops in many splits: a line of it, not a line a crop and split."""
    status, said = call(monkeypatch, capsys, scene, "--window", "12")
    kinds = [line.split(":")[0] for line in said.out.splitlines()[:-1]]
    assert status == 0
    assert set(kinds) <= {"warning", "note"}
    assert kinds == sorted(kinds, key=["warning", "note"].index)
    assert kinds.count("warning") <= 6
