"""Models in Google Cloud Storage, where Vertex AI keeps them (AIP_STORAGE_URI): fetched before the server starts."""

from pathlib import Path, PurePosixPath
from typing import Any

from score.errors import InvalidSetting, ModelDirEmpty


def fetched(uri: str, folder: Path, client: Any = None) -> Path:
    """Everything below a `gs://bucket/prefix`, in `folder`. Raises `InvalidSetting` or `ModelDirEmpty`."""
    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    client = client or _client()
    top, found = prefix.rstrip("/"), False
    for blob in client.list_blobs(bucket, prefix=top):
        below = blob.name.removeprefix(top).lstrip("/") or PurePosixPath(blob.name).name
        if blob.name.endswith("/") or not _is_below(blob.name, top):
            continue
        path = folder / below
        if ".." in PurePosixPath(below).parts or not path.is_relative_to(folder):
            raise InvalidSetting(f"{uri} holds {blob.name[:200]!r}, which leads out of the model folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        blob.download_to_filename(str(path))
        found = True
    if not found:
        raise ModelDirEmpty(f"there is nothing at {uri}")
    return folder


def _is_below(name: str, top: str) -> bool:
    """`models/cat` is not above `models/cats/a.pt`."""
    return not top or name == top or name.startswith(f"{top}/")


def _client() -> Any:
    try:
        from google.cloud import storage
    except ImportError:
        raise InvalidSetting(
            "AIP_STORAGE_URI names a place in Google Cloud Storage, and google-cloud-storage is not installed",
            hint="Install it in the image: pip install 'loadstone[vertex]'. Or mount the model, and name its path.",
        ) from None
    return storage.Client()
