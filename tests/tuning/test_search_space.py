"""`tune` in params.yaml: strictly read, and what a trial makes of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import tuned

from cluemap.errors import DataError, ParamsError
from cluemap.experiments.pipelines import write_changed
from cluemap.params import load_params
from cluemap.tuning import tuner
from cluemap.tuning.objectives import objective
from cluemap.tuning.search_space import read_tuning


@pytest.fixture
def file(tmp_path):
    return tuned.make_project(tmp_path) / "params.yaml"


def with_space(file: Path, **space) -> Path:
    tuned.change(file, tune={"space": {key.replace("__", "."): given for key, given in space.items()}})
    return file


def test_the_projects_own_file_can_be_searched():
    for dataset in ("demo", "pastis"):
        file = tuned.PROJECT / "params.yaml"
        if dataset in load_params("demo", file).dataset or dataset == "demo":
            tuning = read_tuning("demo", file)
    assert tuning.paper["clues.momentum"] == 0.999
    assert tuning.current["clues.momentum"] == load_params("demo", file).clues.momentum
    assert tuning.current.keys() == {entry.key for entry in tuning.space}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"clues__cuont": {"low": 1, "high": 8}}, "unknown key `clues.cuont`: did you mean `clues.count`?"),
        ({"clue__count": {"low": 1, "high": 8}}, "did you mean `clues.count`?"),
        ({"windows__size": {"low": 8, "high": 24}}, "windows cannot be searched"),
        ({"clues__count": {"low": 0, "high": 8}}, "0 is no value of clues.count"),
        ({"clues__count": {"low": 1.5, "high": 8}}, "1.5 is no value of clues.count"),
        ({"clues__tau": {"low": 0.5, "high": 0.1}}, "is no range"),
        ({"losses__lambda_clue": {"low": 0.0, "high": 0.1, "log": True}}, "is no range for log"),
        ({"clues__tau": {"low": 0.5}}, "give either `low` and `high`, or `choices`"),
        ({"temporal_weighting__kind": {"choices": ["power", "sofmax"]}}, "'sofmax' is no value"),
        ({"clues__positive_in_denominator": {"low": 0, "high": 1}}, "no value of clues.positive_in_denominator"),
        ({"clues__count": {"low": 3, "high": 8}}, "clues.count is 2, and tune.space searches 3 to 8: widen"),
        (
            {"temporal_weighting__sharpness": {"low": 0.0, "high": 2.0, "when": {"clues.eta": 1}}},
            "waits for clues.eta = 1, which is not searched",
        ),
    ],
)
def test_a_space_that_cannot_be_is_refused_by_name(file, space, words):
    with pytest.raises(ParamsError) as refused:
        read_tuning("tiny", with_space(file, **space))
    assert words in str(refused.value)


def test_a_wrong_key_of_the_block_is_refused(file):
    tuned.change(file, tune={"buget": 0.5})
    with pytest.raises(ParamsError, match=r"unknown key `tune\.buget`: did you mean `budget`\?"):
        read_tuning("tiny", file)


def test_a_data_set_changes_the_search_key_by_key(file):
    tuned.change(
        file, tiny={"tune": {"budget": 0.5, "space": {"clues.tau": None, "clues.count": {"low": 1, "high": 3}}}}
    )
    tuning = read_tuning("tiny", file)
    ranges = {entry.key: (entry.kind, entry.high) for entry in tuning.space}
    assert tuning.budget == 0.5
    assert ranges["clues.count"] == ("int", 3.0)
    assert "clues.tau" not in ranges
    assert read_tuning("tiny", file, budget=0.1).budget == 0.1


def test_a_conditional_key_is_asked_for_only_where_it_matters(file):
    tuning = read_tuning("tiny", file)
    asked: list[str] = []

    def choose(kind):
        def suggest(entry):
            asked.append(entry.key)
            return kind if entry.kind == "choice" else entry.low

        return suggest

    assert "temporal_weighting.sharpness" in tuning.ask(choose("power"))
    assert "temporal_weighting.sharpness" not in tuning.ask(choose("softmax"))
    assert asked.index("temporal_weighting.kind") < asked.index("temporal_weighting.sharpness")


def test_a_trials_changes_scale_every_training_and_keep_what_a_clue_forgets(tmp_path):
    file = tiny.write_params(
        tmp_path / "params.yaml",
        {"classifier": {"steps": 1000}, "clues": {"start_step": 400}, "segmenter": {"steps": 500}},
        tune={
            "objective": "clue_cam_miou",
            "budget": 0.1,
            "reports": 6,
            "space": {"clues.count": {"low": 1, "high": 8}},
        },
    )
    changes = read_tuning("tiny", file).changes({"clues.count": 5})
    write_changed(file, "tiny", changes, tmp_path / "trial.yaml")
    params = load_params("tiny", tmp_path / "trial.yaml")
    assert (params.classifier.steps, params.clues.start_step, params.segmenter.steps) == (100, 40, 50)
    assert params.classifier.validate_every == 10  # 6 reports in the 60 steps with clues
    assert params.clues.momentum**60 == pytest.approx(0.9**600)
    assert params.clues.count == 5


def test_a_study_tells_another_content_of_a_named_file(file):
    names, prepared = file.with_name("names.txt"), file.parent / "out/tiny/prepare"
    found = []
    for content in ("one", "two", "two"):
        names.write_text(content)
        write_changed(file, "tiny", {"labelled.file": str(names)}, file)
        found.append(tuner.identity(read_tuning("tiny", file), prepared))
    assert found[0] != found[1] == found[2]


def test_identity_tells_another_search_but_not_another_value_of_a_searched_key(file):
    before = read_tuning("tiny", file).identity()
    tuned.change(file, tiny={"clues": {"count": 4, "start_step": 9, "momentum": 0.9}})
    assert read_tuning("tiny", file).identity() == before
    tuned.change(file, losses={"lambda_tap": 0.5})
    assert read_tuning("tiny", file).identity() != before


def test_the_fewest_stages_that_give_a_score(file):
    params = load_params("tiny", file)
    alone = objective("clue_cam_miou", params)
    assert (alone.stages, alone.curve, alone.first) == (("train_classifier",), "clue_cam_miou_fixed", 9)
    other = params.model_copy(update={"masks": params.masks.model_copy(update={"threshold": 0.4})})
    assert objective("clue_cam_miou", other).stages == ("train_classifier", "make_cams", "make_masks")
    raw = params.model_copy(update={"cams": params.cams.model_copy(update={"source": "fused"})})
    assert objective("clue_cam_miou", raw).curve is None
    assert objective("mean_average_precision", params).first == 0
    assert objective("segmenter_miou", params).trained == "train_segmenter"


def test_only_some_keys_of_the_space(file):
    whole = read_tuning("tiny", file)
    found = read_tuning("tiny", file, only=["temporal_weighting.sharpness", "clues.count"])
    assert [entry.key for entry in found.space] == ["temporal_weighting.sharpness", "clues.count"]
    assert found.current == {key: whole.current[key] for key in ("temporal_weighting.sharpness", "clues.count")}
    assert found.ask(lambda entry: entry.low) == {"temporal_weighting.sharpness": 0.0, "clues.count": 1}
    assert found.identity() != whole.identity()
    both = read_tuning("tiny", file, only=["temporal_weighting.sharpness", "temporal_weighting.kind"])
    assert both.ask(lambda entry: "softmax") == {"temporal_weighting.kind": "softmax"}


def test_only_keys_that_are_there_and_matter(file):
    with pytest.raises(ParamsError, match=r"does not search `clues.cout`: did you mean `clues\.count`"):
        read_tuning("tiny", file, only=["clues.cout"])
    tuned.change(file, tiny={"temporal_weighting": {"kind": "softmax"}})
    with pytest.raises(ParamsError, match=r"waits for temporal_weighting\.kind = 'power', which is 'softmax'"):
        read_tuning("tiny", file, only=["temporal_weighting.sharpness"])


SPACE = {"parcels.learning_rate": {"low": 1.0e-4, "high": 0.1}, "parcels.kind": {"choices": ["pse_tae", "pse_ltae"]}}


def test_parcels_are_tuned_by_keys_of_parcels_alone(file):
    tuned.change(file, tune={"objective": "parcel_miou", "space": {"clues.count": {"low": 1, "high": 8}, **SPACE}})
    with pytest.raises(ParamsError, match=r"which does not depend on clues\..*search keys of `parcels` alone"):
        read_tuning("tiny", file)
    tuning = read_tuning("tiny", file, only=list(SPACE))
    changes = tuning.changes({"parcels.kind": "pse_ltae"}, budget=0.5)
    steps = tuning.params.parcels.steps // 2
    assert changes == {
        "parcels.kind": "pse_ltae", "parcels.steps": steps, "parcels.validate_every": max(1, steps // tuning.reports)
    }  # fmt: skip
    params = tuning.params.model_copy(
        update={"parcels": tuning.params.parcels.model_copy(update={"kind": "pse_ltae", "steps": 7})}
    )
    aim = objective("parcel_miou", params)
    assert (aim.stages, aim.trained, aim.curve, aim.steps) == (
        ("prepare_parcels", "train_parcels"), "train_parcels", "miou", 7
    )  # fmt: skip
    scores = {"validation": {"pse_tae": {"miou": 0.1}, "pse_ltae": {"miou": 0.7}}}
    assert aim.value(SimpleNamespace(metrics=lambda stage: scores)) == 0.7
    with pytest.raises(DataError, match=r"has no validation score pse_ltae.miou"):
        aim.value(SimpleNamespace(metrics=lambda stage: {"validation": {}}, folder="f"))
    tuned.change(file, parcels={"labels": "masks"})
    with pytest.raises(ParamsError, match=r"parcels.labels masks want a pixel pipeline"):
        read_tuning("tiny", file, only=list(SPACE))
