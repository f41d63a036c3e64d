"""params.yaml is read strictly: each wrong key is named with the nearest right one and the file."""

from copy import deepcopy

import pytest
from locations import PROJECT
from ruamel.yaml import YAML

from cluemap.errors import ParamsError
from cluemap.params import METHOD_BLOCKS, Params, load_params

FILE = PROJECT / "params.yaml"


@pytest.fixture(scope="module")
def original():
    return YAML().load(FILE.read_text(encoding="utf-8"))


@pytest.fixture
def tree(original):
    return deepcopy(original)


@pytest.fixture
def load(tree, tmp_path):
    def written(dataset="demo") -> Params:
        with (tmp_path / "params.yaml").open("w", encoding="utf-8") as handle:
            YAML().dump(tree, handle)
        return load_params(dataset, tmp_path / "params.yaml")

    return written


def refused(load, *words):
    with pytest.raises(ParamsError) as error:
        load()
    assert all(word in str(error.value) for word in (*words, "params.yaml")), str(error.value)


def test_the_papers_values_stand_at_the_top(tree):
    # Zhu et al., CVPR 2025, and METHOD section 10
    assert (tree["losses"]["lambda_clue"], tree["losses"]["lambda_tap"]) == (0.01, 0.015)
    clues = tree["clues"]
    assert (clues["count"], clues["momentum"], clues["tau"], clues["start_step"]) == (2, 0.999, 0.1, 4000)
    assert (tree["affinity"]["rounds"], tree["affinity"]["dilation"]) == (3, 2)
    assert (tree["classifier"]["width"], tree["classifier"]["temporal_depth"], tree["classifier"]["batch"]) == (
        128,
        8,
        48,
    )


def test_overrides_lie_over_the_method(tree, load):
    tree["demo"]["clues"] = {"count": 7}
    params = load()
    assert params.clues.count == 7
    assert params.clues.tau == tree["clues"]["tau"]
    assert params.flat()["clues.count"] == 7
    assert params.root == "data/demo"


def test_every_data_set_of_the_file_loads(tree, load, tmp_path):
    names = [name for name, block in tree.items() if isinstance(block, dict) and "masks" in block]
    assert {"demo", "demo_germany", "pastis", "pastis24", "germany"} <= set(names)
    tree["datasets"].update({name: f"data/{name}" for name in names})
    load()
    for name in names:
        assert load_params(name, tmp_path / "params.yaml").dataset == name


def test_numbers_in_yaml_12_form(tree, load, tmp_path):
    load()
    text = (tmp_path / "params.yaml").read_text().replace("learning_rate: 4.0e-3", "learning_rate: 4e-3")
    (tmp_path / "params.yaml").write_text(text)
    assert load_params("demo", tmp_path / "params.yaml").segmenter.learning_rate == 0.004


def test_unknown_keys(tree, load):
    tree["clues"]["cuont"] = 3
    refused(load, "unknown key `clues.cuont`", "did you mean `count`?")
    del tree["clues"]["cuont"]
    tree["demo"]["masks"]["treshold"] = 0.2
    refused(load, "unknown key `demo.masks.treshold`", "did you mean `threshold`?")
    del tree["demo"]["masks"]["treshold"]
    tree["demo"]["source"]["fold"] = 1
    refused(load, "unknown key `demo.source.fold`", "did you mean `folds`?")
    del tree["demo"]["source"]["fold"]
    tree["clue"] = {}
    refused(load, "unknown key `clue`", "did you mean `clues`?")


def test_missing_keys(tree, load):
    del tree["affinity"]["dilation"]
    refused(load, "missing key `affinity.dilation`")
    tree["affinity"]["dilation"] = 2
    del tree["demo"]["masks"]
    refused(load, "missing key `demo.masks`", "write `masks: {}`")
    tree["demo"]["masks"] = {}
    del tree["seed"]
    refused(load, "missing key `seed`")


@pytest.mark.parametrize(
    ("block", "key", "value"),
    [
        ("clues", "count", "two"),
        ("clues", "count", 2.5),
        ("clues", "count", 0),
        ("clues", "mu_low", 0.9),
        ("clues", "weights", "cams"),
        ("classifier", "mask_padding", 1),
        ("masks", "threshold", "validaton"),
        ("windows", "fold", 6),
        ("cams", "compare", ["clue", "nothing"]),
    ],
)
def test_wrong_values_name_the_key_and_what_was_found(tree, load, block, key, value):
    tree[block][key] = value
    refused(load, f"`{block}", str(value if not isinstance(value, list) else value[1]))


def test_what_learns_probabilities_wants_them_kept(tree, load):
    tree["demo"]["segmenter"]["labels"] = "soft"
    refused(load, "segmenter.labels soft of demo", "refine.keep_probabilities: true")
    tree["refine"]["keep_probabilities"] = True
    assert load().segmenter.labels == "soft"
    tree["demo"]["refine"]["learner"] = "none"
    refused(load, "`refine`", "keep_probabilities wants a learner")


def test_data_sets(tree, load, tmp_path):
    with pytest.raises(ParamsError, match=r"no block for the data set 'demos'.*did you mean `demo`"):
        load("demos")
    with pytest.raises(ParamsError, match="does not say where 'pastis' lies: add `pastis: data/"):
        load("pastis")
    tree["datasets"]["demo"] = 3
    refused(load, "datasets.demo is 3")


def test_files(tmp_path):
    with pytest.raises(ParamsError, match="is missing"):
        load_params("demo", tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,\n")
    with pytest.raises(ParamsError, match="is not YAML"):
        load_params("demo", tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ParamsError, match="key: value"):
        load_params("demo", tmp_path / "list.yaml")


def test_params_are_frozen_and_every_block_stands_in_dvc_yaml():
    params = load_params("demo", FILE)
    with pytest.raises(ValueError, match="frozen"):
        params.clues.count = 3
    stages = (FILE.parent / "dvc.yaml").read_text()
    for block in METHOD_BLOCKS:
        if block not in ("checkpoint",):  # changes no result
            assert f"${{key}}.{block}" in stages, block
