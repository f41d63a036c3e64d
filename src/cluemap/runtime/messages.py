"""What a script says while it works: this project's messages, and of a library no more than its warnings."""

import logging

LIBRARIES = ("rasterio", "pyogrio")  # they tell of every record written, and of an error before it is raised


def show_messages(level: int = logging.INFO) -> None:
    """Send messages from `level` on to the terminal, one line each."""
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(max(level, logging.WARNING))
