"""Reports in a real browser: headless Chromium by way of chromedriver's HTTP interface, on made-up runs.

AXE_CORE names axe.min.js of the npm package axe-core, for rules of accessibility; SCREENSHOTS a folder for pictures.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas_osr.reports.report_of_runs import report_of

from .conftest import search_records, write_history, write_method

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DRIVER and BROWSER), reason="needs chromium and chromedriver (Debian: chromium-driver)"),
]
WIDTHS = {"wide": 1100, "phone": 390}


class Browser:
    """A session of chromedriver."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}/session"
        options = {"binary": BROWSER, "args": ["--headless=new", "--no-sandbox", "--disable-gpu"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        started = self.post("", {"capabilities": {"alwaysMatch": wanted}})
        self.root += f"/{started['sessionId']}"

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(self.root + path, json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def run(self, script: str, *values: Any) -> Any:
        return self.post("/execute/sync", {"script": script, "args": list(values)})

    def wait(self, script: str) -> Any:
        """What a script says to the function that is its last argument."""
        return self.post("/execute/async", {"script": script, "args": []})

    def show(self, page: Path, width: int, scheme: str) -> None:
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.post("/url", {"url": page.as_uri()})

    def complaints(self) -> list[Any]:
        found: list[Any] = self.post("/se/log", {"type": "browser"})
        return found

    def press(self, key: str) -> None:
        action = {
            "type": "key",
            "id": "keys",
            "actions": [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}],
        }
        self.post("/actions", {"actions": [action]})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        found = Browser(port)
        yield found
        urllib.request.urlopen(urllib.request.Request(found.root, method="DELETE"), timeout=60).close()
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    search = write_history(folder / "search", search_records())
    (search / "config.yaml").write_text("strategy: pas\nprotocol: digits\nepochs: 4\n")
    good, bad = write_method(folder / "good", 3.0), write_method(folder / "bad", 1.0)
    made = {"search": search, "retraining": good, "comparison": [good, bad], "several": [search, good]}
    for name, runs in made.items():
        (folder / f"{name}.html").write_text(report_of(runs), encoding="utf-8")  # type: ignore[arg-type]
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture
def page(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    return pages[request.param]


each_page = pytest.mark.parametrize("page", ["search", "retraining", "comparison", "several"], indirect=True)


@each_page
def test_pages_fit_and_load_nothing(page: Path, browser: Browser) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        for name, width in WIDTHS.items():
            browser.show(page, width, scheme)
            assert browser.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            grounds.add(browser.run("return getComputedStyle(document.body).backgroundColor"))
            assert (
                browser.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))")
                == []
            )
            keep_picture(browser, f"{page.stem}-{scheme}-{name}", width)
    assert len(grounds) == 2
    assert browser.complaints() == []


def keep_picture(browser: Browser, name: str, width: int) -> None:
    """A picture of the whole page, for people, where they have asked for it."""
    if folder := os.environ.get("SCREENSHOTS"):
        height = browser.devtools("Page.getLayoutMetrics")["cssContentSize"]["height"]
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = browser.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


@each_page
@pytest.mark.skipif("AXE_CORE" not in os.environ, reason="needs AXE_CORE=.../axe.min.js, of the npm package axe-core")
def test_axe_finds_nothing(page: Path, browser: Browser) -> None:
    for scheme in ("light", "dark"):
        for width in WIDTHS.values():
            browser.show(page, width, scheme)
            browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
            browser.run(Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8"))
            found = browser.wait("axe.run().then(arguments[arguments.length - 1])")
            assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []


def test_the_keyboard_reaches_the_content_and_the_copy_button(pages: dict[str, Path], browser: Browser) -> None:
    browser.show(pages["retraining"], 1100, "light")
    browser.press("\ue004")  # Tab
    assert browser.run("return document.activeElement.className") == "skip"
    browser.press("\ue007")  # Enter
    assert browser.run("return location.hash") == "#content"
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    for _ in range(200):
        browser.press("\ue004")
        if browser.run("return document.activeElement.className") == "copy":
            break
    browser.devtools("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.press("\ue007")
    said = wait_for(lambda: browser.run("return document.getElementById('said').textContent"))
    assert said == "Copied"
    copied = browser.wait("navigator.clipboard.readText().then(arguments[arguments.length - 1])")
    assert copied == browser.run("return document.activeElement.parentElement.querySelector('code').textContent")
    assert "protocol: cifar10" in copied


def wait_for(question: Callable[[], Any]) -> Any:
    for _ in range(50):
        if answer := question():
            return answer
        time.sleep(0.05)
    return None
