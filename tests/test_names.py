"""Names in files and folders: none steers a terminal, begins a line of the log, or leads in a circle."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from score.cli.app import app
from score.errors import LoadError, one_line, printable
from score.formats.registry import open_checkpoint
from score.inference import pipeline
from score.settings import Settings

EVIL = "\x1b[2J\x1b]0;owned\x07a\nERROR fake: line\r\u202e\x9b31m"


def _clean(text: str) -> bool:
    return not any(ord(char) < 32 and char not in "\n" for char in text) and "\x9b" not in text and "\u202e" not in text


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[2Jb\nc\x00") == "a\\x1b[2Jb\nc\\x00"
    assert one_line("a\nb\tc\u2028") == "a\\nb\\tc\\u2028"
    assert one_line("plain é 漢字") == "plain é 漢字"


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_the_names_of_tensors_and_keys(command: str, tmp_path: Path) -> None:
    state = {f"{EVIL}.weight": torch.rand(3, 4), f"{EVIL}.bias": torch.rand(3)}
    torch.save({EVIL: state, "hyper_parameters": {EVIL: EVIL}}, tmp_path / "model.pt")
    done = CliRunner().invoke(app, [command, str(tmp_path / "model.pt")])
    assert _clean(done.output), ascii(done.output)
    assert not any(line.startswith("ERROR fake") for line in done.output.splitlines())


def test_the_names_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "models\x1b[2J\nERROR fake: x"
    folder.mkdir()
    for name in ("a\x1b[31m.pt", "b\nERROR fake: y.pt"):
        torch.save({"x.weight": torch.rand(2, 2)}, folder / name)
    for target in (folder, folder / "a\x1b[31m.pt", folder / "missing\x1b"):
        for command in ("inspect", "check"):
            done = CliRunner().invoke(app, [command, str(target)])
            assert _clean(done.output), ascii(done.output)
            assert not any(line.startswith("ERROR fake") for line in done.output.splitlines())


def test_the_ignored_tensors_of_a_report(tmp_path: Path) -> None:
    torch.save(
        {"linear.weight": torch.rand(2, 10), "linear.bias": torch.rand(2), EVIL: torch.rand(1)}, tmp_path / "m.pt"
    )
    report = pipeline.load_model(Settings.load(tmp_path / "m.pt", architecture="SimpleModel")).report
    assert report.ignored == (EVIL,)
    assert all(_clean(line) and "\n" not in line for line in report.lines())


def test_links_in_a_circle_are_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "self").symlink_to("self/x")
    for place in (tmp_path, tmp_path / "a", tmp_path / "self"):
        with pytest.raises(LoadError):
            pipeline.load_model(Settings.load(place))
    torch.save({"linear.weight": torch.rand(2, 10), "linear.bias": torch.rand(2)}, tmp_path / "model.pt")
    assert pipeline.load_model(Settings.load(tmp_path)).report.architecture == "SimpleModel"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "MLmodel", ".metadata", "modules.json"])
def test_a_circle_where_a_file_belongs(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to(name)
    with pytest.raises(LoadError):
        pipeline.load_model(Settings.load(tmp_path))
    with pytest.raises(LoadError):
        open_checkpoint(tmp_path, name="hf-dir")


def test_the_names_of_two_checkpoints_that_differ(tmp_path: Path) -> None:
    torch.save({f"{EVIL}.weight": torch.rand(3, 4), "x": torch.rand(2)}, tmp_path / "a.pt")
    torch.save({f"{EVIL}.other": torch.rand(3, 4), "x": torch.rand(3)}, tmp_path / "b.pt")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")])
    assert done.exit_code == 1
    assert _clean(done.output), ascii(done.output)
