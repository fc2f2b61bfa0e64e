"""The picture of a report in the docs: `python tests/support/report_picture.py MODEL OUT.png`; needs chromium."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SHOWN = ("Results", "Metrics beside the baselines", "Test part")
_HIDE_OTHERS = """(shown) => document.querySelectorAll('section').forEach((one) => {
  if (!shown.includes(one.querySelector('h2')?.textContent)) one.remove();
})"""


def main(model: Path, out: Path) -> None:
    """Write the verdict, the metrics and the first plot; the other sections are left out, nothing else is changed."""
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.goto((model / "report.html").resolve().as_uri())
        page.evaluate(_HIDE_OTHERS, list(SHOWN))
        page.screenshot(path=out, full_page=True)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
