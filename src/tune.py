"""Search the params named in `tune` of params.yaml: trials of the same stages as `dvc repro`, in folders of their own.

`--trials 50` means 50 finished in the study: typing the same command again continues it. Ctrl-C saves what runs.
"""

import argparse
import shutil
import sys
from pathlib import Path

from cluemap.errors import CluemapError, Interrupted
from cluemap.experiments.gpu_assignment import devices, shares
from cluemap.experiments.pipelines import write_changed
from cluemap.files import atomic, write_text
from cluemap.paths import OUT, ROOT, stage_folder, state_folder
from cluemap.runtime.messages import show_messages
from cluemap.tracking import open_store
from cluemap.tracking.provenance import provenance
from cluemap.tracking.run_lifecycle import tracked
from cluemap.tuning.confirmation import confirm, confirmed
from cluemap.tuning.search_space import read_tuning
from cluemap.tuning.study import Study
from cluemap.tuning.study_report import take_over, write_report
from cluemap.tuning.trial_slots import Place
from cluemap.tuning.tuner import Tuner, identity, study_run


def main() -> int:
    given = parse()
    show_messages()
    try:
        return tune(given)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"tune: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except (CluemapError, OSError) as error:
        print(f"tune: error: {error}", file=sys.stderr)
        return 2


def tune(given: argparse.Namespace) -> int:
    tuning = read_tuning(given.dataset, given.params, given.budget, given.only)
    parts = shares(devices(), given.jobs)
    folder = OUT / given.dataset / "tune" / given.study
    prepared = stage_folder(given.dataset, "prepare")
    url = given.storage or f"sqlite:///{OUT / given.dataset / 'tune' / 'studies.db'}"
    told = identity(tuning, prepared)
    study = Study(url, given.study, tuning, told, given.sampler, given.seed, given.pruner != "none")
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "params.yaml"
    with atomic(base) as temporary:  # the study's own: editing params.yaml meanwhile changes no trial
        shutil.copyfile(given.params, temporary)
    place = Place(given.dataset, folder, base, prepared, state_folder(given.dataset, "tune").parent)
    tags = provenance(given.dataset, "tune", [prepared])
    with study_run(study, place, tags, told) as run:
        try:
            whole = Tuner(study, tuning, place, parts, run, tags).run(given.trials, 60 * given.timeout)
        finally:
            study.close()
        for file in write_report(study, folder / "report"):
            run.artifact(file)
    tell(given, study, folder, url)
    best = study.best()
    if given.confirm and best:
        seeds = list(range(given.confirm))
        table = confirmed(confirm(tuning, best.params, seeds, folder / "confirm", base, prepared, given.jobs), seeds)
        write_text(folder / "report" / "confirmed.md", table + "\n")
        print(table)
    return 0 if whole else 3


def tell(given: argparse.Namespace, study: Study, folder: Path, url: str) -> None:
    """Say what was found, and where to look."""
    best = study.best()
    print(f"report: {folder / 'report' / 'report.html'}")
    print(
        f"pip install optuna-dashboard; optuna-dashboard {url if not given.storage else '<the address of --storage>'}"
    )
    if tracked():
        try:
            print(f"mlflow ui   (then open {open_store().link(f'{given.dataset}/tuning')})")
        except CluemapError as error:
            print(f"mlflow ui   (experiment {given.dataset}/tuning; the run store does not answer now: {error})")
    if best is None:
        return
    line, snippet = take_over(best.params, given.dataset, given.params)
    print(f"best: {study.tuning.scores[0]} {100 * best.values[0]:.2f} % in trial {best.number}\n{line}\n{snippet}")
    if given.apply:
        write_changed(given.params, given.dataset, best.params, given.params)
        print(f"{given.params} holds these values now; next: dvc repro evaluate@{given.dataset}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--trials", type=int, default=50, help="finished trials that the study shall have (50)")
    parser.add_argument(
        "--timeout", type=float, default=float("inf"), help="minutes; the rest waits for the next start"
    )
    parser.add_argument("--jobs", type=int, default=1, help="trials at once, each on GPUs of its own (1)")
    parser.add_argument("--budget", type=float, help="share of every training's steps (default: tune.budget)")
    parser.add_argument("--only", nargs="+", default=(), metavar="KEY", help="search these keys of tune.space alone")
    parser.add_argument("--sampler", choices=["tpe", "gp", "random"], default="tpe", help="gp prunes nothing (tpe)")
    parser.add_argument("--pruner", choices=["hyperband", "none"], default="hyperband", help="(hyperband)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler (0)")
    parser.add_argument("--study", default="study", help="name; another name starts another study (default: study)")
    parser.add_argument("--storage", help="e.g. postgresql+psycopg://..., for many machines (default: a SQLite file)")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml")
    parser.add_argument(
        "--confirm",
        type=int,
        default=0,
        metavar="N",
        help="then retrain the best, own and paper's values whole, N seeds",
    )
    parser.add_argument("--apply", action="store_true", help="write the best values into params.yaml")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
