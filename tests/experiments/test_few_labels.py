"""Variants for few labels: that each changes what it says, and that their lines become curves."""

import pytest
import tiny

from cluemap.experiments.ablation import VARIANTS, line
from cluemap.experiments.few_labels import METHODS, few_image_labels, few_masks, learning_curves
from cluemap.experiments.pipelines import write_changed
from cluemap.params import load_params


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("few_")])
def test_every_variant_is_a_change_that_the_params_take(tmp_path, name):
    base = tiny.write_params(tmp_path / "params.yaml")
    write_changed(base, "tiny", VARIANTS[name].changes, tmp_path / "changed.yaml")
    params = load_params("tiny", tmp_path / "changed.yaml")
    assert not params.labelled.all
    assert (params.semisupervised.kind == "off") == name.rsplit("_", 1)[0].endswith(("alone", "searched"))
    assert (params.refine.start == "image_labels") == ("searched" in name)
    assert str(params.labelled.count or round(100 * params.labelled.share)) == name.rsplit("_", 1)[1]
    assert params.labelled.kind == ("image_labels" if "labels" in name else "masks")


def test_the_table_of_the_method_is_whole():
    found = few_masks(30)
    assert len(found) == len(METHODS) == len({variant.rows[0].name for variant in found.values()})
    changes = {name: variant.changes for name, variant in found.items()}
    assert changes["few_fixmatch_30"]["semisupervised.metadata"] == "none"
    assert changes["few_both_30"]["semisupervised.metadata"] == "both"
    assert changes["few_undistilled_30"]["semisupervised.distillation"] == 0.0
    assert few_image_labels(5)["few_labels_alone_5"].changes["labelled.share"] == 0.05


def test_lines_become_curves_where_there_are_two_counts():
    lines = [line(few_masks(count)["few_alone_" + str(count)].rows[0].name, [count / 100, 0.5]) for count in (10, 100)]
    lines += [line(few_masks(30)["few_teacher_30"].rows[0].name, [0.7]), line("something else", [0.1])]
    assert learning_curves(lines) == {"labelled part alone": {10: [0.1, 0.5], 100: [1.0, 0.5]}}
