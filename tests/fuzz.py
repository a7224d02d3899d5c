"""Mutate every generated checkpoint: each mutant either reads or raises an error of ours.

    python -m tests.fuzz [--mutants 10000] [--seconds 600] [--seed 0]

A worker process reads the mutants, so that a crash or a hang is seen from outside and blamed on the mutant that made
it; the seed and the number of a mutant make it again (`--only NUMBER`).
"""

import argparse
import contextlib
import faulthandler
import io
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

INTERESTING = [
    *(b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff" * 8, b"\x00" * 8),
    *(b"cos\nsystem\n", b"(", b".", b"R", b"b", b"q", b"../", b"PK\x05\x06", b"9" * 30, b"-1", b"null"),
]
LARGEST_LOADED = 64 << 20
SECONDS_A_MUTANT = 10


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


def seeds(folder: Path) -> list[Path]:
    """A checkpoint of every format, each in a folder of its own."""
    from tests.makers import MAKERS

    found = []
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for name, make in MAKERS.items():
            (folder / name).mkdir()
            make(folder / name)
            found.append(folder / name)
    return found


def read(path: Path) -> None:
    """Everything that reading a checkpoint does: inspect it, find the candidates, bring every tensor in."""
    import orjson

    from score import checkpoint
    from score.errors import LoadError
    from score.formats.registry import open_checkpoint
    from score.inspection import inspect
    from score.model_dir import find_checkpoint
    from score.settings import Settings

    orjson.dumps(inspect(path, Settings.load(path)), default=str)
    with contextlib.suppress(LoadError):
        contents = open_checkpoint(find_checkpoint(Settings.load(path)).path)
        for candidate in checkpoint.candidates(contents):
            for ref in candidate.tensors.values():
                if ref.nbytes <= LARGEST_LOADED:
                    with contextlib.suppress(LoadError):
                        ref.load()


def work(folder: Path, seed: int, first: int, last: int) -> None:
    """Read mutants `first` to `last`; print each number before and `ok` at the end. Exits 1 on a wrong exception."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("a mutant took too long")))
    sources = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "mutant")
    for number in range(first, last):
        chance = random.Random(f"{seed} {number}")
        source = sources[number % len(sources)]
        target = folder / "mutant"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        files = sorted(path for path in target.rglob("*") if path.is_file())
        victim = chance.choice(files)
        victim.write_bytes(mutated(victim.read_bytes(), chance))
        print(number, source.name, victim.name, flush=True)
        signal.alarm(SECONDS_A_MUTANT)
        try:
            read(target)
        except Exception:  # noqa: BLE001  # whatever it is, it is what this looks for
            traceback.print_exc()
            sys.exit(1)
        signal.alarm(0)
    print("ok", flush=True)


def run(mutants: int, seconds: float, seed: int) -> int:
    """How many mutants were read. Raises `AssertionError` naming the one that broke something."""
    deadline, done, batch = time.monotonic() + seconds, 0, 500
    with tempfile.TemporaryDirectory() as name:
        seeds(Path(name))
        while done < mutants and time.monotonic() < deadline:
            last = min(done + batch, mutants)
            command = [sys.executable, "-m", "tests.fuzz", "--worker", name, str(seed), str(done), str(last)]
            timeout = batch * SECONDS_A_MUTANT
            worker = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
            lines = worker.stdout.splitlines()
            if worker.returncode or lines[-1:] != ["ok"]:
                said = f"exit {worker.returncode}:\n{worker.stderr[-3000:]}"
                raise AssertionError(f"mutant {lines[-1:]} of seed {seed}, {said}")
            done = last
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        folder, seed, first, last = options.worker
        work(Path(folder), int(seed), int(first), int(last))
    elif options.only is not None:
        with tempfile.TemporaryDirectory() as name:
            seeds(Path(name))
            work(Path(name), options.seed, options.only, options.only + 1)
    else:
        print(f"{run(options.mutants, options.seconds, options.seed):,} mutants: each was read or refused")


if __name__ == "__main__":
    main()
