"""Write docs/settings.md from `score.settings`: `python -m tools.settings_page`. A test keeps the two equal."""

from pathlib import Path

from score.settings import Settings, variable

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

HEAD = """# Settings

Environment variables go over `score.toml` in the model folder, which goes over the defaults. A `SCORE_` variable that
is all but the name of one is an error, and so is a value that can't be used: nothing is ignored silently. This page is
written from `score/settings.py` by `python -m tools.settings_page`.

| variable | in `score.toml` | default | what it says |
|---|---|---|---|
"""

TAIL = """
`score.toml` travels with the checkpoint, so it can't grant trust, and can name only registered architectures and those
of torchvision, timm and transformers:

```toml
architecture = "ResNet"
labels = ["cat", "dog"]
image = "imagenet"
max_batch = 16
```

`SCORE_READ=auto` maps weights into memory on local disks, and reads them on network mounts (blobfuse, NFS, SMB), where
mapping is slow.

Of the server's own variables, these matter most:

| variable | what it says |
|---|---|
| `WORKER_COUNT` | how many processes serve; each holds the model, on a CPU sharing the mapped weights |
| `GUNICORN_CMD_ARGS` | gunicorn's arguments; they win over `score/server/gunicorn_config.py` |
| `AML_APP_INSIGHTS_ENABLED`, `AML_APP_INSIGHTS_KEY` | metrics and traces to Application Insights |
"""


def table() -> str:
    """A Markdown row for each setting."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, {}, [], frozenset()) else f"`{str(field.default).lower()}`"
        toml = "" if name == "model_dir" or name.startswith("trust_") else f"`{name}`"
        rows.append(f"| `{variable(name)}` | {toml} | {default} | {field.description} |\n")
    return "".join(rows)


def rendered() -> str:
    """The whole page."""
    return HEAD + table() + TAIL


if __name__ == "__main__":
    PAGE.write_text(rendered())
