"""The page of a run in a real browser: the play head moves by key, by slider and by click; views follow."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.report.cli import Watched
from simulations.runner import OK
from tests.simulations.scenarios import scenario
from tests.simulations.test_report import row, simulate, write_table

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (--group browser)")
from selenium.webdriver.chrome.service import Service  # noqa: E402 - only where there is selenium
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webdriver import WebDriver  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed"
)
OPTIONS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
    "disable-background-networking", "disable-component-update", "disable-dev-shm-usage",
    "window-size=1280,900",
)  # fmt: skip
HALVES = {"partition": {"sides": [["m000", "m001"], "rest"], "at_s": 3, "for_s": 12}}
CRASH = {"crash": {"members": ["m003"], "at_s": 17}}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small partition, after which one of the members crashes."""
    watched = Watched(scenario(HALVES, CRASH, members=5), 1)
    result = watched.run()
    assert result.code == OK
    path = tmp_path_factory.mktemp("page") / "partition.html"
    path.write_text(watched.page(result, "caxton simulate run test --seed 1"), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: WebDriver, place: Path) -> Iterator[WebDriver]:
    yield from opened(browser, place)


def opened(browser: WebDriver, place: Path) -> Iterator[WebDriver]:
    """Open a page; whatever is done with it, it asks for nothing and complains of nothing."""
    browser.get(place.as_uri())
    assert browser.find_element(By.TAG_NAME, "body").get_attribute("data-ready") == "yes"
    yield browser
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [message["params"] for message in asked if message["method"] == "Network.requestWillBeSent"]
    # A browser has a first page of its own, which may still be loading when it is left.
    urls = {each["request"]["url"] for each in requests if not each["documentURL"].startswith("chrome:")}
    assert urls == {place.as_uri()}


def view(page: WebDriver, observer: str, subject: str) -> str | None:
    cell = page.find_element(By.CSS_SELECTOR, f"td[data-by='{observer}'][data-of='{subject}']")
    return cell.get_attribute("data-view")


def now(page: WebDriver) -> int:
    return int(page.find_element(By.TAG_NAME, "body").get_attribute("data-now") or "-1")


def move(page: WebDriver, ms: int) -> None:
    """Drag the slider, as far as a page can tell."""
    slider = page.find_element(By.ID, "slider")
    page.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", slider, ms
    )


def test_views_follow_the_slider(page: WebDriver) -> None:
    seen = {}
    for ms in (0, 2_900, 12_000, 44_000, 12_000):
        move(page, ms)
        assert now(page) == ms
        seen[ms] = [view(page, *pair) for pair in (("m000", "m004"), ("m004", "m000"), ("m000", "m001"))]
    assert seen == {
        0: ["up", "up", "up"],
        2_900: ["up", "up", "up"],
        12_000: ["dead", "dead", "up"],
        44_000: ["up", "up", "up"],
    }
    move(page, 44_000)
    assert view(page, "m000", "m003") == "dead"
    assert view(page, "m003", "m000") == "none"  # who does not run sees nothing
    head = page.find_element(By.CSS_SELECTOR, "#matrix tbody tr:nth-child(4)")
    assert head.get_attribute("class") == "gone"


def test_the_play_head_moves_by_keys(page: WebDriver) -> None:
    move(page, 12_000)
    slider = page.find_element(By.ID, "slider")
    slider.send_keys(Keys.ARROW_RIGHT)
    small = now(page) - 12_000
    assert small > 0
    slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert now(page) == 12_000 - small
    slider.send_keys(Keys.PAGE_UP)
    assert now(page) == 12_000 + 9 * small
    slider.send_keys(Keys.HOME)
    assert (now(page), view(page, "m000", "m004")) == (0, "up")
    slider.send_keys(Keys.END)
    assert now(page) == 45_000
    assert page.find_element(By.ID, "clock").text == "45.000 s"
    assert slider.get_attribute("aria-valuetext") == "45 s"


def test_a_click_goes_to_a_fault_and_to_what_happened(page: WebDriver) -> None:
    move(page, 40_000)
    page.find_element(By.CSS_SELECTOR, "#faults tr[data-fault='0']").click()
    assert now(page) == 3_000
    row_ = page.find_element(By.CSS_SELECTOR, "#faults tr[data-fault='0']")
    assert "current" in (row_.get_attribute("class") or "")
    page.execute_script("scrollTo(0, 0)")  # from under the bar with the slider, which stays in sight
    page.find_element(By.CSS_SELECTOR, "#tracks g[data-fault='1']").click()
    assert now(page) == 17_000
    page.find_element(By.ID, "earlier").click()
    assert 15_000 <= now(page) < 17_000
    page.find_element(By.ID, "later").click()
    assert now(page) == 17_000
    assert "m003 crashes" in page.find_element(By.ID, "happenings").text
    buttons = page.find_elements(By.CSS_SELECTOR, "#faults tr[data-fault='0'] button")
    buttons[1].click()
    assert now(page) == 15_000


def test_it_plays_and_stops(page: WebDriver) -> None:
    move(page, 0)
    play = page.find_element(By.ID, "play")
    play.click()
    page.execute_async_script(
        "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(arguments[0], 100)))"
    )
    play.click()
    assert play.get_attribute("aria-pressed") == "false"
    assert 0 < now(page) < 45_000


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_does_not_jump(page: WebDriver, width: int) -> None:
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.refresh()
        heights = set()
        for ms in (0, 5_000, 12_000, 18_000, 45_000):
            move(page, ms)
            heights.add(page.execute_script("return document.documentElement.scrollHeight"))
        assert len(heights) == 1
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_of_a_sweep_shows_its_failures(browser: WebDriver, tmp_path: Path) -> None:
    rows = [row(seed=n, false_deaths=n % 4) for n in range(1, 9)]
    rows[2] |= {"code": 128, "failed": "finally_views_agree"}
    table = write_table(tmp_path / "sweep.csv", *rows)
    assert simulate("report", str(table)).exit_code == 0
    for page in opened(browser, tmp_path / "sweep.html"):
        assert page.find_element(By.ID, "verdict").text.startswith("1 of 8 failed")
        failures = page.find_element(By.ID, "failures").text
        assert "finally_views_agree" in failures
        assert "caxton simulate run swarm --seed 3" in failures
        assert len(page.find_elements(By.CSS_SELECTOR, "#measures svg")) == 4
