"""The study and its trials: counted, queued again, pruned, given up, resumed after every kind of end."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter

import pytest
import tuned
from runs import database, root
from servers import postgresql
from sqlalchemy.exc import OperationalError

from cluemap.errors import CheckpointError, Interrupted
from cluemap.experiments import pipelines
from cluemap.experiments.gpu_assignment import shares
from cluemap.params import load_params
from cluemap.tracking import NoRun, open_store
from cluemap.tracking.process_owner import this_process
from cluemap.tuning import study, trial, tuner
from cluemap.tuning.search_space import Tuning, read_tuning
from cluemap.tuning.study import StoreDown, Study
from cluemap.tuning.study_report import take_over, write_report
from cluemap.tuning.trial_slots import Place
from cluemap.tuning.tuner import Tuner, TuningError, identity

__all__ = ["database", "root"]  # fixtures
pytestmark = pytest.mark.slow  # every trial is a process


class Tunes:
    """A project of stand-ins and the study in it, all in this process."""

    def __init__(self, folder, plan, name="study", sampler="random", gpus=(), jobs=1, url=None, **tune):
        self.folder = folder
        if not (folder / "params.yaml").exists():
            tuned.make_project(folder, plan, **tune)
        self.base = folder / "params.yaml"
        read, prepared = read_tuning("tiny", self.base), folder / "out" / "tiny" / "prepare"
        url = url or f"sqlite:///{folder}/out/tiny/tune/studies.db"
        self.study = Study(url, name, read, identity(read, prepared), sampler, 3)
        place = Place("tiny", folder / "out" / "tiny" / "tune" / name, self.base, prepared, folder / "out/tiny/.state")
        place.folder.mkdir(parents=True, exist_ok=True)
        self.said: list[str] = []
        self.tuner = Tuner(self.study, read, place, shares(list(gpus), jobs), NoRun(), {}, self.said.append)

    def run(self, wanted, **options):
        return self.tuner.run(wanted, **options)

    @property
    def states(self):
        return Counter(row.state for row in self.study.rows())


@pytest.fixture
def tunes(tmp_path, monkeypatch):
    monkeypatch.setenv("CLUEMAP_ROOT", str(tmp_path))
    monkeypatch.setenv("CLUEMAP_TRACKING", "off")
    monkeypatch.delenv("CLUEMAP_PROCESSES", raising=False)
    monkeypatch.setattr(pipelines, "ROOT", tmp_path)
    monkeypatch.setattr(tuner, "LOOK", 0.02)
    yield lambda plan=None, **options: Tunes(tmp_path, plan or {"pace": 0.0}, **options)
    assert tuned.alive(tmp_path) == []


def test_the_first_trials_are_the_current_and_the_papers_values_and_the_count_is_the_studys(tunes):
    first = tunes()
    assert first.run(3)
    rows = first.study.rows()
    assert [row.params["clues.count"] for row in rows[:2]] == [3, 2]  # the data set's own, the method's
    assert [row.attributes.get("values") for row in rows] == ["of params.yaml", "the paper's", None]
    again = tunes()
    assert again.run(3)
    assert len(again.study.rows()) == 3
    assert again.run(4)
    assert [row.state for row in again.study.rows()] == ["COMPLETE"] * 4
    assert len({json.dumps(row.params) for row in again.study.rows()}) == 4  # no draw is repeated after a restart


def test_a_trial_is_scored_by_its_last_stage(tunes):
    found = tunes()
    found.run(2)
    for row in found.study.rows():
        assert row.values[0] == pytest.approx(0.9 - abs(row.params["clues.count"] - 4) / 10)
        assert sorted(row.reports) == list(range(1, 10))  # 9 points after the clues' start, of 18


def test_params_that_contradict_each_other_are_never_run_nor_counted(tunes):
    space = {"clues.mu_low": {"low": 0.05, "high": 0.9}, "clues.mu_high": {"low": 0.1, "high": 0.9}}
    found = tunes(space=space)
    found.run(6)
    rows = found.study.rows()
    assert sum(row.finished for row in rows) == 6
    refused = [row for row in rows if not row.finished]
    assert refused
    assert all(row.params["clues.mu_low"] >= row.params["clues.mu_high"] for row in refused)
    ran = {int(event[0]) for event in tuned.events(found.folder)}
    assert ran == {row.number for row in rows if row.finished}


def test_a_pruned_trial_stops_within_one_report(tunes, monkeypatch):
    found = tunes({"pace": 0.4})
    monkeypatch.setattr(found.study, "report", lambda asked, index, value: index == 3)
    found.run(1)
    assert found.study.rows()[0].state == "PRUNED"
    words = [event[1] for event in tuned.events(found.folder)]
    assert "report12" in words  # the third after step 9
    assert "report14" not in words
    assert "done" not in words


def test_hyperband_prunes_bad_trials_but_not_the_baselines(tunes):
    bad = {str(number): 0.5 for number in range(0, 30, 2)}
    found = tunes({"pace": 0.02, "minus": bad})
    found.run(14)
    rows = found.study.rows()
    assert {row.state for row in rows} == {"COMPLETE", "PRUNED"}
    assert all(row.state == "COMPLETE" for row in rows if "values" in row.attributes)


def test_a_crash_is_queued_once_more_and_given_up_the_second_time(tunes):
    found = tunes({"pace": 0.0, "0": "raise", "1": "raise once", "2": "kill once"})
    found.run(3)
    rows = {row.number: row for row in found.study.rows()}
    assert [rows[number].state for number in range(4)] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert [len(rows[number].attributes.get("failures", [])) for number in range(4)] == [2, 1, 1, 0]
    assert "the stand-in raises" in rows[0].attributes["failures"][-1]
    assert "killed by signal 9" in rows[2].attributes["failures"][0]
    starts = Counter(int(event[0]) for event in tuned.events(found.folder) if event[1] == "start")
    assert starts == {0: 2, 1: 2, 2: 2, 3: 1}


def test_out_of_memory_makes_a_trial_infeasible_at_once(tunes):
    found = tunes({"pace": 0.0, "2": "memory"})
    found.run(4)
    row = found.study.rows()[2]
    assert (row.state, row.infeasible) == ("PRUNED", True)
    assert "out of memory" in row.attributes["infeasible"]
    assert sum(event[0] == "0002" and event[1] == "start" for event in tuned.events(found.folder)) == 1
    assert any("infeasible" in line for line in found.said)


def test_trial_after_trial_that_fails_ends_the_study_with_the_log(tunes):
    found = tunes({str(number): "raise" for number in range(20)})
    with pytest.raises(TuningError, match=r"(?s)5 trials in a row.*the stand-in raises"):
        found.run(10)
    assert found.states == {"FAIL": 5}


def test_a_full_disk_is_not_the_trials_fault(tunes, monkeypatch):
    found = tunes({"pace": 0.0, "0": "raise"})
    monkeypatch.setattr(tuner, "ROOM", 1 << 62)
    with pytest.raises(TuningError, match="make room, then the same command"):
        found.run(3)
    assert found.study.rows()[0].state == "WAITING"
    assert "failures" not in found.study.rows()[0].attributes


def test_a_store_that_is_away_for_a_while_costs_nothing(tunes, monkeypatch):
    found = tunes({"pace": 0.1})
    calls, whole = Counter(), found.study.report

    def sometimes(*arguments):
        calls["all"] += 1
        if calls["all"] == 2:
            raise StoreDown("it does not answer")
        return whole(*arguments)

    monkeypatch.setattr(found.study, "report", sometimes)
    assert found.run(1)
    assert sorted(found.study.rows()[0].reports) == list(range(1, 10))


def test_a_store_that_stays_away_ends_the_trials_and_the_next_start_goes_on(tunes, monkeypatch):
    found = tunes({"pace": 0.1})
    monkeypatch.setattr(tuner, "PATIENCE", 0.0)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def never(*_):
        raise StoreDown("it does not answer")

    for method in ("report", "release"):
        monkeypatch.setattr(found.study, method, never)
    with pytest.raises(StoreDown):
        found.run(1)
    assert tuned.alive(found.folder) == []
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    monkeypatch.undo()


def sigterm_at(folder, word):
    """Send this process SIGTERM as soon as a stand-in says `word`."""
    end = time.monotonic() + 120
    while word not in [event[1] for event in tuned.events(folder)] and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_and_queues_what_runs(tunes):
    found = tunes({"pace": 0.1})
    threading.Thread(target=sigterm_at, args=(found.folder, "report3")).start()
    with pytest.raises(Interrupted, match="stopped by SIGTERM: the same command continues"):
        found.run(2)
    assert found.states["RUNNING"] == 0
    assert found.states["WAITING"] >= 1
    steps = (found.folder / "out/tiny/tune/study/0000/tiny/.state/train_classifier/step").read_text()
    (found.folder / "plan.json").write_text('{"pace": 0.0}')
    tunes().run(2)
    assert int(steps) > 0
    reports = [event[1] for event in tuned.events(found.folder) if event[0] == "0000"]
    assert reports.count(f"report{steps}") == 1  # it went on from where it stopped
    assert found.states["COMPLETE"] == 2


def test_the_time_that_was_given_is_kept(tunes):
    found = tunes({"pace": 0.2})
    assert not found.run(5, timeout=1.0)
    assert found.states["RUNNING"] == 0


def test_trials_at_once_never_share_a_gpu(tunes, monkeypatch):
    monkeypatch.delenv("CLUEMAP_DEVICE", raising=False)
    found = tunes({"pace": 0.05}, gpus="0123", jobs=2)
    found.run(6)
    spans: dict[str, list] = {}
    for number, _, _, visible, when in tuned.events(found.folder):
        spans.setdefault(number, [visible, float(when), 0.0])
        spans[number][2] = float(when)
    assert {span[0] for span in spans.values()} == {"0,1", "2,3"}
    pairs = [(a, b) for a in spans.values() for b in spans.values() if a is not b and a[1] < b[1] < a[2]]
    assert pairs  # some did run at once
    assert all(a[0] != b[0] for a, b in pairs)


def test_a_study_of_other_params_is_refused(tunes):
    found = tunes()
    tuned.change(found.base, losses={"lambda_tap": 0.5})
    with pytest.raises(CheckpointError, match=r"losses\.lambda_tap is 0\.015 there and 0\.5 now.*--study"):
        tunes()
    assert tunes(name="another").study.rows()


def test_a_dead_process_leaves_its_trial_to_the_next_and_loses_it(tunes):
    found = tunes()
    asked = found.study.next(5)
    assert found.study.mine(asked)
    assert found.study.next(5).number != asked.number
    asked.note(owner=json.dumps({**this_process(), "pid": 2**22 + 1}))
    again = found.study.next(5)
    assert (again.number, again.values) == (asked.number, asked.values)
    asked.note(owner=json.dumps({**this_process(), "host": "another"}))
    assert found.study.next(5).number != asked.number  # its process may well be alive there
    asked.note(seen=time.time() - 3600)
    assert found.study.next(5).number == asked.number


def test_a_trial_whose_asking_was_cut_off_is_asked_again_and_counted_once(tunes, monkeypatch):
    found = tunes()

    def cut_off(suggest):
        raise OperationalError("insert", {}, Exception("the server closed the connection"))

    with monkeypatch.context() as patch:
        patch.setattr(Tuning, "ask", lambda self, suggest: cut_off(suggest))
        with pytest.raises(StoreDown):
            found.study.next(1)
    assert found.study.rows()[0].state == "RUNNING"
    asked = found.study.next(1)
    assert asked.number == 0
    found.study.close()
    assert found.states == {"RUNNING": 1, "WAITING": 1}  # the paper's values wait
    found.study.release(asked)
    assert found.states == {"WAITING": 2}


def test_a_release_that_is_called_again_takes_the_trial_from_nobody(tunes):
    found = tunes()
    asked = found.study.next(5)
    found.study.release(asked)
    assert found.study.next(5).number == asked.number
    asked.note(owner=json.dumps({**this_process(), "host": "another"}))
    found.study.release(asked)
    assert found.study.rows()[asked.number].state == "RUNNING"


def test_a_store_that_was_away_leaves_no_living_machine_for_dead():
    assert study.STALE > tuner.PATIENCE + tuner.ALIVE + trial.GRACE + 30  # which is the longest wait between two tries


def test_no_more_trials_are_begun_than_wanted(tunes):
    found = tunes()
    assert [found.study.next(2) is None for _ in range(3)] == [False, False, True]


def test_several_scores_are_never_pruned(tunes):
    found = tunes({"pace": 0.0}, objective=["clue_cam_miou", "gpu_hours"], sampler="tpe")
    found.run(3)
    rows = found.study.rows()
    assert not found.study.prunes
    assert all(len(row.values) == 2 and 0 < row.values[1] < 1 for row in rows)


def test_every_trial_can_be_wanted_whole(tunes):
    found = tunes()
    study = found.study
    whole = Study(study.url, "whole", study.tuning, {}, "tpe", 3, prune=False)
    assert study.prunes
    assert not whole.prunes
    whole.close()


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers(tunes, sampler):
    found = tunes({"pace": 0.0}, sampler=sampler)
    found.run(4)
    assert found.study.prunes == (sampler == "tpe")
    assert found.states == {"COMPLETE": 4}


def test_what_was_learnt_is_written(tunes):
    found = tunes()
    found.run(6)
    names = {file.name for file in write_report(found.study, found.folder / "report")}
    assert names >= {"trials.csv", "history.png", "slices.png", "together.png", "importances.png", "report.html"}
    page = (found.folder / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 4
    assert "clues.count" in page
    line, snippet = take_over({"clues.count": 4, "clues.tau": 0.2}, "tiny", found.base)
    assert line == "dvc exp run -S tiny.clues.count=4 -S clues.tau=0.2 evaluate@tiny"
    assert snippet == "tiny:\n  clues: {count: 4, tau: 0.2}"


# ------------------------------------------------------------------ the command itself


def tune(folder, *options, **environment):
    told = tuned.environment(folder, **environment)
    return subprocess.run(tuned.command(*options), env=told, capture_output=True, text=True, timeout=900)


def test_a_key_that_does_not_exist_is_refused_before_anything_starts(tmp_path):
    tuned.make_project(tmp_path, space={"clues.cuont": {"low": 1, "high": 8}})
    done = tune(tmp_path, "--trials", "2")
    assert done.returncode == 2
    assert "did you mean `clues.count`?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "tiny" / "tune").exists()


def killed_now_and_then(folder, trials, kills, environment, dice):
    """Start the command, kill it with SIGKILL, start it again, and let the last one end."""
    for _ in range(kills):
        parent = subprocess.Popen(tuned.command("--trials", str(trials)), env=environment, stdout=subprocess.DEVNULL)
        before, end = len(tuned.events(folder)), time.monotonic() + 300
        while len(tuned.events(folder)) < before + dice.randrange(20, 60):
            assert parent.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        parent.kill()
        parent.wait()
    return tune(folder, "--trials", str(trials))


def test_twelve_trials_with_killed_ranks_a_raise_and_a_parent_killed_twice(root):
    plan = {"pace": 0.05, "1": "raise", "3": "kill once", "6": "kill once"}
    tuned.make_project(root, plan)
    done = killed_now_and_then(root, 12, 2, tuned.environment(root), random.Random(4))
    assert done.returncode == 0, done.stdout + done.stderr
    with sqlite3.connect(root / "out/tiny/tune/studies.db") as store:
        states = Counter(state for (state,) in store.execute("select state from trials"))
    assert states.pop("FAIL") == 1
    assert states["COMPLETE"] + states["PRUNED"] == 12
    assert set(states) <= {"COMPLETE", "PRUNED"}
    finished = Counter(event[0] for event in tuned.events(root) if event[1] == "done")
    assert max(finished.values()) == 1
    assert tuned.alive(root) == []
    runs = {run.name: run for run in open_store().runs(["tiny/tuning"])}
    assert len(list(open_store().runs(["tiny/tuning"]))) == len(runs) == 14  # 13 trials and the study
    assert {run.status for run in runs.values()} == {"FINISHED", "FAILED"}
    assert runs["study 0001"].status == "FAILED"
    assert "best/score" in runs["study (study)"].metrics
    assert runs["study 0000"].params["clues.count"] == "3"
    assert "dvc exp run" in done.stdout


def test_the_best_values_go_into_params_with_their_comments(tmp_path):
    tuned.make_project(tmp_path, {"pace": 0.0})
    done = tune(tmp_path, "--trials", "5", "--sampler", "random", "--apply", CLUEMAP_TRACKING="off")
    assert done.returncode == 0, done.stdout + done.stderr
    folders = sorted((tmp_path / "out/tiny/tune/study").glob("0*/params.yaml"))
    counts = [load_params("tiny", file).clues.count for file in folders]
    nearest = min(abs(count - 4) for count in counts)
    assert abs(load_params("tiny", tmp_path / "params.yaml").clues.count - 4) == nearest < 2
    assert "(eq. 4)" in (tmp_path / "params.yaml").read_text()
    assert "next: dvc repro evaluate@tiny" in done.stdout


def test_two_parents_on_one_postgresql_study_run_no_trial_twice(tmp_path):
    tuned.make_project(tmp_path, {"pace": 0.03})
    with postgresql() as address:
        options = ("--trials", "12", "--storage", address)
        environment = tuned.environment(tmp_path, CLUEMAP_TRACKING="off")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        both = [subprocess.Popen(tuned.command(*options), env=environment, **pipes) for _ in range(2)]
        said = [parent.communicate(timeout=600)[0] for parent in both]
        assert [parent.returncode for parent in both] == [0, 0], said
        read = read_tuning("tiny", tmp_path / "params.yaml")
        told = identity(read, tmp_path / "out/tiny/prepare")
        rows = Study(address, "study", read, told, "tpe", 0).rows()
    assert Counter(row.state in ("COMPLETE", "PRUNED") for row in rows) == {True: 12}
    starts = Counter(event[0] for event in tuned.events(tmp_path) if event[1] == "start")
    assert sorted(starts.values()) == [1] * 12
    assert all(" complete " in text or " pruned " in text for text in said)  # both took part
