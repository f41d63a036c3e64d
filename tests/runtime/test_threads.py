"""How threads wait: what a process gets that sets nothing, and that a user's own setting is left alone."""

import os
import re
import subprocess
import sys

import pytest
from locations import SOURCE

from cluemap.runtime import threads

CODE = """
import ctypes, glob, importlib.util, cluemap
(folder,) = importlib.util.find_spec("torch").submodule_search_locations
if not [ctypes.CDLL(file) for file in glob.glob(folder + "/lib/libgomp*")]:  # torch's OpenMP, without torch: 2 s less
    import torch
"""
LOAD = [sys.executable, "-c", CODE]


@pytest.mark.parametrize("inherited", [{}, {"GOMP_SPINCOUNT": threads.QUIET}, {"GOMP_SPINCOUNT": threads.BUSY}])
@pytest.mark.parametrize(("busy", "turns"), [(False, threads.QUIET), (True, threads.BUSY)])
def test_a_process_looks_for_itself_how_long_to_spin(monkeypatch, inherited, busy, turns):
    monkeypatch.setattr(threads, "crowded", lambda _: busy)
    told = dict(inherited)
    threads.settle(told)
    assert told == {"GOMP_SPINCOUNT": turns}


@pytest.mark.parametrize(
    ("count", "others", "busy"),
    [
        ("{all}", 0, False),
        ("{all}", 1, True),
        ("1", "{all}-1", False),
        ("1", "{all}", True),
        ("", 0, False),
        ("", 1, True),
    ],
)
def test_a_machine_is_crowded_where_threads_and_others_are_more_than_its_cores(
    tmp_path, monkeypatch, count, others, busy
):
    every = os.cpu_count()
    monkeypatch.setattr(threads, "cores", lambda: every)
    others = {"{all}-1": every - 1, "{all}": every}.get(others, others)
    load = tmp_path / "loadavg"
    load.write_text(f"0.00 0.15 0.86 {1 + others}/402 30913\n")
    assert threads.crowded({"OMP_NUM_THREADS": count.format(all=every)}, load) is busy


def test_what_ran_at_one_look_only_is_no_job(tmp_path, monkeypatch):
    load = tmp_path / "loadavg"
    load.write_text(f"0.00 0.15 0.86 {1 + os.cpu_count()}/402 30913\n")
    monkeypatch.setattr(threads.time, "sleep", lambda _: load.write_text("0.00 0.15 0.86 1/402 30913\n"))
    assert not threads.crowded({"OMP_NUM_THREADS": "1"}, load)


@pytest.mark.skipif(sys.platform != "linux", reason="the list of what runs is Linux's")
def test_a_real_job_on_every_core_is_seen():
    jobs = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        assert any(threads.crowded({"OMP_NUM_THREADS": "1"}) for _ in range(100))  # once all of them have started
    finally:
        for job in jobs:
            job.kill()
            job.wait()


@pytest.mark.parametrize(
    "mine", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "PASSIVE"}]
)
def test_what_the_user_set_stays(mine):
    told = dict(mine)
    threads.settle(told)
    assert told == mine


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' torch holds another OpenMP")
@pytest.mark.parametrize(
    ("mine", "shown"), [({}, {threads.QUIET, threads.BUSY}), ({"OMP_WAIT_POLICY": "PASSIVE"}, {"0"})]
)
def test_openmp_got_it_before_torch_loaded_it(mine, shown):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    told = {**clean, "OMP_DISPLAY_ENV": "VERBOSE", **mine}
    done = subprocess.run(LOAD, cwd=SOURCE, env=told, capture_output=True, text=True, timeout=300, check=True)
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)) & shown


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
