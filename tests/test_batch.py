"""Batch scoring: files in, a row for each prediction out, as the batch driver calls it."""

import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from score import batch
from score.codecs import _tables as tables
from score.errors import RequestError
from tests.real_server import ROOT, environment, running


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch") / "model"
    folder.mkdir()
    torch.manual_seed(5)
    torch.save(torch.nn.Sequential(torch.nn.Linear(10, 2)), folder / "model.pt")
    return folder


@pytest.fixture
def ready(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(model_dir))
    batch.init()
    yield


def write(folder: Path, name: str, rows: np.ndarray) -> str:
    """A table in the format of its name."""
    path = folder / name
    columns = [f"c{at}" for at in range(rows.shape[1])]
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".csv":
        pandas.DataFrame(rows, columns=columns).to_csv(path, index=False, header="bare" not in name)
    elif path.suffix == ".parquet":
        frame = pandas.DataFrame({"row": list(rows)}) if "lists" in name else pandas.DataFrame(rows, columns=columns)
        frame.to_parquet(path)
    else:
        named = "named" in name
        path.write_text("".join(json.dumps({"input": row} if named else row) + "\n" for row in rows.tolist()))
    return str(path)


KINDS = ["a.npy", "b.csv", "c-bare.csv", "d.parquet", "e-lists.parquet", "f.jsonl", "g-named.jsonl"]


def test_ten_thousand_rows_in_many_files_are_answered_as_online(
    ready: None, model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.random.default_rng(0).random((10_000, 10)).astype(np.float32)
    files = [write(tmp_path, f"{at:02}{KINDS[at % len(KINDS)]}", part) for at, part in enumerate(np.split(rows, 40))]
    with caplog.at_level(logging.INFO, "azmlinfsrv.score"):
        # The driver hands over some files at a time, and appends what comes back.
        found = pandas.concat([batch.run(files[at : at + 7]) for at in range(0, 40, 7)], ignore_index=True)
    assert list(found.columns) == ["file", "row", "prediction_0", "prediction_1"]
    assert len(found) == 10_000
    assert found["file"].tolist() == [name for name in files for _ in range(250)]
    assert found["row"].tolist() == list(range(250)) * 40
    assert any("250 rows in" in message for message in caplog.messages)

    (tmp_path / "log").mkdir()
    with running(model_dir, tmp_path / "log") as server:
        online = np.concatenate(
            [server.post({"data": part.tolist()}).json["predictions"] for part in np.split(rows, 10)]
        )
    np.testing.assert_allclose(found[["prediction_0", "prediction_1"]].to_numpy(), online, rtol=1e-4, atol=1e-5)


def test_a_bad_file_is_named_and_fails_nothing_else(ready: None, tmp_path: Path) -> None:
    good = np.ones((70, 10), np.float32)
    wrong_width = write(tmp_path, "narrow.npy", good[:, :9])
    (tmp_path / "text.csv").write_text("a,b\nx,y\n")
    (tmp_path / "late.jsonl").write_text("".join(json.dumps([1.0] * 10) + "\n" for _ in range(70)) + "[1.0\n")
    (tmp_path / "what.txt").write_text("?")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    names = [
        write(tmp_path, "good.npy", good), wrong_width, str(tmp_path / "text.csv"), str(tmp_path / "late.jsonl"),
        str(tmp_path / "what.txt"), str(tmp_path / "damaged.parquet"), str(tmp_path / "missing.npy"),
        write(tmp_path, "other.csv", good),
    ]  # fmt: skip
    found = batch.run(names)
    errors = {Path(row.file).name: (row.row, row.error) for row in found.dropna(subset=["error"]).itertuples()}
    assert set(errors) == {"narrow.npy", "text.csv", "late.jsonl", "what.txt", "damaged.parquet", "missing.npy"}
    assert "model_rejected" in errors["narrow.npy"][1]
    assert "columns a, b are not numbers" in errors["text.csv"][1]
    assert errors["late.jsonl"][0] == 64, "what came before the bad line is kept"
    assert "line 71" in errors["late.jsonl"][1]
    assert "unsupported_media_type" in errors["what.txt"][1]
    answered = found[found["error"].isna()]["file"].map(lambda name: Path(name).name).value_counts()
    assert answered.to_dict() == {"good.npy": 70, "other.csv": 70, "late.jsonl": 64}


@pytest.mark.parametrize("name", ["a.npy", "b.csv", "d.parquet", "f.jsonl"])
def test_any_bytes_are_a_table_or_refused(name: str, tmp_path: Path) -> None:
    for content in (
        b"",
        b"\x00" * 50,
        b"\xff\xfe\x00",
        b"{}",
        b'{"a": [1]}\n[2]\n',
        b"PAR1PAR1",
        b"1,2\n3\n",
        b"\x93NUMPY",
    ):
        (tmp_path / name).write_bytes(content)
        try:
            for _ in tables.chunks(tmp_path / name, 4):
                pass
        except RequestError as error:
            assert error.message


def test_a_file_larger_than_its_share_of_memory_streams(model_dir: Path, tmp_path: Path) -> None:
    """400 MB of rows, answered in a process whose own memory stays below a quarter of that above what it began with."""
    path = tmp_path / "large.npy"
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (10_000_000, 10))
    rows[:] = 1
    rows.flush()
    code = """
    import os, re, sys
    from score import batch
    from score.codecs import _tables as tables
    batch.init()
    def own():
        return sum(map(int, re.findall(r"^Private_Dirty:\\s+(\\d+)", open("/proc/self/smaps_rollup").read(), re.M)))
    before, most, count = own(), 0, 0
    for frame in batch._answered(__import__("pathlib").Path(sys.argv[1])):
        count += len(frame)
        if count % 1_000_000 < 65_536:
            most = max(most, own())
    print(count, most - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), path]
    variables: dict[str, Any] = environment(AZUREML_MODEL_DIR=str(model_dir), SCORE_MAX_BATCH="65536")
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=variables)
    path.unlink()  # pytest keeps the folders of the last runs
    count, grown = map(int, found.stdout.split())
    assert count == 10_000_000
    assert grown < 100_000


def test_pictures_are_a_row_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Azure's mnist sample sends them: many small files, of which one is none."""
    from PIL import Image

    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(1)
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    torch.jit.script(layers).save(folder / "model.pt")
    recipe = {"resize": [8, 8], "mean": [0.0], "std": [1.0], "scale": 1 / 255}
    (folder / "score.toml").write_text(f"inputs = 'float32[N, 1, 8, 8]'\nimage = '{json.dumps(recipe)}'\n")
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(folder))
    batch.init()
    names = []
    for at in range(20):
        pixels = np.random.default_rng(at).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{at}.png")
        names.append(str(tmp_path / f"{at}.png"))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    found = batch.run([*names, str(tmp_path / "broken.png")])
    assert list(found["file"]) == [*names, str(tmp_path / "broken.png")]
    assert found["error"].notna().tolist() == [False] * 20 + [True]
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([np.asarray(Image.open(name)) for name in names])).float()[:, None] / 255
        wanted = layers(pixels).numpy()
    numbers = found[[f"prediction_{at}" for at in range(10)]].to_numpy()[:20]
    np.testing.assert_allclose(numbers, wanted, atol=1e-4)
