"""The report: one file with everything inside, nothing fetched, nothing taken for markup that is not."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cluemap.data.patches import CropClass, Legend
from cluemap.errors import DataError
from cluemap.figures.report import words, write_report

PNG = base64.b64decode(  # 1 x 1, as any painting program writes it
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
ALONE = {"meta", "img", "br", "hr", "link", "input"}  # tags without an end


class Page(HTMLParser):
    """Reads a page and keeps its tags, its words, and whether each tag is closed."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.words.append(data.strip())


def content_of(*parts: dict) -> dict:
    return {"title": "Demo", "sections": [{"title": "First", "parts": list(parts)}]}


def page_of(tmp_path, content: dict) -> Page:
    return Page(write_report(content, tmp_path / "report.html").read_text("utf-8"))


@pytest.fixture
def whole(tmp_path) -> dict:
    """Content with every kind of part."""
    (tmp_path / "scores.png").write_bytes(PNG)
    table = {"kind": "table", "columns": ["class", "IoU", "pixels"], "caption": "Test windows"}
    table["rows"] = [[{"text": "corn", "colour": "#ffbb78"}, {"share": 0.831}, 12345], ["beet", {"share": None}, None]]
    content = content_of(
        {"kind": "text", "text": "Two lines\nof words."},
        {"kind": "code", "text": "dvc repro"},
        {"kind": "picture", "file": tmp_path / "scores.png", "caption": "IoU per class"},
        table,
        {"kind": "legend", "classes": [{"name": "void", "colour": "#ffffff", "hatched": True}]},
        {"kind": "values", "values": {"clues": {"count": 2, "mu": {"high": 0.4}}, "masks.threshold": 0.3}},
    )
    content["headline"] = [{"name": "test mIoU", "value": "61.8 %", "note": "95 % of full supervision"}]
    return {**content, "subtitle": "All there is"}


def test_everything_is_in_the_page(tmp_path, whole):
    page = page_of(tmp_path, whole)
    wanted = [
        "Demo",
        "All there is",
        "test mIoU",
        "61.8 %",
        "95 % of full supervision",
        "First",
        "Two lines\nof words.",
    ]
    wanted += ["dvc repro", "IoU per class", "Test windows", "class", "corn", "83.1 %", "12,345", "void"]
    wanted += ["clues.count", "2", "clues.mu.high", "0.4", "masks.threshold", "0.3"]
    assert [word for word in wanted if word not in page.words] == []
    assert page.words.count("\N{EN DASH}") == 2
    assert page.open == []
    styles = [attributes.get("style", "") for _, attributes in page.tags]
    assert "--share: 83.1%" in styles
    assert "background-color: #ffbb78" in styles


def test_nothing_is_fetched(tmp_path, whole):
    page = page_of(tmp_path, whole)
    html = (tmp_path / "report.html").read_text("utf-8")
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not re.search(r"https?://|url\(|@import|//[a-z]", html.replace("data:image", ""))
    policy = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_are_inside(tmp_path, whole):
    pictures = [attributes for tag, attributes in page_of(tmp_path, whole).tags if tag == "img"]
    assert len(pictures) == 1
    assert base64.b64decode(pictures[0]["src"].removeprefix("data:image/png;base64,")) == PNG
    assert (pictures[0]["width"], pictures[0]["height"]) == ("1", "1")
    assert pictures[0]["alt"] == "IoU per class"


def test_links_of_the_contents_lead_somewhere(tmp_path):
    parts = {"title": "x & y", "parts": []}
    page = page_of(tmp_path, {"title": "Demo", "sections": [parts, parts]})
    targets = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert targets == [f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes]
    assert len(set(targets)) == 2


def test_words_are_never_markup(tmp_path):
    evil = "</title><script>alert('1')</script>\"&"
    parts = [{"kind": "text", "text": evil}, {"kind": "values", "values": {evil: evil}}, {"kind": "code", "text": evil}]
    table = {"kind": "table", "columns": [evil], "rows": [[evil]], "caption": evil}
    page = page_of(tmp_path, {**content_of(*parts, table), "title": evil, "subtitle": evil})
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.words.count(evil) == 10  # title twice


def test_same_content_same_bytes(tmp_path, whole):
    first = write_report(whole, tmp_path / "first.html")
    assert first.read_bytes() == write_report(whole, tmp_path / "second.html").read_bytes()


def test_numbers_stand_to_the_right(tmp_path):
    table = {"kind": "table", "columns": ["a", "b"], "rows": [[1, "x"], [None, 2], [np.float32(0.5), np.int64(3)]]}
    heads = [attributes for tag, attributes in page_of(tmp_path, content_of(table)).tags if tag == "th"]
    assert [head.get("class") for head in heads] == ["number", None]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (True, "yes"), (False, "no"), (12345, "12,345"), (0.61834, "0.6183"),
     (5e-6, "5e-06"), (1234567.8, "1,234,568"), ([1, "a"], "1, a"), ("word", "word"),
     (np.int64(12345), "12,345")],
)  # fmt: skip
def test_words(value, text):
    assert words(value) == text


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"kind": "movie"}, "section 'First': part of kind 'movie', not one of text, code, picture"),
        ({"kind": "text"}, "section 'First': text lacks 'text'"),
        ({"kind": "text", "text": "x", "colour": "red"}, "text has the unknown 'colour'"),
        ({"kind": "picture", "file": "nowhere.png"}, "picture nowhere.png is missing: draw it first"),
        ({"kind": "picture", "file": __file__}, "test_report.py is not a PNG"),
        ({"kind": "table", "columns": ["a", "b"], "rows": [[1, 2], [3]]}, r"table row \[3\] has not the 2 columns"),
        ({"kind": "legend", "classes": [{"name": "x", "colour": "red;}"}]}, "colour 'red;}' is not of the form"),
    ],
)
def test_wrong_parts_are_named_and_nothing_is_written(tmp_path, part, message):
    with pytest.raises(DataError, match=message):
        write_report(content_of(part), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_legend_of_the_library_fits(tmp_path):
    legend = Legend(("B02",), (0, 0, 0), (CropClass("corn", "#ffbb78"),), True)
    part = {"kind": "legend", "classes": legend.to_json()["classes"]}
    assert "corn" in page_of(tmp_path, content_of(part)).words
