"""Takes the pictures of the report's page: at 1,280 and 390 pixels, light and dark. Needs Chromium and Selenium.

    make demo
    calibrant quantize demo-output/efficientnet_lite0.onnx --data demo/photos/calibration --mean 127 --std 128 \
        --output demo-output/reported.onnx --report demo-output/report.html
    python docs/make_screenshots.py demo-output/report.html

Look at each for overlap, clipping and contrast before it is committed.
"""

import base64
import shutil
import sys
import time
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium import webdriver

FOLDER = Path(__file__).parent / "pictures"
SHOTS = {  # width: height, where the picture begins
    1280: (2400, "summary"),
    390: (1900, "value"),
}
COLOURS = 192  # of a picture: text on plain grounds needs no more


def main() -> None:
    page = Path(sys.argv[1]).resolve().as_uri()
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        for width, (height, start) in SHOTS.items():
            for scheme in ("light", "dark"):
                take(browser, page, width, height, start, scheme)
    finally:
        browser.quit()


def take(browser: webdriver.Chrome, page: str, width: int, height: int, start: str, scheme: str) -> None:
    """One picture."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get("about:blank")
    browser.get(page)
    while browser.execute_script("return document.documentElement.dataset.ready") != "true":
        time.sleep(0.1)
    if start != "summary":
        browser.execute_script("document.getElementById(arguments[0]).scrollIntoView({behavior: 'instant'})", start)
    time.sleep(1)
    shot = base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])
    picture = Image.open(BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(FOLDER / f"report-{width}-{scheme}.png", optimize=True)


if __name__ == "__main__":
    main()
