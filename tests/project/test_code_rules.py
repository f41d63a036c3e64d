"""Rules on the code itself: imports point down, heavy libraries have one door, nothing but the project is spoken of."""

import ast
import subprocess
from functools import cache
from pathlib import Path

import pytest
from locations import PROJECT

PACKAGE = PROJECT / "src" / "cluemap"
FLOORS = {  # a module imports from its own floor and those below
    "errors": 0, "files": 0, "paths": 0, "params": 0, "__init__": 0, "__version__": 0,
    "runtime": 1, "data": 2, "model": 3,
    "training": 4, "mapping": 5, "statistics": 5, "figures": 5, "tracking": 5,
    "stages": 6, "experiments": 7, "tuning": 8,
}  # fmt: skip
MOST_MODULES = 13  # in one folder: more cannot be taken in at a glance
DOORS = {
    "mlflow": {
        f"src/cluemap/tracking/store/{name}.py"
        for name in ("mlflow_store", "model_registry", "registered_model", "registered_parcels")
    },
    "optuna": {"src/cluemap/tuning/study.py"},
    "dvc": set(),
}
FILES = sorted(path for path in PROJECT.glob("src/**/*.py"))


@cache
def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [file for file in FILES if PACKAGE in file.parents], ids=lambda path: path.name)
def test_imports_point_down(path):
    for name in imports(path):
        if name.startswith("cluemap.") and part(path) != "__init__":
            below = name.split(".")[1]
            assert FLOORS[below] <= FLOORS[part(path)], f"{path.name} imports {name} from above"


def test_no_folder_holds_more_modules_than_one_can_take_in():
    for folder in {path.parent for path in FILES if PACKAGE in path.parents}:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES, f"{folder.relative_to(PROJECT)} holds {len(modules)} modules: split it"


def test_stage_scripts_import_no_array_library():
    for script in (PROJECT / "src").glob("*.py"):
        assert not {name.split(".")[0] for name in imports(script)} & {"torch", "numpy", "einops", "mlflow"}, (
            script.name
        )


@pytest.mark.parametrize("library", DOORS)
def test_one_door_to_each_heavy_library(library):
    users = {
        path.relative_to(PROJECT).as_posix()
        for path in FILES
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users <= DOORS[library]


def test_data_does_without_torch_but_for_batches():
    users = {
        path.name for path in (PACKAGE / "data").rglob("*.py") if any(n.startswith("torch") for n in imports(path))
    }
    assert users == {"batches.py"}


def test_no_pickle_is_written_and_one_reader_reads_any():
    users = {path.name for path in FILES if any(name.split(".")[0] == "pickle" for name in imports(path))}
    assert users == {"restricted_pickle.py"}


def test_the_project_speaks_of_itself_alone():
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        file = PROJECT / name
        if file.suffix in (".py", ".md", ".yaml", ".toml", ".lock", "") and file.is_file() and file != Path(__file__):
            text = file.read_text(encoding="utf-8", errors="replace")
            for word in ("/work/", "/root/", "pypi.org", "pythonhosted"):
                assert word not in text, f"{name} holds {word}"
