"""Pictures of the page of `dnd serve`: `python tests/support/page_pictures.py MODEL OUT`; needs chromium."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from serve_toys import served

SMILES = """CC(=O)Oc1ccccc1C(=O)O
CN1C=NC2=C1C(=O)N(C)C(=O)N2C
c1ccc2ccccc2c1
C1CC
CC(C)Cc1ccc(cc1)C(C)C(=O)O
C[N+](C)(C)CCO"""


def main(model: Path, out: Path) -> None:
    """Write `serve-desktop.png`, `serve-atoms.png` and `serve-phone.png`."""
    with served([model]) as (address, _), sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = _asked(browser, address, 1100, 800)
        page.screenshot(path=out / "serve-desktop.png", full_page=True)
        page.locator("#rows button.drawing").first.click()
        page.wait_for_function("() => document.getElementById('why-picture').naturalWidth > 0")
        page.locator("#why").screenshot(path=out / "serve-atoms.png")
        _asked(browser, address, 390, 844).screenshot(path=out / "serve-phone.png", full_page=True)
        browser.close()


def _asked(browser: Browser, address: str, width: int, height: int) -> Page:
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(address)
    page.fill("#smiles", SMILES)
    page.click("#predict")
    page.wait_for_selector("#rows tr >> nth=5")
    page.evaluate("() => document.querySelectorAll('#rows img').forEach((one) => { one.loading = 'eager'; })")
    page.wait_for_function("() => [...document.querySelectorAll('#rows img')].every((one) => one.naturalWidth > 0)")
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
