"""What a process gives up, as the kernel has it; in processes of their own, since it is for good."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from score.errors import ConfinementUnavailable
from score.inference import confine
from score.settings import Settings

CONFINED = """
import os, socket, subprocess, sys, tempfile
from score.inference import confine
from score.settings import Settings
done = confine.confine(Settings(confine=sys.argv[1]))
def tried(what):
    try:
        what()
        return "yes"
    except OSError:
        return "no"
found = {
    "write": tried(lambda: open(sys.argv[2], "w")),
    "write a temporary file": tried(lambda: tempfile.TemporaryFile()),
    "run": tried(lambda: subprocess.run(["/bin/true"])),
    "connect": tried(lambda: socket.socket(socket.AF_INET)),
    "read": tried(lambda: open(__import__("score").__file__)),
}
print(*done); print(found)
"""


def confined(how: str, where: Path, temporary: Path) -> tuple[list[str], dict[str, str]]:
    """The temporary folder is said: the project may lie in the machine's own."""
    command, given = [sys.executable, "-c", CONFINED, how, where], os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    said, found = done.stdout.splitlines()
    return said.split(), ast.literal_eval(found)


def test_what_is_given_up_is_what_is_said(tmp_path: Path) -> None:
    place = Path(__file__).with_name("written-by-a-test")
    try:
        said, found = confined("auto", place, tmp_path)
        assert found["read"] == found["write a temporary file"] == "yes"
        assert found["write"] == ("no" if "landlock" in said else "yes")
        assert found["run"] == found["connect"] == ("no" if "seccomp" in said else "yes")
        assert "no-new-privileges" in said
    finally:
        place.unlink(missing_ok=True)


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    said, found = confined("off", tmp_path / "x", tmp_path)
    assert said == ["off"]
    assert set(found.values()) == {"yes"}


def test_where_it_is_required_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(settings: Settings) -> None:
        raise OSError("an old kernel")

    monkeypatch.setattr(confine, "_STEPS", {"landlock": missing})
    with pytest.raises(ConfinementUnavailable, match=r"landlock \(OSError: an old kernel\)"):
        confine.confine(Settings(confine="require"))
    assert confine.confine(Settings(confine="auto")) == ()


def test_what_has_to_be_sent_from_here_may_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not confine._exports(Settings())
    assert confine._exports(Settings(collect_data=True))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert confine._exports(Settings())
