"""Make the pictures of the server's page and of a recorded run in docs/images.

    python scripts/page_pictures.py

Runs the demo model with half of its experts in memory. Needs Chromium and Playwright.
"""

from __future__ import annotations

import json
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

from flash_moe.tools import builtin

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
COMMAND = [sys.executable, "-m", "flash_moe"]
CACHE = ["--cache-gb", "0.00524"]
PROMPT = "How much is 17.5 percent of 2480?"
RESULT = '{"expression": "2480 * 17.5 / 100", "result": 434}'  # as the built-in tool returns it
SCHEMES = "light", "dark"


def main() -> None:
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        pictures_of_the_page(browser)
        pictures_of_a_run(browser, Path(folder))
        browser.close()


def pictures_of_the_page(browser: Any) -> None:
    command = [*COMMAND, "serve", "demo", "--port", "0", "--prompt-cache-disk-gb", "0", *CACHE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        lines = (re.search(r"cache: (http\S+)", line) for line in server.stderr)
        url = next(filter(None, lines))[1]
        threading.Thread(target=server.stderr.read, daemon=True).start()
        for scheme in SCHEMES:
            page = browser.new_page(viewport={"width": 1280, "height": 640}, color_scheme=scheme)
            page.goto(url)
            page.click("#settings summary")
            page.fill("[name=tools]", json.dumps([builtin.calculate.schema]))
            page.click("#settings summary")
            page.fill("#question", PROMPT)
            page.keyboard.press("Enter")
            page.fill(".call textarea", RESULT)
            page.click(".call button")
            page.locator("article[data-role=assistant]").nth(1).locator(".note").wait_for()
            page.locator("article[data-role=assistant] summary").first.click()
            save(page, f"page-{scheme}")
            page.close()
        server.terminate()


def pictures_of_a_run(browser: Any, folder: Path) -> None:
    trace, events, shown = folder / "trace.jsonl", folder / "events.json", folder / "run.html"
    asked = ["--prompt", PROMPT, "--temperature", "0.7", "--seed", "1"]
    recorded = ["--trace", trace, "--trace-events", events]
    subprocess.run([*COMMAND, "generate", "demo", *asked, *CACHE, *recorded], check=True)
    show = ["trace", "show", trace, "--events", events, "-o", shown]
    subprocess.run([*COMMAND, *show], check=True)
    for scheme in SCHEMES:
        page = browser.new_page(viewport={"width": 1000, "height": 880}, color_scheme=scheme)
        page.goto(shown.as_uri())
        save(page, f"run-{scheme}")


def save(page: Any, name: str) -> None:
    """Save a picture with few colours, which is a third of the size."""
    file = IMAGES / f"{name}.png"
    page.screenshot(path=file)
    with Image.open(file) as image:
        image.convert("RGB").quantize(128).save(file, optimize=True)


if __name__ == "__main__":
    main()
