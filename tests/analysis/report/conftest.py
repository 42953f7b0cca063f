"""Reports on made-up values, and a browser to look at them: Chromium, headless, driven by Selenium."""

import shutil
import time
from contextlib import suppress

import numpy as np
import pytest

from calibrant.analysis.findings import Grid
from calibrant.analysis.report import Subject, collect, write_report
from calibrant.sketches import Halves, SketchSpec, TensorSketch

NO_BROWSER = "no Chromium here: apt-get install chromium chromium-driver, and Selenium (the extra dev)"
COUNT = 100_000
WIDE, NARROW = 1280, 390


def values_of_every_kind() -> dict[str, np.ndarray]:
    """Distributions as activations have them."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=COUNT)
    kinds = {
        "normal": x,
        "relu": np.maximum(x, 0),  # half of it zeros
        "relu6": np.clip(3 * x + 1, 0, 6),  # an atom at either end
        "student": rng.standard_t(2, COUNT),
        "lognormal": np.exp(rng.normal(size=COUNT)),
        "uniform": rng.uniform(-1, 1, COUNT),
        "gelu": 3 * x / (1 + np.exp(-5 * x)),
        "negative": -np.abs(x) - 1,
        "pixels": (rng.integers(0, 256, COUNT) / 255 - 0.45) / 0.23,  # atoms alone
    }
    return {name: values.astype(np.float32) for name, values in kinds.items()}


KINDS = values_of_every_kind()


def halves_of(values: dict[str, np.ndarray], channel_axis: int | None = None) -> Halves:
    """Their sketches, of two halves of their rows."""
    spec = SketchSpec(channel_axis=channel_axis)
    halves = [{name: TensorSketch.of(x[half::2], spec) for name, x in values.items()} for half in (0, 1)]
    return Halves(*halves)


def report_on(values: dict[str, np.ndarray], symmetric: bool = False, methods=("minmax", "mse"), **more):
    """A report on values alone."""
    subject = Subject("made up", halves_of(values), methods, grid=Grid(8, symmetric), **more)
    return collect(subject, threads=2)


@pytest.fixture(scope="session")
def chromium():
    """The browser. Skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason=NO_BROWSER)
    pytest.importorskip("bokeh", reason="Bokeh (the extra report) is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip(NO_BROWSER)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    with suppress(Exception):
        browser.quit()


class Page:
    """A report in the browser."""

    def __init__(self, browser, path) -> None:
        self.browser = browser
        self.path = path

    def open(self, address: str = "", width: int = WIDE, scheme: str = "light") -> "Page":
        """Load it and wait until all is drawn."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.browser.get("about:blank")  # an address that differs behind the # alone would not load anew
        self.browser.get_log("browser")
        self.browser.get(self.path.as_uri() + address)
        until = time.monotonic() + 60
        while self.run("return document.documentElement.dataset.ready") != "true":
            assert time.monotonic() < until, self.errors()
            time.sleep(0.05)
        return self

    def run(self, script: str, *arguments):
        """What a script returns that runs in the page."""
        return self.browser.execute_script(script, *arguments)

    def one(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str):
        return self.browser.find_elements("css selector", selector)

    def errors(self) -> list[str]:
        """What the console has to complain about since it was last asked."""
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] != "INFO"]


@pytest.fixture
def page_of(chromium, tmp_path):
    """Opens a report in the browser."""

    def opened(report, address="", **how) -> Page:
        write_report(report, tmp_path / "report.html")
        return Page(chromium, tmp_path / "report.html").open(address, **how)

    return opened
