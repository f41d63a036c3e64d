"""Where the tests find things: the project's root, and the shared real files, which may be absent."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
PROJECT = TESTS.parent
SOURCE = PROJECT / "src"
SHARED = PROJECT.parent / "shared"
REAL = SHARED / "real"
