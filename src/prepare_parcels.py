"""Cut a data set's parcels out of its images, or read files of parcels: sets of pixels, classes, folds, geometry."""

import sys

from cluemap.data.parcels.preparation import prepare_parcels
from cluemap.data.parcels.sources import open_parcels
from cluemap.stages.stage import Stage, run_stage


def work(stage: Stage) -> None:
    with stage.run() as run:
        stage.used_raw(run)
        metrics = prepare_parcels(open_parcels(stage.params), stage.params, stage.folder / "parcels")
        stage.finish(run, metrics, f"{metrics['parcels']} parcels, {metrics['labelled']} with a class")


if __name__ == "__main__":
    sys.exit(run_stage("prepare_parcels", __doc__, work))
