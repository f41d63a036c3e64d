"""Runs that lose nothing: a journal on disk is the truth, MLflow gets it when it can (see docs/tracking.md)."""

from cluemap.tracking.delivery import open_store
from cluemap.tracking.run import NoRun, Run, RunRef, made_by
from cluemap.tracking.run_lifecycle import open_run

__all__ = ["NoRun", "Run", "RunRef", "made_by", "open_run", "open_store"]
