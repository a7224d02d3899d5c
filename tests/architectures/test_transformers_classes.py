"""Every class in transformers' auto mappings that can be built tiny: this server's module is the one that
`from_pretrained` makes, in its state and in what it answers.

`make test-transformers` tries all, and shows how many were equal and why others were not tried; a sample runs with the
fast tests.
"""

import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from score.inference import pipeline
from score.settings import Settings
from tests.architectures import transformers_models as tiny

pytest.importorskip("transformers")


def _compare(name: str, folder: Path) -> None:
    wanted = tiny.saved(tiny.built(name), folder)
    ours = pipeline.load_model(Settings.load(folder, device="cpu")).module
    tiny.compare_state(ours, wanted)
    given = tiny.inputs(wanted)
    answer = tiny.answered(wanted, given)
    assert tiny.compare_outputs(ours, given, answer) > 0


@pytest.mark.parametrize("name", tiny.SAMPLE)
def test_a_class_of_transformers(name: str, tmp_path: Path) -> None:
    _compare(name, tmp_path)


@pytest.mark.slow
def test_every_class_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    equal: list[str] = []
    skipped: dict[str, list[str]] = defaultdict(list)
    different: dict[str, str] = {}
    for name in tiny.classes():
        folder = tmp_path / name
        try:
            _compare(name, folder)
            equal.append(name)
        except pytest.skip.Exception as reason:
            skipped[str(reason)].append(name)
        except Exception as error:  # noqa: BLE001  # all are tried before this says which fail
            different[name] = f"{type(error).__name__}: {str(error)[:300]}"
        shutil.rmtree(folder, ignore_errors=True)
    with capsys.disabled():
        print(f"\n{len(tiny.classes())} classes; equal in state and outputs: {len(equal)}; different: {len(different)}")
        for reason, names in sorted(skipped.items(), key=lambda item: -len(item[1])):
            print(f"{len(names):>4}  {reason}\n      {', '.join(names)}")
    assert not different
    assert len(equal) >= 600
