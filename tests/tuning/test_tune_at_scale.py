"""bench/tune_at_scale.py, small: parents that are killed and a database that goes away lose and double no trial."""

import sys

import pytest
from locations import PROJECT
from servers import postgresql_server

sys.path.insert(0, str(PROJECT / "bench"))

import tune_at_scale

from cluemap.tuning.study import Row

pytestmark = pytest.mark.slow


def test_kills_and_an_outage_neither_lose_nor_double_a_trial(tmp_path):
    with postgresql_server() as server:
        found = tune_at_scale.measure(tmp_path, server, trials=16, parents=3, kills=2, outage=5)
    assert found["problems"] == []
    assert found["trials"] == 16
    assert found["killed parents"] == 2
    assert set(found["seconds of an ask"]) == {"ask 10", "ask 16", "worst"}


def test_the_check_sees_what_is_lost_and_what_is_doubled():
    def row(number, count, state="COMPLETE", score=None):
        score = 0.9 - abs(count - 4) / 10 if score is None else score
        return Row(number, state, (score,) if state == "COMPLETE" else (), {"clues.count": count}, {}, {1: score})

    done = [[f"{number:04d}", "done", "", "", ""] for number in range(3)]
    good = [row(0, 1), row(1, 2), row(2, 3, "PRUNED")]
    assert tune_at_scale.problems(good, done[:2], 3) == []
    for rows, events, words in (
        (good[:2], done[:2], "2 finished, 3 wanted"),
        ([*good, row(3, 7, "RUNNING")], done[:2], "4 trials, 3 finished"),
        ([good[0], row(5, 2), good[2]], done[:2], "gaps"),
        (good, [*done[:2], done[0]], "twice"),
        ([good[0], row(1, 1), good[2]], done[:2], "2 trials with"),
        ([good[0], row(1, 2, score=0.9), good[2]], done[:2], "another trial's score"),
        (good, done[:1], "never run to its end"),
    ):
        assert any(words in said for said in tune_at_scale.problems(rows, events, 3)), words
