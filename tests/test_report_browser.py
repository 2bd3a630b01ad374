"""The report in a real browser: opens without errors, steps, searches, opens blocks, keeps a model's texts as texts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_support import HOSTILE, described, residual

import convc

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium or chromedriver is not installed")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("reports")
    graphs = {
        "resnet18": convc.zoo.build("resnet18"),
        "densenet121": convc.zoo.build("densenet121"),
        "hostile": residual(HOSTILE),
    }
    found = {}
    for name, graph in graphs.items():
        described(graph).report(folder / f"{name}.html")
        found[name] = (folder / f"{name}.html").as_uri()
    return found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,800",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    size = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield driver
    driver.quit()


class Report:
    """What a reader does and sees."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        driver.get(address)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements("css selector", selector))

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def run(self, code: str) -> Any:
        return self.driver.execute_script(code)

    def becomes(self, condition: str) -> bool:
        """Whether a condition of the page holds within two seconds."""
        code = f"const done = arguments[0]; let left = 100; (function look() {{ if ({condition}) done(true); "
        code += "else if (left--) setTimeout(look, 20); else done(false); })()"
        return bool(self.driver.execute_async_script(code))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def resnet(chromium: Any, pages: dict[str, str]) -> Iterator[Report]:
    report = Report(chromium, pages["resnet18"])
    yield report
    assert report.errors() == []


RIGHT, LEFT, DOWN, UP, ENTER, ESCAPE = "\ue014", "\ue012", "\ue015", "\ue013", "\ue007", "\ue00c"


def test_it_opens_at_the_first_pass_that_did_something(resnet: Report) -> None:
    assert resnet.find("#pass-title").text == "1. fuse_batchnorm"
    assert resnet.count(".pane") == 2 and resnet.count(".node.removed") == 1 and resnet.count(".node.changed") == 2
    assert resnet.run("return performance.getEntriesByType('resource').length") == 0
    assert resnet.run("return document.documentElement.scrollWidth <= innerWidth")


def test_arrow_keys_step_through_rewrites_and_passes(resnet: Report) -> None:
    rewrites = resnet.run("return DATA.passes[0].rewrites")
    for at in range(3):
        resnet.press(RIGHT)
        assert resnet.find("#step-count").text == f"{at + 1} of {len(rewrites)}"
        assert rewrites[at]["node"] in resnet.find("#step-text").text
        marked = resnet.run("return [...document.querySelectorAll('.node.current')].map(n => NODES[n.dataset.id].name)")
        assert rewrites[at]["node"] in marked
        assert resnet.count("#details .row[aria-current]") == 1
    resnet.press(LEFT)
    assert resnet.find("#step-count").text == f"2 of {len(rewrites)}"
    resnet.press(DOWN)
    assert resnet.find("#pass-title").text == "2. fuse_epilogue"
    resnet.press(UP, UP)
    assert resnet.find("#pass-title").text == "As read" and resnet.count(".pane") == 1


def test_the_rewrite_is_brought_into_view(resnet: Report) -> None:
    resnet.press(*[RIGHT] * 12)
    for pane in resnet.driver.find_elements("css selector", ".pane"):
        outer = pane.rect
        for node in pane.find_elements("css selector", ".node.current > .box"):
            inner = (
                resnet.run("const b = arguments[0].getBoundingClientRect(); return [b.x, b.y];") if False else node.rect
            )
            assert outer["x"] <= inner["x"] <= outer["x"] + outer["width"]
            assert outer["y"] <= inner["y"] <= outer["y"] + outer["height"]


def test_blocks_open_and_close_by_click(resnet: Report) -> None:
    resnet.find("#collapse").click()
    assert resnet.count(".pane:first-child .block.open") == 0
    closed = resnet.count(".pane:first-child .node")
    resnet.find(".pane:first-child .block:not(.open) > .box").click()
    assert resnet.count(".pane:first-child .block.open") == 1
    resnet.find(".pane:first-child .block.open > .cap").click()
    assert resnet.count(".pane:first-child .block.open") == 0
    resnet.find("#expand").click()
    everything = resnet.run("return app.graphs()[0].nodes.length")
    assert closed < resnet.count(".pane:first-child .node") == everything


def test_search_by_name_and_operator(resnet: Report) -> None:
    resnet.press("/")
    resnet.press("layer3 conv2d")
    assert resnet.find("#results .count").text == "5 matches"
    resnet.press(ENTER, ENTER)
    assert resnet.find("#details h2").text.startswith("conv2d")
    assert "layer3.0.conv2" in resnet.find("#details").text
    assert resnet.count(".pane:first-child .node.chosen") == 1 and resnet.count(".hit") > 1
    resnet.press(ESCAPE)
    assert resnet.count(".hit") == 0


def test_a_node_tells_its_story(resnet: Report) -> None:
    resnet.run("app.go(LAST_STOP, -1, 'layer1.0.conv2')")
    text = resnet.find("#details").text
    for part in ("layer1.0.bn2", "layer1.0.relu_1", "fuse_batchnorm", "fuse_epilogue", "f32_", "Emitted source"):
        assert part in text, part
    resnet.find("#details details summary").click()
    assert resnet.becomes("document.querySelector('#details pre')")
    assert "def f32_" in resnet.find("#details pre").text
    resnet.find("#details .source-chips .link").click()
    assert resnet.find("#pass-title").text == "As read"


def test_panes_move_and_zoom_together(resnet: Report) -> None:
    before = resnet.run("return app.panes.map(p => ({...p.view}))")
    resnet.press("+")
    resnet.run("app.panes[0].move(0, -300)")
    after = resnet.run("return app.panes.map(p => ({...p.view}))")
    assert after[0]["zoom"] == after[1]["zoom"] > before[0]["zoom"]
    assert after[1] != before[1]
    resnet.press("b", "b")
    assert resnet.count(".pane") == 1 and resnet.find(".pane .caption").text == "Before"


def test_memory_and_kernels_are_shown(resnet: Report) -> None:
    resnet.press("2")
    assert resnet.count("#memory-chart .buffer") == resnet.run("return DATA.memory.buffers.length") > 0
    resnet.press("3")
    assert resnet.count("table.kernels tbody tr") == resnet.run("return DATA.kernels.length") > 0
    resnet.driver.find_elements("css selector", "table.kernels .link")[2].click()
    name = resnet.run("return document.querySelector('tr[aria-selected] .link').textContent")
    assert f"def {name}" in resnet.find(".kernel-source pre").text
    resnet.find(".kernel-source .calls .link").click()
    assert resnet.find("#pass-title").text == "What runs" and resnet.find("#details h2").text


def test_light_and_dark(resnet: Report) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        resnet.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        assert resnet.becomes(f"document.documentElement.dataset.theme === '{scheme}'")
        seen[scheme] = resnet.run("return getComputedStyle(document.body).backgroundColor")
    assert seen["light"] != seen["dark"]
    resnet.press("t")
    assert resnet.run("return getComputedStyle(document.body).backgroundColor") == seen["light"]
    resnet.press("t", "t")
    resnet.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_texts_of_a_model_are_shown_as_text(chromium: Any, pages: dict[str, str]) -> None:
    report = Report(chromium, pages["hostile"])
    report.run("window.texts = ''")
    for stop in range(4):
        report.run(f"app.go({stop})")
        report.run("for (const n of app.graphs()[1].nodes) { app.choose(n); texts += document.body.innerText; }")
    shown = report.run("return texts")
    assert HOSTILE[0] in shown and HOSTILE[1] in shown
    assert "\\u{202e}" in shown and "\u202e" not in shown
    assert report.count("img") == 0 and report.count("script") == 2
    assert report.errors() == []


def test_a_large_network_opens_whole(chromium: Any, pages: dict[str, str]) -> None:
    report = Report(chromium, pages["densenet121"])
    assert report.count(".pane:first-child .node, .pane:first-child .block") < 60
    report.press("o")
    assert report.count(".pane:first-child .node") == report.run("return app.graphs()[0].nodes.length") > 400
    report.press(RIGHT, RIGHT, "0")
    places = report.run("return [...app.panes[0].placed.boxes].filter(b => b.member >= 0).map(b => [b.x, b.y])")
    assert len({tuple(place) for place in places}) == len(places)
    assert report.errors() == []
