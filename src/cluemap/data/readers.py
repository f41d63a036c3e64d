"""Which reader reads which published layout."""

from cluemap.data.pastis import open_pastis
from cluemap.data.pastis24 import open_pastis24
from cluemap.data.patches import Reader
from cluemap.errors import ParamsError
from cluemap.params import Params


def open_reader(params: Params) -> Reader:
    """The reader of `params.source.format`, opened on `params.root`.

    Raises:
        DataError: the data are not there or not whole. ParamsError: a source block that does not fit its format.
    """
    source, root = params.source, params.raw
    if source.format == "pastis24":
        return open_pastis24(root, source.classes, source.folds, params.dataset)
    if source.folds != "metadata":
        raise ParamsError(
            f"`{params.dataset}.source.folds` is {source.folds}: published PASTIS has its folds in metadata.geojson, "
            "write `metadata`"
        )
    return open_pastis(root, source.classes, params.dataset)
