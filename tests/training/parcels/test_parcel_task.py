"""Training on parcels: same bits again and after a stop, pixels drawn by seed and step alone, honest weak labels."""

import os
import shutil
import signal

import numpy as np
import pytest
import tiny
import torch
from builders import write_pastis

from cluemap.data.parcels.batches import Loading, ParcelData, Scaling, alike, check_published, drawn
from cluemap.data.parcels.parcels import Parcels
from cluemap.data.parcels.preparation import prepare_parcels
from cluemap.data.parcels.sources import open_parcels
from cluemap.data.patches import NODATA, VOID
from cluemap.errors import CheckpointError, DataError, Interrupted
from cluemap.model.storage import checkpoints
from cluemap.model.storage.parcel_models import FILE, about_parcels, load_parcel_model
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.training.parcels.parcel_task import ParcelTask, new_parcel_network, predict
from cluemap.training.task import Settings
from cluemap.training.trainer import Trainer

ALONE = Ranks(0, 1, torch.device("cpu"))


def write_numbers(root):
    """Every field of 6 x 6 pixels that has a crop is a parcel."""
    for file in (root / "ANNOTATIONS").glob("TARGET_*.npy"):
        target = np.load(file)[0]
        rows, columns = np.indices(target.shape) // 6
        np.save(str(file).replace("TARGET_", "ParcelIDs_"), ((rows * 9 + columns + 1) * (target > 0)).astype(np.int32))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("parcels")
    write_pastis(root / "raw", patches=10, size=28, dates=[5, 7, 6, 7, 7, 4, 7, 7, 7, 7])
    write_numbers(root / "raw")
    tiny.write_params(root / "params.yaml")
    params = load_params("tiny", root / "params.yaml").model_copy(update={"root": str(root / "raw")})
    prepare_parcels(open_parcels(params), params, root / "parcels", progress=False)
    return root


@pytest.fixture(scope="module")
def parcels(root):
    return Parcels.open(root / "parcels")


@pytest.fixture
def params(root):
    return load_params("tiny", root / "params.yaml")


def loading_of(parcels, indexes, masks=True) -> Loading:
    truth = parcels.truth().astype(np.int64)
    targets = np.where(truth == VOID, -1, truth - parcels.card.first)
    return Loading(parcels, Scaling.of(parcels, indexes), targets, masks)


def indexes_of(parcels, split):
    return np.flatnonzero((parcels.splits(1) == split) & (parcels.truth() != VOID))


class Points:
    def __init__(self):
        self.all = {}

    def log(self, step, values):
        self.all.update({(step, name): value for name, value in values.items()})


class Told(ParcelTask):
    """The real task, and something that happens at one step."""

    at, what = -1, staticmethod(lambda: None)

    def losses(self, forward, batch, step):
        if step == self.at:
            self.what()
        return super().losses(forward, batch, step)


def train(parcels, params, folder, at=-1, what=lambda: None):
    indexes = indexes_of(parcels, "train")
    loading = loading_of(parcels, indexes)
    network = new_parcel_network(parcels, params, indexes)
    task = Told(network, loading, indexes_of(parcels, "validation"), params, ALONE)
    task.at, task.what = at, what
    data = ParcelData(loading, indexes, params.parcels.pixels, params.seed)
    settings = Settings(params.parcels, params.compute, params.checkpoint, params.seed, {"seed": params.seed})
    points = Points()
    return Trainer(task, data, settings, ALONE, points, folder, checkpoints.load_last(folder)).train(), points


@pytest.fixture(scope="module")
def whole(parcels, root, tmp_path_factory):
    return train(parcels, load_params("tiny", root / "params.yaml"), tmp_path_factory.mktemp("whole"))


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_same_seed_same_bits_and_another_seed_others(parcels, params, whole, tmp_path):
    again, _ = train(parcels, params, tmp_path / "a")
    assert same_bits(again, whole[0])
    other, _ = train(parcels, params.model_copy(update={"seed": 1}), tmp_path / "b")
    assert not same_bits(other, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("stopped_after", [1, 15, 22])
def test_a_stopped_training_ends_with_the_same_bits(parcels, params, whole, tmp_path, stopped_after):
    stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        train(parcels, params, tmp_path, at=stopped_after - 1, what=stop)
    assert same_bits(train(parcels, params, tmp_path)[0], whole[0])


def test_it_learns_and_says_its_speed(whole):
    points = whole[1].all
    knows_nothing = 2 / 3 * np.log(3)  # the focal loss of three classes that are alike
    assert points[30, "loss/total"] < 0.75 * knows_nothing
    assert (30, "parcels_per_second") in points


def test_pixels_are_drawn_anew_each_step_from_seed_and_step(parcels):
    one = drawn(40, 7, 0, 3, 11)
    assert len(set(one.tolist())) == 7
    assert (np.diff(one) > 0).all()
    assert (one == drawn(40, 7, 0, 3, 11)).all()
    others = [drawn(40, 7, *numbers).tolist() for numbers in ((1, 3, 11), (0, 4, 11), (0, 3, 12))]
    assert all(other != one.tolist() for other in others)
    index = np.array([int(parcels.pixels.argmax())])
    loading = loading_of(parcels, indexes_of(parcels, "train"))
    batches = [loading.batch(index, 5, (0, step)).pixels for step in (1, 1, 2)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_a_batch_by_hand(parcels):
    """Every value in its place; padding and what was not seen are 0 and masked."""
    indexes = np.array([int(parcels.pixels.argmax()), int(parcels.dates.argmin())])
    loading = loading_of(parcels, indexes_of(parcels, "train"))
    batch = loading.batch(indexes)
    for row, index in enumerate(indexes):
        pixels, days = parcels.series(int(index))
        for p in range(batch.pixels.shape[1]):
            for t in range(batch.pixels.shape[2]):
                there = p < len(pixels) and t < len(days) and (pixels[p, t] != NODATA).all()
                assert batch.seen[row, p, t] == there
                expected = np.zeros(10)
                if there:
                    expected = (pixels[p, t] - loading.scaling.mean) / loading.scaling.std
                np.testing.assert_allclose(batch.pixels[row, p, t], expected, rtol=1e-4, atol=1e-5)
        assert batch.day[row, : len(days)].tolist() == days.tolist()
        assert (batch.day[row, len(days) :] == 0).all()
    assert torch.equal(batch.valid, batch.seen.any(dim=1))


def test_batches_of_like_size_hold_each_parcel_once(parcels, monkeypatch):
    monkeypatch.setattr("cluemap.data.parcels.batches.TOGETHER", 600)
    indexes = np.arange(len(parcels))
    found = alike(parcels, indexes)
    assert sorted(np.concatenate(found).tolist()) == indexes.tolist()
    assert len(found) > 5
    for part in found:
        assert len(part) == 1 or parcels.pixels[part].max() * parcels.dates[part].max() * len(part) <= 600


def test_prediction_depends_neither_on_batches_nor_on_ranks(parcels, params, monkeypatch):
    indexes = np.arange(len(parcels))
    network = new_parcel_network(parcels, params, indexes).eval()
    loading = loading_of(parcels, indexes_of(parcels, "train"))
    whole = predict(network, loading, indexes, params.compute, ALONE)
    np.testing.assert_allclose(whole.sum(axis=1), 1, rtol=1e-5)
    monkeypatch.setattr("cluemap.data.parcels.batches.TOGETHER", 100)
    np.testing.assert_allclose(predict(network, loading, indexes, params.compute, ALONE), whole, atol=1e-5)
    shares = [loading.scan(indexes, rank, 3) for rank in range(3)]
    assert sorted(i for share in shares for batch in share for i in batch.index.tolist()) == indexes.tolist()


def test_the_published_form_wants_as_many_dates_in_all_parcels(parcels):
    with pytest.raises(DataError, match=r"as many dates in all parcels.* 4 to 7: set parcels.published to false"):
        check_published(parcels)


def test_the_published_form_masks_no_date(parcels):
    indexes = indexes_of(parcels, "train")
    masked, published = (loading_of(parcels, indexes, masks).batch(indexes) for masks in (True, False))
    assert (published.seen & ~masked.seen).any()
    assert torch.equal(published.pixels, masked.pixels)
    assert (published.valid.sum(dim=1) == torch.from_numpy(parcels.dates[indexes])).all()


def test_a_model_and_its_file_say_the_same(parcels, params, whole, tmp_path):
    indexes = indexes_of(parcels, "train")
    loading = loading_of(parcels, indexes)
    checkpoints.save(tmp_path / FILE, whole[0], about_parcels(parcels, loading.scaling, params.parcels, indexes, 1.7))
    model = load_parcel_model(tmp_path / FILE)
    network = new_parcel_network(parcels, params, indexes)
    network.load_state_dict(checkpoints.split(whole[0], "network/"))
    again = Loading(parcels, model.scaling, loading.targets, True)
    assert (model.temperature, model.training.dates) == (1.7, (4, 6, 7))
    assert model.network.dates.middle == network.dates.middle == parcels.middle_day(indexes)
    assert set(model.training.days) == {
        (int(day) - 1) % 365 + 1 for index in indexes for day in parcels.series(index)[1]
    }
    indexes = np.arange(9)
    np.testing.assert_array_equal(
        predict(model.network, again, indexes, params.compute, ALONE),
        predict(network, loading, indexes, params.compute, ALONE),
    )
    shutil.copy(tmp_path / FILE, tmp_path / "short")
    (tmp_path / "short").write_bytes((tmp_path / FILE).read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="damaged"):
        load_parcel_model(tmp_path / "short")
    checkpoints.save(tmp_path / "other", {}, {"kind": "segmenter"})
    with pytest.raises(CheckpointError, match="holds a segmenter"):
        load_parcel_model(tmp_path / "other")
