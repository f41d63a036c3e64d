"""Runs that lose nothing: a journal on disk is the truth, MLflow gets it when it can (see TRACKING.md beside this)."""

from cluemap.tracking.opening import open_run
from cluemap.tracking.run import NoRun, Run, RunRef, made_by
from cluemap.tracking.sender import open_store

__all__ = ["NoRun", "Run", "RunRef", "made_by", "open_run", "open_store"]
