"""Windows that lie on the device as a whole: a batch is then one gather there, and no file is read for it."""

import logging
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluemap.data.batches import Batch, RawBatch, mask_rows, normalise, statistics
from cluemap.data.patches import NODATA
from cluemap.data.windows import Windows

logger = logging.getLogger(__name__)
SHARE = 0.5  # of the GPU's free memory that the windows may take: the network's steps need the rest
TOGETHER = 256  # windows a copy to the device


class DeviceWindows:
    """The series of some windows, end to end on one device, as int16; gives the same batches as `batches.stream`."""

    def __init__(self, windows: Windows, indexes: NDArray[np.int64], device: torch.device | str):
        lengths = windows.dates[indexes]
        ends, total = np.cumsum(lengths), int(lengths.sum())
        self.windows, self.device = windows, torch.device(device)
        self.mean, self.std = statistics(windows, device)
        self.row = np.full(len(windows), -1)  # of a window, in what follows
        self.row[indexes] = np.arange(len(indexes))
        self.first, self.length = self._here(ends - lengths), self._here(lengths)
        self.image_labels = self._here(windows.image_labels[indexes])
        self.known = None if windows.known is None else self._here(windows.known[indexes])
        shape = (total + 1, len(windows.card.legend.bands), windows.card.size, windows.card.size)
        self.images = torch.empty(shape, dtype=torch.int16, device=device)  # the last row is the padding's
        self.day = torch.zeros(total + 1, dtype=torch.int16, device=device)
        self.valid = torch.zeros(total + 1, dtype=torch.bool, device=device)
        self.images[total] = NODATA
        for start in range(0, len(indexes), TOGETHER):
            series = [windows.series(int(index)) for index in indexes[start : start + TOGETHER]]
            place = slice(int((ends - lengths)[start]), int(ends[start : start + TOGETHER][-1]))
            for whole, parts in zip((self.images, self.day, self.valid), zip(*series, strict=True), strict=True):
                whole[place] = torch.from_numpy(np.concatenate(parts))

    def stream(
        self, order: Iterable[NDArray[np.int64]], masks: NDArray[np.uint8] | None = None,
        probabilities: NDArray[np.uint8] | None = None,
    ) -> Iterator[Batch]:  # fmt: skip
        """One batch per index array of `order`, the same as `batches.stream` gives.

        Raises:
            ValueError: a window that is not here.
            DataError: `masks` or `probabilities` have another number of windows than the split.
        """
        for indexes in order:
            row = self.row[indexes]
            if (row < 0).any():
                raise ValueError(f"window {indexes[row < 0][0]} does not lie on {self.device}")
            longest = int(self.windows.dates[indexes].max(initial=1))  # known here: nothing is asked of the device
            mask = None if masks is None else self._here(mask_rows(self.windows, indexes, masks))
            raw = self._raw(self._here(row), longest, self._here(indexes), mask)
            if probabilities is not None:
                raw.probabilities = self._here(mask_rows(self.windows, indexes, probabilities, hidden=0))
            yield normalise(raw, self.mean, self.std)

    def _raw(self, row: Tensor, longest: int, index: Tensor, mask: Tensor | None) -> RawBatch:
        step = torch.arange(longest, device=self.device)
        first, length = self.first[row, None], self.length[row, None]
        dates = torch.where(step < length, first + step, len(self.day) - 1)  # b t
        known = None if self.known is None else self.known[row]
        labels = self.image_labels[row]
        return RawBatch(self.images[dates], self.day[dates], self.valid[dates], labels, index, mask, known)

    def _here(self, numbers: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.device, non_blocking=True)


def windows_on_device(windows: Windows, indexes: NDArray[np.int64], device: torch.device) -> DeviceWindows | None:
    """The windows on a GPU, where they fit into half of its free memory; None elsewhere: then they are streamed."""
    if device.type != "cuda":
        return None
    indexes = np.unique(indexes)  # some are drawn more often than others
    wanted, free = size_in_bytes(windows, indexes), torch.cuda.mem_get_info(device)[0]
    if wanted > SHARE * free:
        logger.info("windows are read from disk: %.1f GB do not fit beside the network", wanted / 1e9)
        return None
    return DeviceWindows(windows, indexes, device)


def size_in_bytes(windows: Windows, indexes: NDArray[np.int64]) -> int:
    """What these windows take on the device, all but a few bytes a date."""
    return 2 * int(windows.dates[indexes].sum()) * len(windows.card.legend.bands) * windows.card.size**2
