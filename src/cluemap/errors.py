"""Every error a user can cause. The message names the thing, what was found, and the command or key that mends it."""


class CluemapError(Exception):
    """Base of the project's own errors: the stage scripts print these as one message, without a traceback."""


class ParamsError(CluemapError):
    """params.yaml holds an unknown, missing, wrong-typed or impossible key."""


class DataError(CluemapError):
    """A raw or prepared file is missing, damaged, or not what its format promises."""


class CheckpointError(CluemapError):
    """A checkpoint is damaged, or belongs to other classes, data or params."""


class TrainingError(CluemapError):
    """Training cannot continue (a loss that is not finite, a lost rank)."""


class NotFinite(TrainingError):
    """A loss or a weight is NaN or infinite; every rank raises it at the same step."""


class TrackingError(CluemapError):
    """The run store cannot be used as asked."""


class Interrupted(CluemapError):
    """SIGTERM or Ctrl-C: the step was finished and the state saved; run the same command again to continue."""
