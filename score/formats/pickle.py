"""`pickle`: what Python's own pickle wrote, or dill, cloudpickle or joblib: a state_dict, a module, a dict with arrays.

A tensor in it is a call with the bytes of a file of torch.save's; these are mapped where they lie. What holds no tensor
is named for what it is: a scikit-learn model, a table, plain values.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from score.errors import LoadError, NoWeights
from score.formats import torch_zip
from score.formats._io.source import Source, in_memory
from score.formats._io.zip import Archive
from score.formats._pickle import legacy, nested
from score.formats._pickle.global_names import is_pickle
from score.formats._pickle.inert import Restricted, settled
from score.formats._pickle.read import metadata, no_storages, read_pickle
from score.formats._pickle.trusted import Trusted
from score.formats.base import Checkpoint, OpaqueObject, PickledObjects, TensorRef
from score.formats.probe import Probe

NAME = "pickle"
PRIORITY = -10
SERVABLE = True
MOST_VISITED = 500_000
_PROTOCOL = 0x80  # what every pickle since Python 2.3 begins with
_OF_SKORCH = "__cuda_dependent_attributes__"
_AGAIN = "Save the weights with torch.save(model.state_dict(), path), and serve that file."

# What a pickle is, by the package of the first class that it names and that is listed here.
KINDS = {
    "sklearn": ("a scikit-learn model", "Serve it with MLflow or MLServer, or convert it to ONNX with skl2onnx."),
    "xgboost": ("an XGBoost model", "Save it with model.save_model and serve it with MLServer."),
    "lightgbm": ("a LightGBM model", "Save it with booster.save_model and serve it with MLServer."),
    "catboost": ("a CatBoost model", "Save it as ONNX."),
    "keras": ("a Keras model", "Export it to ONNX."),
    "tensorflow": ("a TensorFlow object", "Export it to ONNX with tf2onnx."),
    "pandas": ("a pandas object", "That is data, not a model."),
    "paddle": ("a PaddlePaddle checkpoint", "Convert it with paddle2onnx."),
    "jax": ("a JAX checkpoint", "Save the arrays with numpy.savez and serve that."),
    "joblib": ("a joblib dump", "Serve it with MLflow or MLServer."),
    "numpy": ("numpy values", "Save arrays by name with numpy.savez, and serve that."),
    "torch": ("torch objects without a tensor", _AGAIN),
}
_ARRAYS = frozenset(("joblib", "numpy", "torch"))  # packages whose own values are arrays, or hold them


def detect(probe: Probe) -> bool:
    return is_pickle(probe.head)


def open(path: Path, read: str) -> Checkpoint:
    """Raises `NoWeights` for a pickle of another library's model, and for one without a tensor."""
    data = Source(path, read).view()
    policy = Restricted(len(data))
    try:
        value = read_pickle(data, no_storages, name=path.name, policy=policy).value
    except LoadError:
        others = any(name.partition(".")[0] in KINDS.keys() - _ARRAYS for name in policy.mentioned)
        if data[0] != _PROTOCOL or others:  # no pickle at all, or another library's: it is named for that
            raise _refused(path, policy) from None
        raise
    held = list(_opened_bytes(value))
    unsafe = dict.fromkeys((*policy.unsafe, *(name for each in held for name in each.unsafe)))
    if _is_foreign(value) or not _holds_tensors(value):
        raise _refused(path, policy)
    return PickledObjects(
        NAME,
        path,
        value,
        load_trusted=lambda: read_pickle(data, no_storages, name=path.name, policy=Trusted(tuple(policy.unsafe))).value,
        unsafe_globals=tuple(unsafe),
        metadata=metadata(value),
    )


def _opened_bytes(tree: Any) -> Iterator[Any]:
    """Read the pickles and the files of torch.save's that a pickle holds as bytes, each into its place; what was read
    of each."""
    for mapping in _mappings(tree):
        for key, value in list(mapping.items()):
            head = bytes(value[:16]) if isinstance(value, (bytes, bytearray, memoryview)) else b""
            if legacy.starts(head):
                found = nested.load_from_bytes(value)
            elif head.startswith(b"PK\x03\x04"):
                place, file = in_memory(io.BytesIO(value), str(key)[:64])
                with file:
                    inside = Archive(Source(place))
                if "data.pkl" not in inside:  # another archive is none of torch's
                    continue
                found = torch_zip.read_archive(inside)[0]
            elif head[:1] == bytes([_PROTOCOL]) and head[1] <= 5 and value[-1:] == b".":
                try:
                    found = read_pickle(value, no_storages, name=f"{key!s:.60}")
                except LoadError:  # bytes of another kind
                    continue
            else:
                continue
            mapping[key] = found.value
            if key == _OF_SKORCH and isinstance(found.value, dict):  # as its __setstate__ does
                del mapping[key]
                mapping.update(found.value)
                for name in found.value:
                    mapping.pop(str(name).removesuffix("_"), None)  # what the net was made of, before it was trained
            yield found


def _holds_tensors(tree: Any) -> bool:
    found = (value for mapping in _mappings(tree) for value in mapping.values())
    return any(isinstance(settled(value), TensorRef) for value in found)


def _mappings(tree: Any) -> Iterator[dict[Any, Any]]:
    """Every mapping in a tree, but those of other libraries' models; what is put into one in the meantime is gone
    through too. A list is gone through as a mapping by position."""
    waiting, seen = [tree], set[int]()
    while waiting and len(seen) < MOST_VISITED:
        value = settled(waiting.pop())
        if id(value) in seen or not isinstance(value, (dict, list, tuple, OpaqueObject)):
            continue
        seen.add(id(value))
        if isinstance(value, OpaqueObject):
            if not _is_foreign(value):
                waiting.extend(value.containers()[:-1])
            continue
        mapping = value if isinstance(value, dict) else dict(enumerate(value))
        yield mapping
        waiting.extend(mapping.values())


def _is_foreign(value: Any) -> bool:
    return isinstance(value, OpaqueObject) and value.path.partition(".")[0] in KINDS.keys() - _ARRAYS


def _refused(path: Path, policy: Restricted) -> NoWeights:
    packages = [name.partition(".")[0] for name in policy.mentioned]
    named = sorted((each for each in packages if each in KINDS), key=_ARRAYS.__contains__)  # who made it says more
    kind, way_out = KINDS[named[0]] if named else ("plain Python values", "")
    return NoWeights(
        f"{path.name} is a pickle that torch.save did not write: {kind}",
        hint=way_out or _AGAIN,
        detail="\n".join(f"it names {name}" for name in list(policy.mentioned)[:12]),
    )
