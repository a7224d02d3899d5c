"""What holds of every format: it is told by content, read as torch reads it, and nothing in it runs."""

from pathlib import Path

import pytest
import torch

from score.errors import LoadError
from score.formats import registry
from score.formats.probe import Probe
from score.weights import select
from tests.makers import MAKERS

Made = tuple[str, Path, dict[str, torch.Tensor]]  # format, place, weights
READ = [name for name in MAKERS if name != "aot-inductor"]  # those that hold weights to be read


def test_every_format_has_a_maker_and_a_row_in_the_docs() -> None:
    assert set(registry.formats()) - {"foreign"} == set(MAKERS)
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    missing = [name for name in registry.formats() if f"| `{name}` |" not in page]
    assert not missing


@pytest.fixture(params=READ)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    state = MAKERS[request.param](tmp_path)
    (path,) = tmp_path.iterdir()
    return request.param, path, state


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_told_by_content_alone(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    (path,) = tmp_path.iterdir()
    disguised = path.rename(tmp_path / "weights.t7")
    says_yes = [format for format, module in registry.formats().items() if module.detect(Probe(disguised))]
    assert says_yes[0] == name == registry.detect(disguised)
    others = set(says_yes[1:]) - {"archive", "pickle"}  # which take any zip, tar and pickle that is left
    assert not any(registry.servable(format) for format in others)


def test_the_weights_are_what_torch_reads(made: Made) -> None:
    name, path, state = made
    checkpoint = registry.open_checkpoint(path)
    assert checkpoint.format == name
    weights = select.weights_of(checkpoint)
    assert weights is not None
    assert weights.path == ""
    assert set(weights.tensors) == set(state)
    assert weights.parameters == sum(tensor.numel() for tensor in state.values())
    for key, ref in weights.tensors.items():
        loaded = ref.load()
        assert loaded.dtype == ref.dtype == state[key].dtype
        assert tuple(loaded.shape) == ref.shape == tuple(state[key].shape)
        assert torch.equal(loaded, state[key])


@pytest.mark.parametrize("read", ["mmap", "read"])
def test_mapping_and_reading_give_the_same(made: Made, read: str) -> None:
    _, path, state = made
    weights = select.weights_of(registry.open_checkpoint(path, read))
    assert weights is not None
    for key, ref in weights.tensors.items():
        assert torch.equal(ref.load(), state[key])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_file_cut_short_is_refused_or_read_whole(made: Made, share: float) -> None:
    _, path, state = made
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[: int(len(content) * share)])
    try:
        weights = select.weights_of(registry.open_checkpoint(path))
        loaded = {name: ref.load() for name, ref in (weights.tensors if weights else {}).items()}
    except LoadError as error:
        assert error.code in (
            "truncated_file",
            "malformed_file",
            "no_checkpoint",
            "foreign_format",
            "unsupported_format",
        )
        assert path.name in error.message
    else:  # only padding was lost
        assert largest.suffix in (".pt", ".gguf")
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_weights_never_change_the_file(made: tuple[str, Path, object]) -> None:
    _, path, _ = made
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    before = [file.read_bytes() for file in files]
    weights = select.weights_of(registry.open_checkpoint(path, "mmap"))
    assert weights is not None
    for ref in weights.tensors.values():
        ref.load().zero_()
    assert [file.read_bytes() for file in files] == before
