"""Pipelines that are run again: ablations, temporary copies, the recovery of an earlier run."""
