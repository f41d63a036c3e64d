"""Cut a raw data set into windows of the common form: arrays, table, image labels, splits, statistics."""

import sys

from cluemap.data.preparation import prepare
from cluemap.data.readers import open_reader
from cluemap.stages.stage import Stage, run_stage


def work(stage: Stage) -> None:
    with stage.run() as run:
        stage.used_raw(run)
        metrics = prepare(open_reader(stage.params), stage.params, stage.folder / "windows", state=stage.state)
        stage.finish(run, metrics, f"{metrics['windows']['all']} windows")


if __name__ == "__main__":
    sys.exit(run_stage("prepare", __doc__, work))
