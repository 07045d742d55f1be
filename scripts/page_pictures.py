"""Make the pictures of the server's page and of a recorded run in docs/images.

    python scripts/page_pictures.py

Runs the demo model with half of its experts in memory. Needs Chromium and Playwright.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
COMMAND = [sys.executable, "-m", "flash_moe"]
CACHE = ["--cache-gb", "0.00524"]
# The demo model answers these right.
QUESTIONS = (
    "What is the capital of Italy?",
    "How much is 12 + 7?",
    "Write a short poem of the sea.",
)


def main() -> None:
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        picture_of_the_page(browser)
        picture_of_a_run(browser, Path(folder))
        browser.close()


def picture_of_the_page(browser: Any) -> None:
    command = [*COMMAND, "serve", "demo", "--port", "0", "--prompt-cache-disk-gb", "0", *CACHE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        url = next(filter(None, (re.search(r"cache: (http\S+)", line) for line in server.stderr)))[
            1
        ]
        threading.Thread(target=server.stderr.read, daemon=True).start()
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(url)
        for question in QUESTIONS[:-1]:
            page.fill("#question", question)
            page.keyboard.press("Enter")
            page.wait_for_selector("#stop:not([hidden])")
            page.wait_for_selector("#send:not([hidden])")
        page.fill("#question", QUESTIONS[-1])
        page.keyboard.press("Enter")
        page.locator("article[data-role=assistant]").nth(2).locator(".text p").wait_for()
        page.wait_for_timeout(700)  # an update of the map after the prompt
        save(page, "page")
        server.terminate()


def picture_of_a_run(browser: Any, folder: Path) -> None:
    trace, events = str(folder / "trace.jsonl"), str(folder / "events.json")
    asked = [
        "--prompt",
        QUESTIONS[-1],
        "--max-tokens",
        "300",
        "--temperature",
        "0.7",
        "--seed",
        "4",
    ]
    recorded = ["--trace", trace, "--trace-events", events]
    subprocess.run([*COMMAND, "generate", "demo", *asked, *CACHE, *recorded], check=True)
    shown = folder / "run.html"
    subprocess.run(
        [*COMMAND, "trace", "show", trace, "--events", events, "-o", str(shown)], check=True
    )
    page = browser.new_page(viewport={"width": 1000, "height": 880})
    page.goto(shown.as_uri())
    save(page, "run")


def save(page: Any, name: str) -> None:
    """Save both colour schemes, with few colours: a third of the size."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        file = IMAGES / f"{name}-{scheme}.png"
        page.screenshot(path=file)
        with Image.open(file) as image:
            image.convert("RGB").quantize(128).save(file, optimize=True)


if __name__ == "__main__":
    main()
