"""How threads wait: what a process gets that sets nothing, and that a user's own setting is left alone."""

import os
import re
import subprocess
import sys

import pytest
from locations import SOURCE

from cluemap.runtime import threads

LOAD = [sys.executable, "-c", "import cluemap.runtime.distributed"]  # what every stage imports; it loads torch


def test_nothing_set_is_a_short_spin():
    told: dict[str, str] = {}
    threads.settle(told)
    assert told == {"GOMP_SPINCOUNT": threads.TURNS}


@pytest.mark.parametrize(
    "mine", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "PASSIVE"}]
)
def test_what_the_user_set_stays(mine):
    told = dict(mine)
    threads.settle(told)
    assert told == mine


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' torch holds another OpenMP")
@pytest.mark.parametrize(("mine", "shown"), [({}, threads.TURNS), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")])
def test_openmp_got_it_before_torch_loaded_it(mine, shown):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    told = {**clean, "OMP_DISPLAY_ENV": "VERBOSE", **mine}
    done = subprocess.run(LOAD, cwd=SOURCE, env=told, capture_output=True, text=True, timeout=300, check=True)
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)) == {shown}


def test_processes_share_the_cores_unless_the_user_says_how():
    assert threads.share(1, {}) == {"OMP_NUM_THREADS": str(threads.cores())}
    assert threads.share(10**6, {}) == {"OMP_NUM_THREADS": "1"}
    assert threads.share(2, {"OMP_NUM_THREADS": "5"}) == {"OMP_NUM_THREADS": "5"}


@pytest.mark.parametrize(("text", "most"), [("max 100000\n", 10**6), ("50000 100000\n", 1), ("100000 100000\n", 1)])
def test_a_containers_quota_counts(tmp_path, text, most):
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    assert 1 <= threads.cores(quota) <= most


def test_cores_kept_from_this_process_do_not_count():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert threads.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
