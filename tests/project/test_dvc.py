"""dvc.yaml as DVC sees it: every stage for every data set, and exactly the stages a change concerns."""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from locations import PROJECT
from ruamel.yaml import YAML

from cluemap.paths import PARCEL_STAGES, STAGES

ALL = ("list_files", *STAGES, "register")  # what `dvc repro` runs; the stages of parcels run where they are asked for
DVC = [sys.executable, "-m", "dvc"]


def dvc(root: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run([*DVC, *arguments], cwd=root, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project's pipeline with stand-in scripts: each writes its declared outputs, so that DVC alone is tested."""
    root = tmp_path_factory.mktemp("dvc")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(PROJECT / name, root / name)
    (root / "src").mkdir()
    shutil.copytree(PROJECT / "src" / "cluemap", root / "src" / "cluemap", ignore=shutil.ignore_patterns("__pycache__"))
    for stage in ALL:
        (root / "src" / f"{stage}.py").write_text(STAND_IN.format(stage=stage))
    (root / "data" / "demo").mkdir(parents=True)
    (root / "data" / "demo" / "file").write_text("raw")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    dvc(root, "init", "-q")
    text = (root / "dvc.yaml").read_text().replace("cmd: python ", f"cmd: {sys.executable} ")
    (root / "dvc.yaml").write_text(text)
    return root


STAND_IN = """
import pathlib, re, sys
name, dataset = "{stage}", sys.argv[2]
if name == "register":
    print("The outputs of demo came from ...")
text = pathlib.Path("dvc.yaml").read_text().replace("${{key}}", dataset)
for path in re.findall(rf"- (out/{{dataset}}/{{name}}/[\\w./]+)", text):
    out = pathlib.Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.name == "headline.json":
        read = len(pathlib.Path("params.yaml").read_text())
        out.write_text(f'{{{{"test_miou": {{read}}, "ratio": 0.9}}}}')
    elif out.suffix in (".json", ".html"):
        out.write_text("{{}}")
    else:
        out.mkdir(exist_ok=True)
        (out / "file").write_text(name)
"""


@pytest.mark.slow
def test_repro_runs_all_then_nothing_then_what_changed(project):
    assert ran(dvc(project, "repro")) == set(ALL)
    lock = (project / "dvc.lock").read_text()
    again = dvc(project, "repro")
    # one looks at files that DVC does not see, the other says which runs the outputs came from; nothing else runs
    assert ran(again) == {"list_files", "register"}
    assert "The outputs of demo came from" in again
    assert (project / "dvc.lock").read_text() == lock
    yaml = YAML()
    tree = yaml.load((project / "params.yaml").read_text())
    tree["masks"]["threshold"] = 0.4
    yaml.dump(tree, project / "params.yaml")
    again = ran(dvc(project, "repro", "--dry"))
    assert "make_masks" in again
    assert not again & {"prepare", "train_classifier", "make_cams", "train_reference"}


@pytest.mark.slow
def test_experiments_stand_in_a_table_that_can_be_read(project):
    if not (project / "dvc.lock").exists():
        dvc(project, "repro")
    (project / ".gitignore").write_text("/out\n/data\n__pycache__\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "add", "-A"], cwd=project, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], cwd=project, check=True)
    before = (project / "params.yaml").read_text().splitlines()
    dvc(project, "exp", "run", "-S", "cams.blend=0.75", "-S", "++demo.clues.tau=0.2", "-n", "half")
    changed = [line for line in (project / "params.yaml").read_text().splitlines() if line not in before]
    assert [line.partition("#")[0].strip() for line in changed] == CHANGED  # no other line is laid out anew
    table = dvc(project, "exp", "show", "--csv", "--only-changed").splitlines()
    assert table[0].endswith("Created,test_miou,cams.blend,demo.clues.tau"), table
    assert any(line.startswith("half,") and line.endswith(",0.75,0.2") for line in table), table


CHANGED = ["blend: 0.75", "clues: {start_step: 900, momentum: 0.985, tau: 0.2}"]


def test_params_yaml_is_laid_out_as_dvc_writes_it():
    """`dvc exp run -S` writes the whole file anew: what it would wrap or spread over lines is written so already."""
    yaml = YAML()
    yaml.default_flow_style = False  # as DVC's own
    text = (PROJECT / "params.yaml").read_text()
    written = io.StringIO()
    yaml.dump(spread(yaml.load(text)), written)
    assert written.getvalue() == text


def spread(tree):
    """A list that is a block's own value loses its brackets when DVC writes it."""
    for value in tree.values():
        if isinstance(value, dict):
            spread(value)
        elif isinstance(value, list) and not tree.fa.flow_style():
            value.fa.set_block_style()
    return tree


def ran(said: str) -> set[str]:
    """The stages that DVC says it runs."""
    return set(re.findall(r"Running stage '(\w+)@demo'", said))


def test_every_output_is_named_after_its_stage():
    tree = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())
    assert tuple(tree["stages"]) == (*ALL[:-1], *PARCEL_STAGES, "register")
    for name, stage in tree["stages"].items():
        body = {"outs": [], "metrics": [], **stage["do"]}
        assert body["cmd"] == f"python src/{name}.py --dataset ${{key}}"
        assert f"src/{name}.py" in body["deps"]
        for out in [*body["outs"], *body["metrics"], *body.get("plots", [])]:
            assert out.startswith(f"out/${{key}}/{name}/")
        for dependency in body["deps"]:
            if dependency.startswith("src/"):
                assert (PROJECT / dependency).exists(), dependency


def test_only_the_weak_segmenter_depends_on_the_pseudo_masks():
    tree = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())
    assert "out/${key}/refine_masks/masks" in tree["stages"]["train_segmenter"]["do"]["deps"]
    assert "out/${key}/refine_masks/masks" not in tree["stages"]["train_reference"]["do"]["deps"]


def test_what_a_stage_reads_besides_outputs_is_a_dependency():
    """Files that params name, by the records of list_files; params and models that a stage reads on its way."""
    stages = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())["stages"]
    needs = {name: {*stage["do"]["deps"], *stage["do"].get("params", [])} for name, stage in stages.items()}
    record = "out/${key}/list_files/%s.json"
    readers = {
        "files": {"prepare", "prepare_parcels"},  # of raw data
        "labelled": {*STAGES, "train_parcels"} - {"prepare"},  # of windows
        "init": {"train_segmenter", "train_reference"},
        "parcels": {"refine_masks"},
    }
    assert {name: {of for of, held in needs.items() if record % name in held} for name in readers} == readers
    assert needs["train_parcels"] >= {"windows", "cams", "masks", "${key}.cams", "${key}.masks"}  # presence, votes
    assert "out/${key}/train_baselines/model" in needs["evaluate"]  # its calibration


def test_the_models_have_names():
    tree = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())
    outs = {out for stage in tree["stages"].values() for out in stage["do"].get("outs", [])}
    models = {artifact["path"] for artifact in tree["artifacts"].values() if artifact["type"] == "model"}
    assert models == {out.replace("${key}", "demo") for out in outs if out.endswith("/model")}
