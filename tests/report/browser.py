"""A real Chromium without a window: the machine's own, controlled by playwright, with WebGL in software."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; the test is skipped where the machine has none."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page and its problems: errors on the console, requests to other hosts, failed answers."""

    page: Any
    wrong: list[str] = field(default_factory=list)


def watched(browser: Any, base: str, width: int, height: int) -> Watched:
    """A new page of this size; its errors and its requests to other hosts are recorded."""
    one = Watched(browser.new_page(viewport={"width": width, "height": height}))
    one.page.set_default_timeout(200_000)  # software WebGL is slow on a busy machine
    one.page.on("console", lambda said: one.wrong.append(said.text) if said.type == "error" else None)
    one.page.on("pageerror", lambda error: one.wrong.append(str(error)))
    one.page.on("response", lambda answer: one.wrong.append(answer.url) if answer.status >= 400 else None)

    def outside(request: Any) -> None:
        if not request.url.startswith((base, "data:", "blob:")):
            one.wrong.append(f"outside: {request.url}")

    one.page.on("request", outside)
    return one


def screenshot(page: Any, name: str) -> Path:
    """Save a screenshot to REPORT_SCREENSHOTS (by default screenshots/ below the temporary folder)."""
    import tempfile

    folder = Path(os.environ.get("REPORT_SCREENSHOTS") or Path(tempfile.gettempdir()) / "report-screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")
    print(f"screenshot: {folder / name}.png")
    return folder / f"{name}.png"
