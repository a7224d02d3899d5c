"""The pages say what is so: written from the code, run as they stand, and linked to what is there."""

import importlib.util
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

import models
from models import registered
from score.codecs import registry as codecs
from score.errors import ArchitectureUndecided, NotAcceptable, NotNumeric, UnsupportedMediaType
from score.formats import registry
from score.inference.pipeline import load_model
from score.settings import Settings
from score.weights import select
from score.weights.locate import find_checkpoint
from tests.real_server import environment
from tools import http_page, settings_page, site

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def test_the_settings_page_is_up_to_date() -> None:
    assert settings_page.PAGE.read_text() == settings_page.rendered(), "run: python -m tools.settings_page"


def test_the_tables_of_bodies_and_tasks_are_up_to_date() -> None:
    assert (http_page.DOCS / "http.md").read_text() == http_page.http(), "run: python -m tools.http_page"
    assert (http_page.DOCS / "tasks.md").read_text() == http_page.tasks(), "run: python -m tools.http_page"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found: set[str] = set()
    for kind, heading in site.outside_code(page.read_text()):
        if kind == "text" and (match := re.match(r"#+ (.+)", heading)):
            found.add(re.sub(r"[^\w\- ]", "", match[1]).strip().lower().replace(" ", "-"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_what_is_there(name: str) -> None:
    page = ROOT / name
    broken = []
    for link in site.links(page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [name for name in NAMES if f" {site.placed(name)}\n" not in menu] == []


def examples() -> Iterator[tuple[str, str]]:
    """The worked examples of CONTRIBUTING.md: what each is of, and its code."""
    sections = re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M)[1:]
    for section in sections:
        if code := re.search(r"```python\n(.*?)```", section, re.S):
            yield section.partition("\n")[0], code[1]


def example(title: str, name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(dict(examples())[title], vars(module))
    return module


def test_the_format_in_contributing_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("A format", "raw")
    known = {**registry.formats(), module.NAME: module}
    monkeypatch.setattr(registry, "formats", lambda: known)
    numpy.eye(3, 4, dtype=numpy.float32).tofile(tmp_path / "weights.f32")
    (tmp_path / "shape.json").write_text("[3, 4]")
    found = find_checkpoint(Settings.load(tmp_path))
    assert found.format == "raw"
    weights = select.weights_of(registry.open_checkpoint(found.path))
    assert weights is not None
    assert weights.tensors["weight"].load().equal(torch.eye(3, 4))


def test_the_codec_in_contributing_works_as_it_stands(monkeypatch: pytest.MonkeyPatch, digits_folder: Path) -> None:
    body = codecs.Body(b"1\t2\n3\t4.5\n", "text/tab-separated-values")
    with pytest.raises(UnsupportedMediaType):
        codecs.choose(body)
    module = example("A codec", "tsv")
    known = dict(sorted({**codecs.codecs(), "tsv": module}.items(), key=lambda item: -item[1].PRIORITY))
    monkeypatch.setattr(codecs, "codecs", lambda: known)
    codec = codecs.choose(body)
    decoded = codec.decode(body)
    assert isinstance(decoded.arrays, numpy.ndarray)
    assert decoded.arrays.tolist() == [[1, 2], [3, 4.5]]
    encoded = codec.encode(decoded.arrays, decoded)
    assert (encoded.body, encoded.content_type) == (b"1\t2\n3\t4.5\n", "text/tab-separated-values")
    assert codecs.for_answer(codecs.codecs()["json"], "text/tab-separated-values") is module
    with pytest.raises(NotNumeric, match="rows of numbers"):
        codec.decode(codecs.Body(b"1\tx\n", "text/tab-separated-values"))
    with pytest.raises(NotAcceptable):
        codec.encode({"a": decoded.arrays, "b": decoded.arrays}, decoded)


def test_the_architecture_in_contributing_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_REGISTERED", registered())
    place = tmp_path / "autoencoder.py"
    place.write_text(dict(examples())["An architecture"])
    spec = importlib.util.spec_from_file_location("autoencoder", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "autoencoder", module)
    spec.loader.exec_module(module)

    net = nn.ModuleDict({"encoder": nn.Linear(6, 3), "decoder": nn.Linear(3, 6)})
    model = tmp_path / "model"
    model.mkdir()
    torch.save(net.state_dict(), model / "model.pt")
    with pytest.raises(ArchitectureUndecided, match="output"):
        load_model(Settings.load(model))
    served = load_model(Settings.load(model, architecture_kwargs={"output": "sigmoid"}))
    assert served.report.architecture == "Autoencoder"
    rows = torch.rand(4, 6)
    wanted = net["decoder"](net["encoder"](rows).relu()).sigmoid()
    torch.testing.assert_close(torch.as_tensor(served.predict({"x": rows})), wanted)


def blocks(page: str, command: str) -> str:
    """What a page shows below a command in a console block."""
    found = re.search(rf"^\$ {re.escape(command)}\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
    assert found is not None
    return found[1]


def printed(folder: Path, *command: str, **variables: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).parent / "score", *command], cwd=folder, capture_output=True, text=True,
        env=environment(**variables),
    )  # fmt: skip
    shown = (done.stdout + done.stderr).replace(f"{folder}/", "/models/")
    return "".join(f"{line.rstrip()}\n" for line in shown.rstrip().splitlines())


def test_the_screen_of_inspect_is_as_shown(tmp_path: Path, digits_folder: Path) -> None:
    def without_digest(text: str) -> str:
        return re.sub(r"^sha256 .*$", "sha256", text, flags=re.M)

    (tmp_path / "checkpoint.pt").write_bytes((digits_folder / "torch-zip-training" / "checkpoint.pt").read_bytes())
    shown = printed(tmp_path, "inspect", "checkpoint.pt")
    assert without_digest(shown) == without_digest(blocks("docs/command-line.md", "score inspect checkpoint.pt"))


def test_the_error_in_the_readme_is_as_shown(tmp_path: Path, digits_folder: Path) -> None:
    state = torch.load(digits_folder / "torch-zip" / "model.pt", weights_only=True)
    renamed = {f"module.{name.replace('classifier.4', 'head')}": value for name, value in state.items()}
    torch.save({"state_dict": renamed}, tmp_path / "digits.ckpt")
    shown = printed(tmp_path, "check", "digits.ckpt", SCORE_ARCHITECTURE="DigitsCNN")
    assert shown == blocks("README.md", "SCORE_ARCHITECTURE=DigitsCNN .venv/bin/score check digits.ckpt")
