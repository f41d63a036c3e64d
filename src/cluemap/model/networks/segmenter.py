"""Which network `segmenter.kind` names; all give one logit per class and pixel (METHOD sections 8 and 14)."""

from cluemap.model.networks.context import JoinedSegmenter
from cluemap.model.networks.ltae import LtaeSegmenter
from cluemap.model.networks.pixel_segmenter import PixelSegmenter
from cluemap.model.networks.stand_in import StandInSegmenter
from cluemap.model.networks.tsvit import TsvitSegmenter
from cluemap.params import LtaeParams, SegmenterParams

Network = TsvitSegmenter | LtaeSegmenter
Segmenter = Network | JoinedSegmenter | StandInSegmenter | PixelSegmenter  # the last is fitted by train_baselines


def build_segmenter(bands: int, classes: int, window: int, params: SegmenterParams, ltae: LtaeParams) -> Network:
    """A segmenter with random weights. `classes` counts the background where the data set has one.

    forward: images b t c h w (normalised), day b t (1..366, 0 = none), valid b t -> logits b k h w.
    """
    if params.kind == "ltae":
        return LtaeSegmenter(bands, classes, ltae, params.whitening > 0)
    return TsvitSegmenter(bands, classes, window, params)
