"""The pictures of docs/web.md, docs/web.png and docs/web-phone.png: the page in Chromium, with the mask of the demo.

CHROMIUM=/usr/bin/chromium python docs/draw_web.py
"""

import os
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from aws_lottery.web.page import launched, page
from aws_lottery.web.sources import local

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


def main() -> None:
    url = launched(page(local()))
    with sync_playwright() as starter, tempfile.TemporaryDirectory() as profile:
        browser = starter.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=["--no-sandbox", "--disable-gpu"]
        )
        seen = browser.new_page()
        seen.set_viewport_size({"width": 1280, "height": 1180})
        seen.goto(url)
        seen.wait_for_selector("#layers figure img")
        seen.screenshot(path=HERE / "web.png")
        seen.set_viewport_size({"width": 390, "height": 1290})
        seen.get_by_role("tab", name="Try it").click()
        seen.get_by_role("button", name="Train").click()
        seen.wait_for_selector('figure[aria-busy="false"]', timeout=120_000)
        seen.locator(".summary").evaluate("element => element.scrollIntoView()")
        seen.screenshot(path=HERE / "web-phone.png")
        browser.close()


if __name__ == "__main__":
    main()
