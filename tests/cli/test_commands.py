"""The command line, as a user types it."""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import pickle
import pty
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from models.digits_cnn import DigitsCNN
from models.simple_model import SimpleModel
from score import __version__
from score.cli.app import app
from score.errors import ScoreError, every_error
from score.weights.hashing import file_sha256
from tests.real_server import environment

KEYS = ["path", "format", "bytes", "sha256", "weights_path", "tensors", "parameters", "dtypes", "prefix", "candidates",
        "unsafe_globals", "architecture", "metadata", "architecture_kwargs", "known_as", "damaged",
        "tensor_list"]  # fmt: skip


def score(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_inspect_prints_one_object_with_the_designs_keys(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    state = {f"module.{name}": value for name, value in SimpleModel().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, path)
    command = [Path(sys.executable).parent / "score", "inspect", path, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    found = json.loads(done.stdout)
    assert list(found) == KEYS
    assert found == {
        "path": str(path),
        "format": "torch-zip",
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "weights_path": "state_dict",
        "tensors": 2,
        "parameters": 22,
        "dtypes": {"float32": 2},
        "prefix": "module.",
        "candidates": [{"path": "state_dict", "kind": "weights", "tensors": 2, "parameters": 22, "bytes": 88}],
        "unsafe_globals": [],
        "architecture": "SimpleModel",
        "metadata": {"devices": ["cpu"], "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        "architecture_kwargs": {},
        "known_as": None,
        "damaged": [],
        "tensor_list": [
            {"name": "module.linear.weight", "dtype": "float32", "shape": [2, 10], "bytes": 80},
            {"name": "module.linear.bias", "dtype": "float32", "shape": [2], "bytes": 8},
        ],
    }


def test_inspect_refuses_with_the_same_keys_each_time(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"lmgg" + bytes(20))
    done = score("inspect", tmp_path, "--json")
    assert done.exit_code == 3
    found = json.loads(done.stdout)
    assert list(found) == ["path", "format", "error", "unsafe_globals"]
    assert found["format"] == "foreign"
    assert {"code", "message", "hint"} <= set(found["error"])
    assert "GGML" in found["error"]["message"]


def test_a_digest_that_was_begun_early_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("score.weights.hashing.WORTH_A_THREAD", 10)
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    wanted = hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    for given in (tmp_path, tmp_path / "model.pt"):
        assert json.loads(score("inspect", given, "--json").stdout)["sha256"] == wanted
    assert score("inspect", tmp_path / "missing", "--json").exit_code == 3


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff"))
    folder.mkdir()
    assert score("inspect", folder, "--json").exit_code == 3
    torch.save({"a\ud800": {"b": torch.ones(2)}}, folder / "x.pt")
    found = json.loads(score("inspect", folder, "--json").stdout)
    assert found["path"].endswith("/m\\xff/x.pt") or found["path"].endswith("/m\\udcff/x.pt")
    assert found["tensors"] == 1


def test_inspect_for_people(digits_folder: Path) -> None:
    done = score("inspect", digits_folder / "torch-zip-training")
    assert done.exit_code == 0
    for said in ("torch-zip", "model_state_dict", "85,452", "DigitsCNN", "yes: plain data"):
        assert said in done.stdout


def test_inspect_lists_the_candidates_of_a_tie(tmp_path: Path) -> None:
    state = SimpleModel().state_dict()
    torch.save({"a": state, "b": {k: v.clone() for k, v in state.items()}}, tmp_path / "model.pt")
    found = json.loads(score("inspect", tmp_path, "--json").stdout)
    assert found["weights_path"] is None
    assert [candidate["path"] for candidate in found["candidates"]] == ["a", "b"]


@pytest.mark.parametrize("name", ["torch-zip", "torch-legacy-module", "torchscript", "torch-export"])
def test_check_answers_a_made_up_request(digits_folder: Path, name: str) -> None:
    done = score("check", digits_folder / name)
    assert done.exit_code == 0, done.output
    assert "float32[N, 1, 8, 8]" in done.stdout
    assert "answers {" in done.stdout
    assert "ready to serve" in done.stdout


def test_check_says_when_it_has_nothing_to_try(tmp_path: Path) -> None:
    torch.save(torch.nn.LSTM(3, 4).state_dict(), tmp_path / "model.pt")
    kwargs = {"SCORE_ARCHITECTURE": "torch.nn:LSTM", "SCORE_ARCHITECTURE_KWARGS": '{"input_size": 3, "hidden_size": 4}'}
    done = CliRunner().invoke(app, ["check", str(tmp_path)], env=kwargs)
    assert done.exit_code == 3
    assert "ERROR inputs_unknown" in done.stderr
    done = CliRunner().invoke(app, ["check", str(tmp_path)], env=kwargs | {"SCORE_INPUTS": "float32[L, 1, 3]"})
    assert done.exit_code == 0, done.output


def test_predict(tmp_path: Path, digits_folder: Path, held_back: tuple[torch.Tensor, torch.Tensor],
                 trained: tuple[DigitsCNN, Any]) -> None:  # fmt: skip
    body = tmp_path / "request.json"
    body.write_text(json.dumps({"data": held_back[0][:2].tolist()}))
    done = score("predict", body, "--model", digits_folder / "safetensors")
    assert done.exit_code == 0, done.output
    with torch.inference_mode():
        wanted = trained[0](held_back[0][:2])
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)["predictions"]), wanted, rtol=1e-4, atol=1e-4)
    body.write_text('{"data": [[1, 2], [3]]}')
    done = score("predict", body, "--model", digits_folder / "safetensors")
    assert done.exit_code == 4
    assert "ERROR ragged_rows" in done.stderr


@pytest.mark.parametrize("source", ["torch-zip-training", "torch-legacy", "torch-zip-module", "torchscript"])
@pytest.mark.parametrize("to", ["safetensors", "torch-export"])
def test_convert(tmp_path: Path, digits_folder: Path, source: str, to: str, trained: tuple[DigitsCNN, Any]) -> None:
    if (source, to) == ("torchscript", "torch-export"):
        pytest.skip("torch.export takes no TorchScript")
    output = tmp_path / "out"
    done = score("convert", digits_folder / source, output, "--to", to)
    assert done.exit_code == 0, done.output
    found = json.loads(score("inspect", output, "--json").stdout)
    assert (found["format"], found["tensors"], found["parameters"]) == (to, 18, 85452)
    assert score("check", output).exit_code == 0


def test_wrong_usage_is_2() -> None:
    assert score("inspect").exit_code == 2
    assert score("fly").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "MODEL", "--html", "NOWHERE"),
        ("inspect", "MODEL", "MODEL", "--html", "NOWHERE"),
        ("convert", "MODEL", "NOWHERE"),
        ("convert", "MODEL", "FOLDER"),
        ("predict", "NOWHERE", "--model", "MODEL"),
        ("predict", "FOLDER", "--model", "MODEL"),
        ("package", "MODEL", "-o", "MODEL/below"),
    ],
    ids=" ".join,
)
def test_a_file_that_cant_be_opened_is_wrong_usage_and_no_traceback(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    places = {"MODEL": tmp_path / "model.pt", "NOWHERE": tmp_path / "no" / "where", "FOLDER": tmp_path}
    done = score(*(places.get(each, each.replace("MODEL", str(tmp_path / "model.pt"))) for each in arguments))
    assert done.exit_code == 2, done.output
    assert str(tmp_path) in "".join(done.stderr.replace("│", "").split())
    assert "Traceback" not in done.output


def test_help_names_every_command_and_exit_code() -> None:
    shown = score("--help").stdout
    assert all(name in shown for name in ("inspect", "check", "serve", "predict", "convert", "package", "explain"))
    assert re.findall(r"^ ([0-4])  \w", shown, re.M) == ["0", "1", "2", "3", "4"]


def test_the_version_is_the_packages() -> None:
    assert score("--version").stdout == f"loadstone {importlib.metadata.version('loadstone')}\n"
    assert importlib.metadata.version("loadstone") == __version__


@pytest.mark.parametrize("kind", list(every_error()), ids=lambda kind: kind.code)
def test_explain_says_what_an_error_means(kind: type[ScoreError]) -> None:
    shown = score("explain", kind.code).stdout
    assert f"ERROR {kind.code}: {kind.example}\nWhat to do: {kind.hint}\n" in shown
    assert re.match(r"[A-Z`].*\((HTTP \d{3}|the model can't be loaded: exit code 3)\)\.\n", shown)


def test_explain_lists_all_codes_and_knows_no_others() -> None:
    listed = [line.split()[0] for line in score("explain").stdout.splitlines()]
    assert listed == [kind.code for kind in every_error()]
    done = score("explain", "no_such_code")
    assert done.exit_code == 2
    assert "no_such_code" in done.output


def test_the_shell_completes_commands_and_codes() -> None:
    def completed(*words: str) -> list[str]:
        asked = {"_SCORE_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        command = [Path(sys.executable).parent / "score"]
        return subprocess.run(command, capture_output=True, text=True, env=environment(**asked)).stdout.split()

    assert completed("score", "in") == ["inspect"]
    assert completed("score", "explain", "wrong_s") == ["wrong_shape"]


def test_progress_is_shown_in_a_terminal_and_nowhere_else(tmp_path: Path, digits_folder: Path) -> None:
    command = [Path(sys.executable).parent / "score", "convert", digits_folder / "torch-zip", tmp_path / "out"]
    piped = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert (piped.returncode, piped.stderr) == (0, "")

    main, terminal = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment(TERM="xterm"))
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end was closed
        while piece := os.read(main, 4096):
            shown += piece
    os.close(main)
    output, _ = process.communicate()
    assert process.returncode == 0
    assert b"converting torch-zip" in shown
    assert output.startswith(b"wrote ")


class Command:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch /tmp/score-was-here",)


def _zip_of(content: bytes, name: str = "notes/model.bin") -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "hello")
        archive.writestr(name, content)
    return written.getvalue()


DANGEROUS = {
    "protocol 0": pickle.dumps(Command(), 0),
    "protocol 1": pickle.dumps(Command(), 1),
    "protocol 4": pickle.dumps(Command(), 4),
    "by name": b"cposix\nsystem\n(S'true'\ntR.",
    "by instance": b"(S'true'\nios\nsystem\n.",
    "a second stream": pickle.dumps([1, 2]) + pickle.dumps(Command()),
    "cut short": pickle.dumps([Command(), list(range(1000))])[:-900],
    "in a zip": _zip_of(pickle.dumps(Command())),
    "in a zip in a zip": _zip_of(_zip_of(pickle.dumps(Command(), 0))),
}


@pytest.mark.parametrize("name", DANGEROUS)
def test_a_refusal_names_what_the_file_would_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(DANGEROUS[name])
    done = score("inspect", tmp_path / "model.pkl", "--json")
    assert done.exit_code == 3, done.stdout
    found = json.loads(done.stdout)
    assert {item.rpartition(".")[2] for item in found["unsafe_globals"]} == {"system"}
