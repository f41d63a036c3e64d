"""Which reader reads which published layout."""

from cluemap.data.formats.mtlcc import open_mtlcc
from cluemap.data.formats.pastis import open_pastis
from cluemap.data.formats.pastis24 import open_pastis24
from cluemap.data.patches import Reader
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.errors import DataError
from cluemap.params import Params


def open_reader(params: Params) -> Reader:
    """The reader of `params.source.format`, opened on `params.root`.

    Raises:
        DataError: the data are not there or not whole.
    """
    source, root = params.source, params.raw
    if source.format == "psetae":
        raise DataError(
            f"{params.dataset} holds parcels, no images that windows could be cut from: its stages are "
            f"`python src/prepare_parcels.py --dataset {params.dataset}` and train_parcels"
        )
    if source.format == "mtlcc":
        return open_mtlcc(root, source.classes, source.tiles, tuple(source.years), source.fold, params.dataset)
    if source.format == "pastis24":
        return open_pastis24(root, source.classes, source.folds, params.dataset)
    if source.format == "scene":
        return open_scene(root, params.windows)
    return open_pastis(root, source.classes, params.dataset)
