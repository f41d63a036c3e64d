"""Headless Chromium on a page of MLflow, of a report or of a comparison: what is shown, and what goes wrong.

Screenshots are kept under the test run's folder (`pytest --basetemp`), in `screenshots/`; with CLUEMAP_SCREENSHOTS they
go to that folder, in few colours, as docs/images has them.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from servers import mlflow_server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
HARMLESS = (  # MLflow's own
    "/ajax-api/2.0/mlflow/users/current",  # asked of every server; one without users answers 404
    "ResizeObserver loop completed with undelivered notifications",  # a chart that is resized twice in a frame
    "> attribute ",  # parallel coordinates with a param that is the same in all runs: a scale without a length
)
CLOSED = """if (location.protocol === "http:") {
    localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
    localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
}"""  # MLflow's assistant, which covers a third of the page until it is closed for the first time


@dataclass
class Face:
    """A browser's page, the server it looks at, and what went wrong."""

    page: Any
    address: str
    shots: Path
    wrong: list[str] = field(default_factory=list)

    def show(self, path: str, name: str, *wanted: str) -> str:
        """Open a page, wait until it shows all `wanted` texts, keep a screenshot; gives the page's text."""
        self.page.goto("about:blank")  # a change behind the # alone would not load the page anew
        self.page.goto(path if "://" in path else f"{self.address}/#{path}")
        for text in wanted:
            self.page.get_by_text(text, exact=False).first.wait_for(state="visible", timeout=120_000)
        self.keep(name)
        return self.page.inner_text("body")

    def keep(self, name: str, **options: Any) -> Path:
        """Keep what the page shows now as a picture."""
        self.page.wait_for_timeout(1000)  # what moves comes to rest
        file = self.shots / f"{name}.png"
        self.page.screenshot(path=file, timeout=120_000, **options)
        if "CLUEMAP_SCREENSHOTS" in os.environ:
            Image.open(file).convert("RGB").quantize(64).save(file, optimize=True)
        return file

    def watch(self) -> None:
        self.page.on(
            "console", lambda said: said.type == "error" and self.said(said.text, said.location.get("url", ""))
        )
        self.page.on("pageerror", lambda error: self.said(str(error), ""))
        near = (self.address, "data:", "blob:", "file:", "about:")
        self.page.on("request", lambda sent: sent.url.startswith(near) or self.wrong.append(f"elsewhere: {sent.url}"))

    def said(self, text: str, url: str) -> None:
        if not any(known in f"{text} {url}" for known in HARMLESS):
            self.wrong.append(f"{text} {url}")


@contextmanager
def browser(store: Path, shots: Path, width: int = 2200, height: int = 1000) -> Iterator[Face]:
    """A browser on `mlflow ui` of a project; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed here")
    shots = Path(os.environ.get("CLUEMAP_SCREENSHOTS", shots)).absolute()
    shots.mkdir(parents=True, exist_ok=True)
    with mlflow_server(store, "ui") as address, playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        page = started.new_page(viewport={"width": width, "height": height})
        page.add_init_script(CLOSED)
        made = Face(page, address, shots)
        made.watch()
        yield made
        started.close()
