"""Settings: where they come from, and what is said of a wrong one."""

from pathlib import Path

import pytest

from score.errors import InvalidSetting
from score.settings import Settings


def test_variables_go_over_score_toml_over_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "score.toml").write_text('architecture = "A"\nweights = "ema"\narchitecture_kwargs = { depth = 3 }\n')
    monkeypatch.setenv("SCORE_ARCHITECTURE", "B")
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    settings = Settings.load()
    assert (settings.architecture, settings.weights, settings.device) == ("B", "ema", "auto")
    assert settings.architecture_kwargs == {"depth": 3}
    assert settings.model_dir == tmp_path


def test_values_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = ["A" * 64, "b" * 64]
    monkeypatch.setenv("SCORE_TRUST_SHA256", f"sha256:{digests[0]}, {digests[1]}")
    monkeypatch.setenv("SCORE_ARCHITECTURE_KWARGS", '{"classes": 3}')
    monkeypatch.setenv("SCORE_INPUTS", '{"ids": "int64[N, L]"}')
    monkeypatch.setenv("SCORE_TRUST_CODE", "")
    settings = Settings.load()
    assert settings.trust_sha256 == {"a" * 64, "b" * 64}
    assert settings.architecture_kwargs == {"classes": 3}
    assert settings.inputs == {"ids": "int64[N, L]"}
    assert settings.trust_code is False


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SCORE_DEVICE", "gpu", "SCORE_DEVICE='gpu'"),
        ("SCORE_READ", "maybe", "SCORE_READ='maybe'"),
        ("SCORE_TRUST_SHA256", "abc", "64 hexadecimal"),
        ("SCORE_ARCHITECTURE_KWARGS", "[1]", "SCORE_ARCHITECTURE_KWARGS"),
        ("SCORE_ARCHITECTURE_KWARGS", "{depth: 3}", "SCORE_ARCHITECTURE_KWARGS"),
        ("SCORE_MAX_BODY_MB", "0", "SCORE_MAX_BODY_MB='0'"),
        ("SCORE_ARCHITECTUR", "X", "there is no setting SCORE_ARCHITECTUR; did you mean SCORE_ARCHITECTURE?"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSetting) as caught:
        Settings.load()
    assert says in caught.value.message


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE_SERVICE_HOST", "10.0.0.1")  # as Kubernetes sets it for a service called `score`
    monkeypatch.setenv("SCORE_PORT", "tcp://10.0.0.1:80")
    assert Settings.load().device == "auto"


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("archi = 'X'", "unknown setting 'archi'"),
        ("not toml", "score.toml"),
        ("trust_code = true", "may not set trust_code"),
        (f"trust_sha256 = ['{'a' * 64}']", "may not set trust_sha256"),
        ("architecture = 'subprocess:Popen'", "may not set architecture to 'subprocess:Popen'"),
        ("architecture = 'evil.py:Net'", "may not set architecture"),
    ],
)
def test_score_toml_is_as_untrusted_as_the_checkpoint(tmp_path: Path, toml: str, says: str) -> None:
    (tmp_path / "score.toml").write_text(toml)
    with pytest.raises(InvalidSetting) as caught:
        Settings.load(tmp_path)
    assert says in caught.value.message
