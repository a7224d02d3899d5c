"""The page at GET /score, in a headless Chromium: `make browser-test`. Screenshots are kept in build/screenshots."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.inference.tasks import tiny
from tests.real_server import ROOT, Server, running
from tests.server.test_detection import CLASS

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

SCREENSHOTS = ROOT / "build" / "screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--no-first-run", "--use-fake-ui-for-media-stream",
         "--use-fake-device-for-media-stream"]  # fmt: skip
# The strokes of a four on an 8 x 8 grid: (column, row).
FOUR = [(4, 0), (3, 1), (2, 2), (2, 3), (1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (5, 3), (5, 5), (5, 6), (5, 7)]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.fail("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def digits(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(digits_folder / "torch-zip", tmp_path_factory.mktemp("log")) as server:
        yield server


@pytest.fixture
def page(chromium: Any, digits: Server) -> Iterator[Any]:
    """The page, open; afterwards nothing has been written to its console, and nothing was fetched from elsewhere."""
    yield from opened(chromium, digits)


def opened(chromium: Any, server: Server, **options: Any) -> Iterator[Any]:
    said, asked = [], []
    tab = chromium.new_page(viewport={"width": 1200, "height": 900}, **options)
    tab.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"http://127.0.0.1:{server.port}/score")
    tab.wait_for_selector("#card dt")
    yield tab
    tab.close()
    expected = "the server responded with a status of 4"  # Chromium's own remark on a refused request
    assert [text for text in said if expected not in text] == []
    assert {url.partition("/score")[0] for url in asked if not url.startswith("data:")} == {
        f"http://127.0.0.1:{server.port}"
    }


def kept(tab: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=str(SCREENSHOTS / f"{name}.png"), full_page=True)


def expect(part: Any) -> Any:
    return playwright.expect(part)


def best(tab: Any) -> Any:
    """The label of the likeliest class."""
    return tab.locator("#bars .bar span").first


def draw(tab: Any, points: list[tuple[int, int]]) -> None:
    box = tab.locator("#draw").bounding_box()
    for column, row in points:
        tab.mouse.click(box["x"] + (column + 0.5) * box["width"] / 8, box["y"] + (row + 0.5) * box["height"] / 8)


def test_a_drawn_digit_is_recognised(page: Any) -> None:
    draw(page, FOUR)
    page.click("#send")
    expect(best(page)).to_have_text("4")
    shares = page.locator("#bars .bar b").all_text_contents()
    assert float(shares[0].split()[0]) > 90
    assert "predictions" in page.text_content("#raw")
    expect(page.locator("#charts")).to_contain_text(re.compile(r"[1-9]\d* in all"))
    kept(page, "page")


def test_the_card_says_what_is_served(page: Any) -> None:
    card = page.text_content("#card")
    for text in (
        "torch-zip",
        "DigitsCNN (recognised by keys and shapes)",
        "pixels: float32[N, 1, 8, 8]",
        "GB/s",
        "torch 2.",
    ):
        assert text in card
    assert "85,452 parameters on cpu" in page.text_content("#about")


def test_what_was_tuned_is_a_table(chromium: Any, tmp_path: Path) -> None:
    from torch import nn

    (tmp_path / "model").mkdir()
    torch.save(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)), tmp_path / "model" / "model.pt")
    said = {"SCORE_INPUTS": "float32[N, 6]", "SCORE_BACKEND": "bf16-autocast", "SCORE_TOLERANCE": "0.1"}
    with running(tmp_path / "model", tmp_path, **said) as server:
        tab = chromium.new_page()
        tab.goto(f"http://127.0.0.1:{server.port}/score")
        table = tab.wait_for_selector("#card table")
        assert "bf16-autocast (SCORE_BACKEND" in tab.text_content("#card")
        assert "rows a pass)" in tab.text_content("#card")
        rows = [row.text_content() for row in table.query_selector_all("tr")]
        assert len(rows) == 3 and rows[0].startswith("backend") and any("apart" in row for row in rows)
        tab.screenshot(path=tmp_path / "tuned.png")
        tab.close()


def test_broken_input_shows_the_error_with_its_hint(page: Any) -> None:
    page.get_by_role("tab", name="JSON").click()
    page.fill("#json", '{"data": [[1, 2, 3]]}')
    page.click("#send")
    shown = page.wait_for_selector("#refused .error").text_content()
    assert "wrong_shape" in shown
    assert "expected float32[N, 1, 8, 8], received [1, 3]" in shown
    page.fill("#json", '{"data": [')
    page.click("#send")
    expect(page.locator("#refused .error strong")).to_have_text("invalid_json")
    assert len(page.locator("#refused .error p").last.text_content()) > 10
    kept(page, "error")


def test_the_snippets_repeat_the_request(page: Any) -> None:
    draw(page, FOUR[:2])
    assert page.text_content("#code").startswith(f'curl -s {page.url} -d \'{{"data":[[[[0,')
    page.select_option("#kind", "Python")
    assert "requests.post(" in page.text_content("#code")
    page.select_option("#kind", "az ml")
    assert "az ml online-endpoint invoke --name <endpoint> --request-file request.json" in page.text_content("#code")


def test_it_works_from_the_keyboard(page: Any) -> None:
    page.focus("#draw")
    for key in ("ArrowUp", "ArrowUp", " ", "ArrowDown", " ", "ArrowDown", " ", "ArrowDown", " "):
        page.keyboard.press(key)
    assert "column 5, row 6" in page.text_content("#where")
    page.focus("#send")
    page.keyboard.press("Enter")
    page.wait_for_selector("#bars")
    page.focus("#draw")
    page.keyboard.press("Delete")
    assert '"data":[[[[0,0,0,0,0,0,0,0],' in page.text_content("#code")


def test_every_control_has_a_name(page: Any) -> None:
    controls = "[...document.querySelectorAll('button, input, select, textarea, canvas')]"
    named = "e.getAttribute('aria-label') || e.textContent.trim() || document.querySelector(`label[for='${e.id}']`)"
    unnamed = page.evaluate(f"{controls}.filter(e => !({named})).map(e => e.outerHTML)")
    assert unnamed == []


def test_dark_and_narrow(chromium: Any, digits: Server) -> None:
    for tab in opened(chromium, digits, color_scheme="dark"):
        tab.set_viewport_size({"width": 390, "height": 844})
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out
        kept(tab, "dark")


def test_numbers_files_and_labels(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    torch.save({"linear.weight": torch.eye(2, 10), "linear.bias": torch.zeros(2)}, tmp_path / "model" / "m.pt")
    (tmp_path / "model" / "labels.txt").write_text("<b>cat</b>\ndog\n")
    np.save(tmp_path / "rows.npy", np.eye(1, 10, 1, dtype=np.float32) * 9)
    with running(tmp_path / "model", tmp_path) as server:
        for tab in opened(chromium, server):
            tab.get_by_label("value 0", exact=True).fill("5")
            tab.click("#send")
            expect(best(tab)).to_have_text("<b>cat</b>")
            tab.get_by_role("tab", name="File").click()
            tab.set_input_files("#file", str(tmp_path / "rows.npy"))
            tab.click("#send")
            expect(best(tab)).to_have_text("dog")
            assert "--data-binary @rows.npy" in tab.text_content("#code")


def test_a_model_that_could_not_be_loaded_says_why(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.pt").write_bytes(b"lmgg" + bytes(40))
    with running(tmp_path / "model", tmp_path, SCORE_ON_LOAD_ERROR="serve") as server:
        tab = chromium.new_page()
        tab.goto(f"http://127.0.0.1:{server.port}/score")
        assert "foreign_format" in tab.wait_for_selector("#refused .error").text_content()
        tab.close()


def served_task(task: str, tmp_path: Path) -> Any:
    folder = tiny.made(task, tmp_path / task)
    return running(folder, tmp_path)


def test_a_text_is_labelled(chromium: Any, tmp_path: Path) -> None:
    with served_task("text-classification", tmp_path) as server:
        for tab in opened(chromium, server):
            tab.fill("#text", "a fine day")
            assert """-d '{"inputs":["a fine day"]}'""" in tab.text_content("#code")
            tab.click("#send")
            expect(tab.locator("#bars .bar")).to_have_count(1)
            assert best(tab).text_content() in ("bad", "good", "fine")
            assert "text-classification" in tab.text_content("#card")
            kept(tab, "text")


def test_a_question_has_its_context(chromium: Any, tmp_path: Path) -> None:
    with served_task("question-answering", tmp_path) as server:
        for tab in opened(chromium, server):
            tab.fill("#question", "where lives anna?")
            tab.fill("#context", "Anna lives in Paris.")
            tab.click("#send")
            tab.wait_for_selector("#raw")
            assert '"answer"' in tab.text_content("#raw")
            kept(tab, "question")


def test_boxes_and_masks_are_drawn_on_the_picture(chromium: Any, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    for task, drawn in (("object-detection", "span"), ("image-segmentation", "i")):
        with served_task(task, tmp_path) as server:
            for tab in opened(chromium, server):
                tab.set_input_files("#file", str(tmp_path / "picture.png"))
                if task == "object-detection":
                    tab.fill("#parameters", '{"threshold": 0.0}')
                tab.click("#send")
                expect(tab.locator(f"#drawn {drawn}").first).to_be_visible()
                kept(tab, task)


def test_a_recording_is_made_and_labelled(chromium: Any, tmp_path: Path) -> None:
    """With Chromium's own false microphone, which beeps."""
    with served_task("audio-classification", tmp_path) as server:
        for tab in opened(chromium, server):
            tab.click("#record")
            expect(tab.locator("#record")).to_have_text("Stop")
            tab.wait_for_timeout(1500)
            tab.click("#record")
            expect(tab.locator("#recorded")).to_contain_text("s recorded")
            assert "recording.wav" in tab.text_content("#code")
            tab.click("#send")
            tab.wait_for_selector("#bars")
            assert best(tab).text_content() in ("yes", "no")
            kept(tab, "recording")


def test_what_a_detector_found_is_drawn_with_its_names(chromium: Any, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "finds.py").write_text(CLASS)
    torch.save({"weight": torch.ones(3)}, tmp_path / "model" / "model.pt")
    Image.fromarray(np.full((80, 80, 3), 200, np.uint8)).save(tmp_path / "picture.png")
    settings = {
        "SCORE_ARCHITECTURE": f"{tmp_path}/model/finds.py:Finds", "SCORE_INPUTS": "float32[N, 3, 8, 8]",
        "SCORE_LABELS": "cat,dog,cow", "SCORE_CHECKPOINT": "model.pt",
        "SCORE_IMAGE": '{"resize": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}',
    }  # fmt: skip
    with running(tmp_path / "model", tmp_path, **settings) as server:
        for tab in opened(chromium, server):
            tab.set_input_files("#file", str(tmp_path / "picture.png"))
            tab.click("#send")
            expect(tab.locator("#drawn span").first).to_contain_text("cat")
            kept(tab, "detector")


ACCESSIBLE: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport_width": 390},
}


@pytest.mark.parametrize(
    ("look", "tab_name"), [("light", "Draw"), ("light", "File"), ("light", "JSON"), ("dark", "Draw"), ("phone", "File")]
)
def test_the_page_is_accessible(look: str, tab_name: str, chromium: Any, digits: Server) -> None:
    """axe-core finds no violation: with an answer, in each way to give an input, light, dark and as wide as a phone."""
    from axe_playwright_python.sync_playwright import Axe

    options = dict(ACCESSIBLE[look])
    width = options.pop("viewport_width", None)
    for tab in opened(chromium, digits, **options):
        if width:
            tab.set_viewport_size({"width": width, "height": 844})
        draw(tab, FOUR)
        tab.wait_for_selector("#bars")
        tab.get_by_role("tab", name=tab_name).click()
        found = Axe().run(tab).response["violations"]
        assert [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found] == []
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        kept(tab, f"{look}-{tab_name.lower()}")


def test_the_description_can_be_tried(chromium: Any, digits: Server) -> None:
    """Swagger UI, from here: nothing is fetched from elsewhere."""
    asked: list[str] = []
    tab = chromium.new_page(viewport={"width": 1200, "height": 900})
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"http://127.0.0.1:{digits.port}/score")
    tab.get_by_role("link", name="API").click()
    tab.wait_for_selector("#operations-default-predict", timeout=30_000)
    assert "POST" in tab.text_content("#operations-default-predict")
    kept(tab, "api")
    assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {f"127.0.0.1:{digits.port}"}
    tab.close()


def test_what_is_wrong_in_a_field_is_said_beside_it(chromium: Any, tmp_path: Path) -> None:
    with served_task("text-classification", tmp_path) as server:
        for tab in opened(chromium, server):
            tab.fill("#parameters", "{top_k: 3}")
            tab.click("#send")
            expect(tab.locator("#refused")).to_contain_text("This is not JSON")
            assert tab.get_attribute("#parameters", "aria-invalid") == "true"
            tab.fill("#parameters", '{"top_k": 2}')
            expect(tab.locator("#refused")).to_be_empty()
            tab.click("#send")
            tab.wait_for_selector("#bars")
            assert '"parameters":{"top_k":2}' in tab.text_content("#code")
            tab.get_by_role("button", name="Example").click()
            assert "inputs" in tab.input_value("#json")


def test_a_picture_is_shown_and_sent_as_the_code_says(chromium: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((80, 80, 3), 200, np.uint8)).save(tmp_path / "picture.png")
    with served_task("image-classification", tmp_path) as server:
        for tab in opened(chromium, server):
            tab.set_input_files("#file", str(tmp_path / "picture.png"))
            expect(tab.locator("#preview")).to_be_visible()
            tab.fill("#parameters", '{"top_k": 2}')
            assert """-F file=@picture.png -F 'parameters={"top_k":2}'""" in tab.text_content("#code")
            tab.click("#send")
            expect(tab.locator("#bars .bar")).to_have_count(2)
            kept(tab, "picture")


def test_several_inputs_have_a_field_each_and_numbers_are_no_probabilities(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        "import torch\n\nclass Two(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.weight = torch.nn.Parameter(torch.ones(3))\n\n    def forward(self, first, second):\n"
        "        return first * self.weight - second\n"
    )
    torch.save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    settings = {
        "SCORE_ARCHITECTURE": f"{tmp_path}/two.py:Two",
        "SCORE_INPUTS": '{"first": "float32[N, 3]", "second": "float32[N, 3]"}',
    }
    with running(tmp_path / "model.pt", tmp_path, **settings) as server:
        for tab in opened(chromium, server):
            tab.fill("#input-first", "[[5, 1, 1]]")
            tab.fill("#input-second", "[[1, 1, 9]]")
            tab.click("#send")
            tab.wait_for_selector("#bars")
            assert tab.locator("#bars .bar b").all_text_contents() == ["4", "0", "-8"]
            assert "%" not in tab.text_content("#bars")
            kept(tab, "several")
