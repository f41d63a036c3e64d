"""For the tests of maps: every map is written with its preview, but few look at it."""

import pytest

from cluemap.mapping import map_styling


@pytest.fixture(autouse=True)
def small_previews(monkeypatch):
    monkeypatch.setattr(map_styling, "DOTS_PER_INCH", 29)
