"""The documentation: links lead somewhere, the README stays short, and files that pages name are there."""

import re
from pathlib import Path

import pytest
from locations import PROJECT

PAGES = sorted([PROJECT / "README.md", PROJECT / "jobs" / "README.md", *(PROJECT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
NAMED = re.compile(r"`((?:src|tests|bench)/[\w/.]+\.py)`|python ((?:src|bench)/\w+\.py)")


def anchors(page: Path) -> set[str]:
    """Ids of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_links_and_named_files_are_there(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in LINK.findall(text):
        if "://" not in target:
            file = (page.parent / target).resolve() if target else page
            assert file.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor[1:] in anchors(file), f"{page.name} links to {target}{anchor}"
    for names in NAMED.findall(text):
        assert (PROJECT / "".join(names)).exists(), f"{page.name} names {''.join(names)}"


def test_the_readme_is_read_in_two_minutes():
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_is_in_the_index():
    index = (PROJECT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (PROJECT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, f"docs/README.md does not name {page.name}"
