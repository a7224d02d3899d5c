"""What `score serve` makes of where it runs."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from score.cli import gcs
from score.cli.platforms import recognised
from score.errors import InvalidSetting, ModelDirEmpty

AZURE = {"AZUREML_MODEL_DIR": "/var/azureml-app/azureml-models"}  # which our image sets everywhere


@pytest.mark.parametrize(
    ("environ", "folders", "says", "port", "model"),
    [
        ({}, (), "no platform is recognised", 5001, None),
        (AZURE, (), "Azure ML", 5001, AZURE["AZUREML_MODEL_DIR"]),
        (AZURE | {"AIP_HTTP_PORT": "8085", "AIP_STORAGE_URI": "/models"}, (), "Vertex AI", 8085, "/models"),
        (AZURE | {"AIP_PREDICT_ROUTE": "/predict"}, (), "Vertex AI", 8080, AZURE["AZUREML_MODEL_DIR"]),
        (AZURE, ("/opt/ml/model",), "Amazon SageMaker", 8080, "/opt/ml/model"),
        (AZURE | {"SAGEMAKER_BIND_TO_PORT": "9000"}, ("/opt/ml/model",), "Amazon SageMaker", 9000, "/opt/ml/model"),
        (AZURE | {"K_SERVICE": "a", "PORT": "8081"}, (), "Cloud Run, or Knative", 8081, AZURE["AZUREML_MODEL_DIR"]),
        (AZURE | {"PORT": "7000"}, (), "sets PORT", 7000, AZURE["AZUREML_MODEL_DIR"]),
        (AZURE, ("/mnt/models",), "KServe", 8080, "/mnt/models"),
    ],
)
def test_each_platform(
    environ: dict[str, str], folders: tuple[str, ...], says: str, port: int, model: str | None
) -> None:
    place = recognised(None, environ, lambda path: path in folders)
    assert says in str(place)
    assert place.port == port
    assert place.model == (None if model is None else Path(model))


def test_a_model_in_googles_storage_is_fetched(tmp_path: Path) -> None:
    place = recognised(None, {"AIP_HTTP_PORT": "8080", "AIP_STORAGE_URI": "gs://bucket/models/cat"}, lambda _: False)
    assert (place.model, place.gcs) == (None, "gs://bucket/models/cat")

    def stored(*names: str) -> SimpleNamespace:
        blobs = [
            SimpleNamespace(name=name, download_to_filename=lambda path, name=name: Path(path).write_text(name))
            for name in names
        ]
        return SimpleNamespace(list_blobs=lambda bucket, prefix: [b for b in blobs if b.name.startswith(prefix)])

    client = stored("models/cat/", "models/cat/model.pt", "models/cat/a/b.json", "models/cats/no.pt")
    gcs.fetched(place.gcs, tmp_path, client)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"model.pt", "a/b.json"}
    with pytest.raises(ModelDirEmpty, match="nothing at gs"):
        gcs.fetched("gs://bucket/models/dog", tmp_path, client)
    with pytest.raises(InvalidSetting, match="leads out"):
        gcs.fetched("gs://bucket/models", tmp_path, stored("models/../../etc/passwd"))


def test_a_port_that_is_none() -> None:
    with pytest.raises(InvalidSetting, match="PORT is 'many'"):
        recognised(None, {"K_SERVICE": "a", "PORT": "many"}, lambda _: False)


def test_a_path_of_ones_own_is_no_platforms_model() -> None:
    mounted = "/opt/ml/model", "/mnt/models"
    assert recognised(Path("model.pt"), {}, lambda path: path in mounted).platform is None
    assert "KServe" in str(recognised(Path("/mnt/models"), {}, lambda path: path in mounted))
