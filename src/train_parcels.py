"""Train a network on parcels as sets of pixels, from their labels or from image labels, and score it with baselines."""

import sys

from cluemap.stages.parcels.train_parcels import train_parcels
from cluemap.stages.stage import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("train_parcels", __doc__, train_parcels, launches=True))
