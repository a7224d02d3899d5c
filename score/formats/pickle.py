"""`pickle`: a pickle that torch.save did not write. Refused, and named for what it is."""

import contextlib
from pathlib import Path

from score.errors import LoadError, UnsupportedFormat
from score.formats._io.source import Source
from score.formats._pickle.global_names import is_pickle
from score.formats._pickle.inert import Restricted
from score.formats._pickle.read import no_storages, read_pickle
from score.formats.base import Checkpoint
from score.formats.probe import Probe

NAME = "pickle"
PRIORITY = -10
SERVABLE = False

# What a pickle is, by the package of the first class that it names and that is listed here.
KINDS = {
    "sklearn": ("a scikit-learn model", "Serve it with MLflow or MLServer, or convert it to ONNX with skl2onnx."),
    "joblib": ("a joblib dump", "Serve it with MLflow or MLServer."),
    "xgboost": ("an XGBoost model", "Save it with model.save_model and serve it with MLServer."),
    "lightgbm": ("a LightGBM model", "Save it with booster.save_model and serve it with MLServer."),
    "catboost": ("a CatBoost model", "Save it as ONNX."),
    "keras": ("a Keras model", "Export it to ONNX."),
    "tensorflow": ("a TensorFlow object", "Export it to ONNX with tf2onnx."),
    "pandas": ("a pandas object", "That is data, not a model."),
    "paddle": ("a PaddlePaddle checkpoint", "Convert it with paddle2onnx."),
    "jax": ("a JAX checkpoint", "Save the arrays with numpy.savez and serve that."),
    "numpy": ("numpy arrays", "Save them by name with numpy.savez, and serve that."),
    "torch": ("torch objects written by pickle.dump", "Load it where it was made, and save it with torch.save."),
}


def detect(probe: Probe) -> bool:
    return is_pickle(probe.head)


def open(path: Path, read: str) -> Checkpoint:
    """Always raises `UnsupportedFormat`. The pickle is read without importing anything, to see what it names."""
    data = Source(path, read).view()
    policy = Restricted(len(data))
    with contextlib.suppress(LoadError):  # even one that can't be read to its end has named things by then
        read_pickle(data, no_storages, name=path.name, policy=policy)
    names = list(policy.mentioned)
    named = [name for name in names if name.partition(".")[0] in KINDS]
    kind, way_out = KINDS[named[0].partition(".")[0]] if named else ("plain Python values", "")
    raise UnsupportedFormat(
        f"{path.name} is a pickle that torch.save did not write: {kind}",
        hint=way_out or "Save the weights with torch.save(model.state_dict(), path), and serve that file.",
        detail="\n".join(f"it names {name}" for name in names[:12]),
    )
