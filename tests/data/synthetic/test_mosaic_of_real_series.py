"""The generator of the mosaic of real series lies outside the project and finds two definitions of ours by name."""

import sys

import numpy as np
import pytest
from locations import PROJECT, REAL

SCRIPT = REAL / "points" / "make_mosaic.py"


def test_the_mosaics_generator_finds_what_it_needs(monkeypatch):
    if not SCRIPT.exists():
        pytest.skip(f"no {SCRIPT}")
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import make_mosaic

    land = make_mosaic.cut_land(64, 64, make_mosaic.LandKnobs(), np.random.default_rng(0))
    assert land.elements.size == 64 * 64
    assert "parcel" in land.kinds
