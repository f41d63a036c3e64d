"""Raw data under DVC with the real stage prepare: one .dvc file a data set, links, files that people edit, disk use."""

import json
import os
from pathlib import Path

import pytest
from dvc_projects import commit, dvc, git, make_project
from locations import PROJECT
from ruamel.yaml import YAML
from scenes import make_region, write_fields, write_files, write_scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with the built-in data (here `tiny`), and `region`, a scene whose images are a link to an archive."""
    root = make_project(tmp_path_factory.mktemp("raw") / "project")
    git(root, "mv", "data/tiny.dvc", "data.dvc")
    change(root / "data.dvc", lambda tree: tree["outs"][0].update(path="data/tiny"))
    change(root / "params.yaml", add_region)
    commit(root, "as committed: data.dvc for the built-in data alone")
    region, folder, archive = make_region(), root / "data" / "region", root.parent / "archive"
    write_files(archive, region)
    write_fields(folder / "fields.gpkg", region)
    (folder / "images").symlink_to(archive)
    write_scene(folder, {"kind": "files", "path": "images"})
    return root


def change(file: Path, how) -> None:
    yaml = YAML()
    tree = yaml.load(file.read_text(encoding="utf-8"))
    how(tree)
    with file.open("w", encoding="utf-8") as handle:
        yaml.dump(tree, handle)


def add_region(tree) -> None:
    tree["datasets"]["region"] = "data/region"
    tree["region"] = {**tree["tiny"], "source": {"format": "scene"}, "windows": {"size": 12, "stride": 12}}


def cached(root: Path) -> set[int]:
    """The sizes of the files in DVC's cache."""
    return {file.stat().st_size for file in (root / ".dvc" / "cache" / "files").rglob("*") if file.is_file()}


def ran(said: str) -> bool:
    assert "Running stage 'list_files@region'" in said
    return "Running stage 'prepare@region'" in said


def test_a_data_set_of_ones_own_needs_no_other_and_stays_out_of_the_cache(project):
    """Where only the region is there, as in a clone without the built-in data; then what changes makes it run again."""
    (project / "data" / "tiny").rename(project.parent / "away")
    try:
        said = dvc(project, "repro", "prepare@region")
    finally:
        (project.parent / "away").rename(project / "data" / "tiny")
    assert ran(said)
    assert "data/region/images is a link" in said
    changed = git(project, "status", "--porcelain", "--untracked-files=all").split()
    assert changed == ["??", "data/region/scene.yaml", "??", "dvc.lock"]  # not data.dvc
    raw = {file.stat().st_size for file in (project / "data" / "region").rglob("*") if file.is_file()}
    assert not raw & cached(project)
    assert not ran(dvc(project, "repro", "prepare@region"))


def test_an_image_swapped_behind_a_link_is_seen(project):
    dvc(project, "repro", "prepare@region")
    image = next((project.parent / "archive").glob("*.tif"))
    before = image.stat()
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))  # another file of the same name and size
    assert ran(dvc(project, "repro", "prepare@region"))
    assert not ran(dvc(project, "repro", "prepare@region"))


def test_scene_yaml_is_git_s_and_stays_writable_where_dvc_tracks_the_folder(project):
    dvc(project, "repro", "prepare@region")
    scene, fields = project / "data" / "region" / "scene.yaml", project / "data" / "region" / "fields.gpkg"
    dvc(project, "add", "-q", "data/region/fields.gpkg")
    git(project, "add", "-A")
    listed = git(project, "ls-files", "data").split()
    assert listed == ["data/region/fields.gpkg.dvc", "data/region/scene.yaml"]
    fields.unlink()
    dvc(project, "checkout", "-q", "data/region/fields.gpkg")
    assert (fields.stat().st_nlink, fields.stat().st_mode & 0o222) == (2, 0)  # DVC's: `dvc unprotect` before an edit
    dvc(project, "remove", "-q", "data/region/fields.gpkg.dvc")
    assert "already tracked by SCM" in dvc(project, "add", "data/region", check=False)  # git holds scene.yaml
    git(project, "rm", "-rq", "--cached", "data/region")
    dvc(project, "add", "-q", "data/region")  # the whole folder, as DVC takes it while git holds none of it
    dvc(project, "checkout", "-q", "--relink", "data/region")
    assert (scene.stat().st_nlink, scene.stat().st_mode & 0o200) == (1, 0o200)
    assert not ran(dvc(project, "repro", "prepare@region"))
    before = scene.read_text()
    with scene.open("r+") as handle:  # in place, as editors and root may do it
        handle.write(before.replace("gap: 20.0", "gap: 30.0"))
    assert ran(dvc(project, "repro", "prepare@region"))


def test_outputs_and_tracked_data_lie_on_the_disk_once(project):
    dvc(project, "repro", "prepare@tiny")
    files = [file for file in (project / "out" / "tiny").rglob("*") if file.is_file() and ".state" not in file.parts]
    assert len(files) > 8
    assert min(file.stat().st_nlink for file in files) >= 2  # more where small files hold the same
    dvc(project, "checkout", "-q", "--relink", "data.dvc")
    files += [file for file in (project / "data" / "tiny").rglob("*") if file.is_file()]
    assert min(file.stat().st_nlink for file in files) >= 2


def test_a_fresh_clone_without_the_data_is_told_how_to_make_them(project):
    """The message is DVC's own; it names data.dvc, and what stands there is what to type."""
    clone = project.parent / "clone"
    git(project, "clone", "-q", str(project), str(clone))
    said = dvc(clone, "repro", "prepare@tiny", check=False)
    assert "failed to reproduce 'data.dvc': missing data 'source': data/tiny" in said
    assert "`make data`" in (PROJECT / "data.dvc").read_text(encoding="utf-8").partition("outs:")[0]


def test_the_committed_data_dvc_is_the_built_in_data_alone():
    tree = YAML(typ="safe").load((PROJECT / "data.dvc").read_text(encoding="utf-8"))
    assert [out["path"] for out in tree["outs"]] == ["data/demo"]
    lock = YAML(typ="safe").load((PROJECT / "dvc.lock").read_text(encoding="utf-8"))["stages"]["prepare@demo"]
    assert tree["outs"][0]["md5"] in json.dumps(lock)
