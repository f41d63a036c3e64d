"""What src/where.py prints of results, those of data without true labels included."""

import where
from cluemap.files import write_json


def test_scores_and_what_has_none(tmp_path, monkeypatch, capsys):
    kinds = {"weak": {"miou": 0.25}, "full": {"miou": None}}
    found = {
        "pseudo_masks": {"miou": None, "oracle": {"miou": None}}, "refined_masks": {"miou": None, "decided": 0.5},
        "test": kinds, "baselines": {"trees": kinds}, "ratio": None,
    }  # fmt: skip
    write_json(tmp_path / "metrics.json", found)
    monkeypatch.setattr(where, "stage_folder", lambda dataset, stage: tmp_path)
    monkeypatch.setattr(where, "links", lambda dataset: "")
    monkeypatch.setattr("sys.argv", ["where.py", "--dataset", "tiny"])
    where.main()
    said = capsys.readouterr().out
    assert "from image labels, test      mIoU 0.250   trees 0.250" in said
    assert "from true masks, test        mIoU none   trees none" in said
