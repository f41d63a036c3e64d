"""The average of a network's weights: its rule, where it is applied, and that a saved one goes on."""

import pytest
import torch
from torch import nn

from cluemap.training.weight_averaging import WeightAverage


def network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))


def moved(net: nn.Module, step: int) -> None:
    with torch.no_grad():
        for value in net.parameters():
            value.add_(step + 1.0)
        net[1].num_batches_tracked += 1


def test_the_rule_by_hand():
    net = network()
    average, decay = WeightAverage(net, 0.6), 0.6
    by_hand = net[0].weight.detach().clone()
    for step in range(9):
        moved(net, step)
        average.update(step)
        share = min(decay, (1 + step) / (10 + step))
        by_hand = share * by_hand + (1 - share) * net[0].weight.detach()
    own = net[0].weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(net[0].weight.detach(), by_hand)
        assert net[1].num_batches_tracked == 9
    assert torch.equal(net[0].weight, own)
    assert not torch.equal(own, by_hand)


def test_an_error_inside_puts_the_weights_back():
    net = network()
    average = WeightAverage(net, 0.9)
    moved(net, 0)
    own = net[0].weight.detach().clone()
    with pytest.raises(RuntimeError, match="boom"), average.applied():
        raise RuntimeError("boom")
    assert torch.equal(net[0].weight, own)


def test_without_a_decay_nothing_is_kept():
    net = network()
    average = WeightAverage(net, 0.0)
    moved(net, 0)
    average.update(0)
    own = net[0].weight.detach().clone()
    with average.applied():
        assert torch.equal(net[0].weight, own)
    assert average.state() == {}


def test_a_restored_average_goes_on_as_the_one_that_never_stopped():
    net = network()
    whole = WeightAverage(net, 0.8)
    for step in range(3):
        moved(net, step)
        whole.update(step)
    saved = {name: value.clone() for name, value in whole.state().items()}
    later = WeightAverage(net, 0.8)
    later.restore(saved)
    moved(net, 3)
    for average in (whole, later):
        average.update(3)
    assert all(torch.equal(value, later.state()[name]) for name, value in whole.state().items())
