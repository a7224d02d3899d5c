"""Mutate checkpoints of every format, and bodies of every codec: each ends as it should, or in an error of ours.

    python -m tests.fuzz [--mutants 20000] [--bodies 20000] [--seconds 600] [--seed 0]

A checkpoint goes through `score check`, and so is served where it loads; a body through a small model. A worker process
of bounded memory does it, so that a crash or a hang is seen from outside and blamed on the mutant that made it; the
seed and the number of a mutant make it again (`--only NUMBER`, `--only-body NUMBER`).

Half of the mutants of an archive have one record changed, and the archive written again with its right checksum: what
is in a record has to be judged by itself.
"""

import argparse
import contextlib
import faulthandler
import io
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path
from typing import Any

INTERESTING = [
    *(b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff" * 8, b"\x00" * 8),
    *(b"cos\nsystem\n", b"(", b".", b"R", b"b", b"q", b"../", b"PK\x05\x06", b"9" * 30, b"-1", b"null"),
]
LARGEST_LOADED = 64 << 20
SECONDS_A_MUTANT = 20
MOST_MEMORY = 6 << 30
ENDS = (0, 3, 4)  # of `score check`: it serves; it can't be loaded; it loads, and rejects the made-up request


# Small files that took very long, or very much memory, of `tests.test_hardened`.
HOSTILE = (
    "a parameter that holds itself", "a list that is copied", "arguments that are shared", "a state that is shared",
    "a key of dots", "a tensor's name of dots",
)  # fmt: skip


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to eight random edits."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        if not data:
            break
        at = chance.randrange(len(data))
        length = chance.choice([1, 1, 2, 4, 8, 64, 1024])
        kind = chance.randrange(7)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            piece = chance.choice(INTERESTING)
            data[at : at + len(piece)] = piece
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            other = chance.randrange(len(data))
            data[at : at + length] = data[other : other + length]
        else:
            del data[at:]
    return bytes(data)


def mutated_file(content: bytes, chance: random.Random) -> bytes:
    """A file with some bytes changed; of an archive, as often, one of its records."""
    if not content.startswith(b"PK\x03\x04") or chance.random() < 0.5:
        return mutated(content, chance)
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        records = {info.filename: old.read(info) for info in old.infolist()}
        victim = chance.choice([name for name, record in records.items() if record] or list(records))
        records[victim] = _mutated_text(records[victim], chance)
        for name, record in records.items():
            new.writestr(name, record)
    return written.getvalue()


def _mutated_text(content: bytes, chance: random.Random) -> bytes:
    """As likely as not, a word of a text is put in another's place: a graph or a program that still reads."""
    words = re.findall(rb"[\w.]+", content[:1_000_000])
    if not words or b"\0" in content[:1000] or chance.random() < 0.5:
        return mutated(content, chance)
    for _ in range(chance.choice([1, 1, 2, 5])):
        one, other = chance.choice(words), chance.choice([*words, *_WORDS])
        places = [match.start() for match in re.finditer(re.escape(one), content)]
        if places:
            at = chance.choice(places)
            content = content[:at] + other + content[at + len(one) :]
    return content


_WORDS = [
    b"torch.save",
    b"aten.from_file",
    b"99999999999",
    b"-1",
    b"null",
    b"forward",
    b"__class__",
    b"while",
    b"1e400",
]


def seeds(folder: Path) -> list[Path]:
    """A checkpoint of every format, and some that were made to do harm, each in a folder of its own."""
    from tests.makers import MAKERS, PROGRAMS
    from tests.test_hardened import FILES

    found = []
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for name, make in MAKERS.items():
            (folder / name).mkdir()
            make(folder / name)
            found.append(folder / name)
        for name, make in PROGRAMS.items():
            (folder / name).mkdir()
            make(folder / name)
            found.append(folder / name)
        for at, name in enumerate(HOSTILE):
            (folder / f"hostile-{at}").mkdir()
            (folder / f"hostile-{at}" / "model.pt").write_bytes(FILES[name][0]())
            found.append(folder / f"hostile-{at}")
    return found


def read(path: Path) -> None:
    """Everything that is done with a checkpoint: inspect it, bring every tensor in, load it, answer a request."""
    import orjson
    from typer.testing import CliRunner

    from score.cli.app import app
    from score.cli.inspection import inspect
    from score.errors import LoadError
    from score.formats.registry import open_checkpoint
    from score.settings import Settings
    from score.weights import select
    from score.weights.locate import find_checkpoint

    with contextlib.suppress(LoadError):  # score.toml, mutated
        orjson.dumps(inspect(path, Settings.load(path)), default=str)
    with contextlib.suppress(LoadError):
        checkpoint = open_checkpoint(find_checkpoint(Settings.load(path)).path)
        for candidate in select.candidates(checkpoint):
            for ref in candidate.tensors.values():
                if ref.nbytes <= LARGEST_LOADED:
                    with contextlib.suppress(LoadError):
                        ref.load()
    done = CliRunner().invoke(app, ["check", str(path)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in ENDS, (done.exit_code, done.output)


def bodies() -> list[tuple[bytes, str, int | None]]:
    """A body of every kind: its bytes, its content type, and how much of it is JSON."""
    import numpy as np
    import orjson
    from PIL import Image

    from score.codecs._npy import write_array

    rows = np.random.default_rng(0).random((3, 4), np.float32)
    tensor = {"name": "input", "shape": [3, 4], "datatype": "FP32"}
    head = orjson.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": rows.nbytes}}], "id": "a"})
    npz, picture = io.BytesIO(), Image.fromarray((rows[..., None].repeat(3, 2) * 255).astype("uint8"))
    np.savez_compressed(npz, input=rows)
    written = {}
    for kind in ("PNG", "JPEG"):
        written[kind] = io.BytesIO()
        picture.save(written[kind], kind)
    split = {"columns": ["a", "b", "c", "d"], "index": [0, 1, 2], "data": rows.tolist()}
    documents = (
        *({"data": rows.tolist()}, {"inputs": {"input": rows.tolist()}}, {"instances": [{"input": rows[0].tolist()}]}),
        *({"input_data": split}, {"dataframe_split": split}, {"data": rows.tolist(), "parameters": {"top_k": 2}}),
        {"inputs": [tensor | {"data": rows.reshape(-1).tolist()}], "outputs": [{"name": "output"}]},
    )
    return [
        *((orjson.dumps(document), "application/json", None) for document in documents),
        (head + rows.tobytes(), "application/octet-stream", len(head)),
        (write_array(rows), "application/x-npy", None),
        (npz.getvalue(), "application/x-npz", None),
        (written["PNG"].getvalue(), "image/png", None),
        (written["JPEG"].getvalue(), "image/jpeg", None),
    ]


def ask(served: Any, body: bytes, kind: str, length: int | None) -> None:
    """Have a model answer a body as `run()` does."""
    from score.codecs import registry as codecs
    from score.errors import RequestError

    with contextlib.suppress(RequestError):
        length = length if length is None or length <= len(body) else None
        request = codecs.Body(body, kind, length, 2_000_000)
        codec = codecs.choose(request)
        decoded = codec.decode(request)
        outputs = served.predict(served.preprocess(decoded))
        codecs.for_answer(codec, None).encode(served.postprocess(outputs, None), decoded)


def work_bodies(folder: Path, seed: int, first: int, last: int) -> None:
    """Ask bodies `first` to `last`, as `work` reads mutants."""
    import torch

    from score.inference import pipeline
    from score.settings import Settings

    _bounded()
    target = folder / "asked"
    target.mkdir(exist_ok=True)
    torch.save(torch.nn.Linear(4, 3).state_dict(), target / "model.pt")
    (target / "net.py").write_text("from torch import nn\n\ndef Net():\n    return nn.Linear(4, 3)\n")
    recipe = {"mean": [0.5], "std": [0.5], "resize": [1, 4]}
    served = pipeline.load_model(
        Settings.load(
            target / "model.pt", architecture="net.py:Net", inputs="float32[N, 4]", image=recipe, device="cpu"
        )
    )
    kinds = bodies()
    for number in range(first, last):
        chance = random.Random(f"{seed} body {number}")
        content, kind, length = kinds[number % len(kinds)]
        change = _mutated_text if kind == "application/json" else mutated_file
        print(number, kind, "", flush=True)
        signal.alarm(SECONDS_A_MUTANT)
        try:
            ask(served, change(content, chance), kind, length)
        except Exception:  # noqa: BLE001  # whatever it is, it is what this looks for
            traceback.print_exc()
            sys.exit(1)
        signal.alarm(0)
    print("ok", flush=True)


def _bounded() -> None:
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    os.environ["SCORE_STUCK_AFTER_MS"] = "0"  # the alarm is what counts here
    os.environ["HF_HUB_OFFLINE"] = "1"
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("a mutant took too long")))


def work(folder: Path, seed: int, first: int, last: int) -> None:
    """Read mutants `first` to `last`; print each number before and `ok` at the end. Exits 1 on a wrong exception."""
    _bounded()
    sources = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in ("mutant", "asked"))
    for number in range(first, last):
        chance = random.Random(f"{seed} {number}")
        source = sources[number % len(sources)]
        target = folder / "mutant"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        files = sorted(path for path in target.rglob("*") if path.is_file())
        victim = chance.choice(files)
        victim.write_bytes(mutated_file(victim.read_bytes(), chance))
        print(number, source.name, victim.name, flush=True)
        signal.alarm(SECONDS_A_MUTANT)
        try:
            read(target)
        except Exception:  # noqa: BLE001  # whatever it is, it is what this looks for
            traceback.print_exc()
            sys.exit(1)
        signal.alarm(0)
    print("ok", flush=True)


def run(mutants: int, seconds: float, seed: int, what: str = "--worker") -> int:
    """How many mutants were read, or bodies asked. Raises `AssertionError` naming the one that broke something."""
    deadline, done, batch = time.monotonic() + seconds, 0, 250 if what == "--worker" else 2000
    with tempfile.TemporaryDirectory() as name:
        if what == "--worker":
            seeds(Path(name))
        while done < mutants and time.monotonic() < deadline:
            last = min(done + batch, mutants)
            command = [sys.executable, "-m", "tests.fuzz", what, name, str(seed), str(done), str(last)]
            timeout = batch * SECONDS_A_MUTANT
            worker = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
            lines = worker.stdout.splitlines()
            if worker.returncode or lines[-1:] != ["ok"]:
                said = f"exit {worker.returncode}:\n{worker.stderr[-3000:]}"
                raise AssertionError(f"mutant {lines[-1:]} of seed {seed} ({what}), {said}")
            done = last
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--bodies", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--only-body", type=int)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--body-worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker or options.body_worker:
        folder, seed, first, last = options.worker or options.body_worker
        (work if options.worker else work_bodies)(Path(folder), int(seed), int(first), int(last))
    elif options.only_body is not None:
        with tempfile.TemporaryDirectory() as name:
            work_bodies(Path(name), options.seed, options.only_body, options.only_body + 1)
    elif options.only is not None:
        with tempfile.TemporaryDirectory() as name:
            seeds(Path(name))
            work(Path(name), options.seed, options.only, options.only + 1)
    else:
        asked = run(options.bodies, options.seconds / 4, options.seed, "--body-worker")
        print(f"{asked:,} bodies: each was answered or refused")
        checked = run(options.mutants, options.seconds * 3 / 4, options.seed)
        print(f"{checked:,} mutants: each is served or refused")


if __name__ == "__main__":
    main()
