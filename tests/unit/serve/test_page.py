"""The page in a real browser: paste, file, explanation, download; nothing is asked of another machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("playwright", reason="the package playwright is not installed")

from playwright import sync_api as playwright

from dnd.predictor.ready_made import read_properties
from finetuning_toys import molecules
from serve_toys import served, two_models

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine"),
    pytest.mark.timeout(300),
]
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(two_models(tmp_path_factory.mktemp("page"))) as (own, _):
        yield own


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        own = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield own
        own.close()


@pytest.fixture(scope="module")
def ready_made() -> Iterator[str]:
    with served([]) as (own, _):
        yield own


@pytest.fixture(params=["desktop", "phone"])
def page(browser, address: str, request: pytest.FixtureRequest):
    yield from _opened(browser, address, request.param)


@pytest.fixture(params=["desktop", "phone"])
def page_of_properties(browser, ready_made: str, request: pytest.FixtureRequest):
    yield from _opened(browser, ready_made, request.param)


def _opened(browser, address: str, size: str):
    context = browser.new_context(viewport=DESKTOP if size == "desktop" else PHONE)
    own = context.new_page()
    own.set_default_timeout(90_000)  # of a busy machine
    asked, wrong = [], []
    own.on("request", lambda one: asked.append(one.url))
    own.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
    own.on("pageerror", lambda error: wrong.append(str(error)))
    own.goto(address)
    yield own
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    context.close()
    assert elsewhere == []
    assert wrong == []


def test_a_paste_is_predicted_explained_and_downloaded(page, tmp_path: Path):
    page.fill("#smiles", "\n".join(["OCc1ccccc1", "C1CC", molecules()[3], "<img src=x onerror=alert(1)>"]))
    page.click("#predict")
    page.wait_for_selector("#rows tr >> nth=3")
    assert page.inner_text("#status") == "4 molecules, 2 without a prediction"
    assert page.locator("#reasons li").count() == 2
    assert "unclosed ring" in page.inner_text("#reasons")
    assert page.locator("#rows img").count() == 2  # and none from what was pasted
    page.wait_for_function("() => [...document.querySelectorAll('#rows img')].every((one) => one.naturalWidth > 0)")
    page.locator("#rows button.drawing").first.click()
    page.wait_for_selector("#why-picture:not([hidden])")
    page.wait_for_function("() => document.getElementById('why-picture').naturalWidth > 0")
    assert page.get_attribute("#why-picture", "alt").startswith("O ")
    page.click("#why-close")
    with page.expect_download() as loaded:
        page.click("#download")
    loaded.value.save_as(tmp_path / "predictions.csv")
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0].startswith("smiles,size_pred")
    assert len(lines) == 5
    assert page.evaluate(
        "() => document.documentElement.scrollWidth <= window.innerWidth"
    )  # nothing hangs over the edge


def test_a_file_is_predicted_by_the_chosen_model_page_by_page(page, tmp_path: Path):
    table = tmp_path / "mine.csv"
    table.write_text("smiles,note\n" + "".join(f"{text},mine\n" for text in [*molecules(), *molecules(), "C1CC"]))
    page.select_option("#model", "classes")
    page.set_input_files("#file", str(table))
    page.wait_for_selector("#more:not([hidden])")
    assert page.inner_text("#status") == "109 molecules, 1 without a prediction"
    assert page.locator("#rows tr").count() == 50
    page.click("#more")
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 100")
    with page.expect_download() as loaded:
        page.click("#download")
    loaded.value.save_as(tmp_path / "predictions.csv")
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0].startswith("smiles,note,ring_pred,hetero_pred")
    assert len(lines) == 110


def test_what_goes_wrong_is_said_on_the_page(page, tmp_path: Path):
    page.click("#predict")
    assert page.inner_text("#status") == "Paste at least one SMILES, or send a file."
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n")
    page.set_input_files("#file", str(tmp_path / "bad.csv"))
    page.wait_for_selector("#status.bad >> text=bad.csv")


def test_reload_back_and_forward_show_the_same_again(page, tmp_path: Path):
    page.fill("#smiles", "\n".join(molecules()[:3]))
    page.click("#predict")
    page.wait_for_selector("#rows tr >> nth=2")
    (tmp_path / "mine.csv").write_text("smiles\n" + "\n".join(molecules()[:5]))
    page.set_input_files("#file", str(tmp_path / "mine.csv"))
    page.wait_for_selector("#rows tr >> nth=4")
    page.reload()
    page.wait_for_selector("#rows tr >> nth=4")
    assert page.inner_text("#status") == "5 molecules"
    page.go_back()
    page.wait_for_function("() => document.getElementById('status').textContent === '3 molecules'")
    assert page.input_value("#smiles").splitlines() == molecules()[:3]
    page.go_back()
    page.wait_for_selector("#results", state="hidden")
    page.go_forward()
    page.go_forward()
    page.wait_for_function("() => document.getElementById('status').textContent === '5 molecules'")
    with page.expect_download() as loaded:
        page.click("#download")
    assert loaded.value.suggested_filename == "predictions.csv"


def test_the_keyboard_alone_is_enough(page):
    page.focus("#smiles")
    page.keyboard.type("OCc1ccccc1")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#rows tr")
    for _ in range(3):  # the file, the download, the drawing
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#why[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#why:not([open])", state="attached")
    assert page.evaluate("() => document.activeElement.className") == "drawing"


def test_without_a_model_it_shows_the_ready_made_properties_and_nothing_hangs_over_the_edge(page_of_properties):
    page = page_of_properties
    page.wait_for_function("() => document.getElementById('targets').textContent !== ''")
    names = [one.name for one in read_properties()]
    assert page.inner_text("#targets") == f"dnd-properties predicts {len(names)} properties."
    page.click("#named summary")
    assert all(name in page.inner_text("#names") for name in names)
    page.fill("#smiles", "CC(=O)Oc1ccccc1C(=O)O\nC1CC")
    page.click("#predict")
    page.wait_for_selector("#rows tr >> nth=1")
    assert page.inner_text("#status") == "2 molecules, 1 without a prediction"
    small = sum(0 < one.most_atoms < 13 for one in read_properties())  # aspirin has 13 heavy atoms
    assert page.locator("#rows tr >> nth=0 >> .value").count() == len(names) - small
    assert "bohr" not in page.inner_text("#rows")  # no unit without a value
    page.locator("#rows button.drawing").first.click()
    page.wait_for_function("() => document.getElementById('why-picture').naturalWidth > 0")
    assert page.get_attribute("#why-picture", "alt").startswith("C ")
    page.keyboard.press("Escape")
    assert page.evaluate("() => document.activeElement.className") == "drawing"
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
