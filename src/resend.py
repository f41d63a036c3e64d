"""Send what a run store missed while it was down, and mend a store whose folder was moved."""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.tracking.pending_runs import pending_journals, resend
from cluemap.tracking.store.moved_store import repair_moved_store


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("journals", nargs="*", type=Path, help="records to send (default: all that are found)")
    parser.add_argument("--mend-moved", action="store_true", help="first point the store at artifacts in this folder")
    options = parser.parse_args(arguments)
    try:
        if options.mend_moved:
            former, changed = repair_moved_store()
            print(f"{changed} entries pointed at {', '.join(sorted(former))}" if former else "Nothing was moved")
        journals = options.journals or pending_journals()
        for path in journals:
            print(f"{path.name}: sent as run {resend(path)}")
        print(f"{len(journals)} records sent" if journals else "No record waits to be sent")
    except CluemapError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
