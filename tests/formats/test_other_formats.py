"""The formats that are folders, archives of other tools, or other frameworks': what is particular to each."""

import io
import json
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from score.architectures import hf_config
from score.cli import inspection
from score.errors import (
    ArchitectureNeeded,
    ClassNotImportable,
    ForeignFormat,
    LoadError,
    MalformedFile,
    NoCheckpoint,
    NoWeights,
    UnsupportedFormat,
    UntrustedCode,
    VersionTooOld,
)
from score.formats.registry import detect, open_checkpoint
from score.inference import pipeline
from score.inference.infer_signature import synthetic
from score.settings import Settings
from score.weights import select
from score.weights.hashing import sha256
from score.weights.select import weights_of
from tests import makers
from tests.makers import net

NET = "tests.makers:Net"


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in makers.MAKERS
        if name not in ("aot-inductor", "onnx", "openvino", "torch-tar", "llama-consolidated")
    ],
)
def test_check_serves_it_where_an_architecture_fits(tmp_path: Path, name: str) -> None:
    makers.MAKERS[name](tmp_path)
    setting = None if name in ("torchscript", "torch-export") else NET
    served = pipeline.load_model(Settings.load(tmp_path, architecture=setting))
    images = torch.rand(3, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(served.module(images), net()(images))
    assert served.report.format == name
    assert served.predict(synthetic(served.signature)) is not None


def test_torch_tar_is_what_torch_reads(tmp_path: Path) -> None:
    state = makers.torch_tar(tmp_path)
    wanted = torch.load(only(tmp_path), weights_only=False)
    assert list(wanted) == list(state)
    assert all(torch.equal(wanted[name], tensor) for name, tensor in state.items())


# folders


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "link.safetensors", 5, "a\0b"])
def test_an_index_can_not_point_outside(tmp_path: Path, name: Any) -> None:
    makers.safetensors(tmp_path)
    makers.safetensors_sharded(tmp_path)
    (tmp_path / "model" / "link.safetensors").symlink_to(tmp_path / "model.safetensors")
    (tmp_path / "outside.safetensors").write_bytes(b"")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv.weight": name}}))
    with pytest.raises(MalformedFile, match="not in the folder"):
        open_checkpoint(tmp_path / "model")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    makers.safetensors_sharded(tmp_path)
    (tmp_path / "model" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(NoCheckpoint, match="model-00002-of-00002"):
        open_checkpoint(tmp_path / "model")


def test_a_tensor_that_is_not_in_its_shard(tmp_path: Path) -> None:
    makers.torch_bin_sharded(tmp_path)
    index = tmp_path / "model" / "pytorch_model.bin.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["ghost"] = "model-00001-of-00002.bin"
    index.write_text(json.dumps(document))
    with pytest.raises(MalformedFile, match="'ghost'"):
        open_checkpoint(tmp_path / "model")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder / "model")
    return folder / "model", model


def test_hf_dir_through_transformers(bert: tuple[Path, nn.Module]) -> None:
    folder, model = bert
    assert detect(folder) == "hf-dir"
    served = pipeline.load_model(Settings.load(folder))
    assert served.report.architecture == "transformers.BertForSequenceClassification"
    assert served.report.ignored == ()
    ids = torch.tensor([[3, 7, 9, 1]])
    answer = served.predict({"input_ids": ids})
    with torch.inference_mode():
        wanted = model(ids).logits
    found = answer["logits"] if isinstance(answer, dict) else answer
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_hf_dir_never_fills_what_is_missing(bert: tuple[Path, nn.Module], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder, _ = bert
    state = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file({k: v for k, v in state.items() if not k.startswith("classifier")}, tmp_path / "model.safetensors")
    with pytest.raises(LoadError) as caught:  # transformers itself would draw the classifier at random
        pipeline.load_model(Settings.load(tmp_path))
    assert caught.value.code == "weights_mismatch"
    assert "classifier.weight [3, 16]" in caught.value.detail


def test_hf_dir_without_transformers_still_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = makers.hf_dir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    checkpoint = open_checkpoint(tmp_path / "model")
    assert hf_config.factory_of(checkpoint) is None
    assert set(checkpoint.tree) == set(state)


def test_an_adapter_alone_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base-7b"}))
    torch.save({"base_model.model.q.lora_A.weight": torch.ones(2, 2)}, tmp_path / "adapter_model.bin")
    assert detect(tmp_path) == "hf-dir"
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tree) == ["base_model.model.q.lora_A.weight"]
    with pytest.raises(NoWeights, match=r"adapter .*'org/base-7b'"):
        weights_of(checkpoint)


@pytest.mark.parametrize(
    ("names", "adapts"),
    [
        (["m.q.lora_A.weight", "m.q.lora_B.weight"], True),
        (["m.q.lora_A.default.weight", "m.q.lora_B.default.weight", "classifier.weight", "classifier.bias"], True),
        (["m.q.ia3_l"], True),
        (["m.q.hada_w1_a", "head.weight"], True),
        (["m.q.base_layer.weight", "m.q.lora_A.default.weight"], False),
        (["m.q.weight", "m.q.lora_A.weight"], False),
        (["prompt_embeddings"], True),
        (["prompt_encoder.default.embedding.weight", "base_model.classifier.weight"], True),
        (["prompt_encoder.point_embed.weight", "mask_decoder.iou_token.weight"], False),  # segment-anything
        (["m.q.weight", "m.explorer_a.weight"], False),
    ],
)
def test_an_adapter_is_told_by_what_it_adapts_not_being_there(names: list[str], adapts: bool, tmp_path: Path) -> None:
    torch.save({name: torch.ones(2, 2) for name in names}, tmp_path / "model.pt")
    if not adapts:
        assert weights_of(open_checkpoint(tmp_path / "model.pt")) is not None
        return
    with pytest.raises(NoWeights, match="adapter"):
        weights_of(open_checkpoint(tmp_path / "model.pt"))
    found = inspection.inspect(tmp_path / "model.pt", Settings.load(tmp_path / "model.pt"))
    assert found["architecture"] == "an adapter (LoRA)"
    assert found["tensors"] == len(names)


def _pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 438955784\n")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_a_folder_that_was_cloned_without_git_lfs(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    _pointer(tmp_path / name)
    with pytest.raises(ForeignFormat, match="git-lfs pointer") as caught:
        open_checkpoint(tmp_path)
    assert "git lfs pull" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1\x0d\0\0\0nn.Sequential", "Torch7"),
        (b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "Torch7"),
    ],
)
def test_files_of_lua_are_named(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "model.t7").write_bytes(content + bytes(100))
    with pytest.raises(ForeignFormat, match=says):
        open_checkpoint(tmp_path / "model.t7")


@pytest.mark.parametrize("first", ["sys_info", "PaxHeader/x"])
def test_a_torch_tar_whatever_comes_first(first: str, tmp_path: Path) -> None:
    state = makers.torch_tar(tmp_path)
    with tarfile.open(tmp_path / "model.pt") as old, tarfile.open(tmp_path / "other.pt", "w:") as new:
        info = tarfile.TarInfo(first)
        info.size = 3
        new.addfile(info, io.BytesIO(b"abc"))
        for member in old:
            if member.name != "sys":
                new.addfile(member, old.extractfile(member))
    assert detect(tmp_path / "other.pt") == "torch-tar"
    assert set(weights_of(open_checkpoint(tmp_path / "other.pt")).tensors) == set(state)  # type: ignore[union-attr]


def test_extra_state_does_not_hide_the_weights(tmp_path: Path) -> None:
    state = {**makers.net().state_dict(), "head._extra_state": {"recipe": {"fp8": True}}}
    torch.save(state, tmp_path / "model.pt")
    weights = weights_of(open_checkpoint(tmp_path / "model.pt"))
    assert weights is not None
    assert "head.weight" in weights.tensors


def test_a_configuration_alone_is_an_architecture_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(NoWeights, match="architecture without weights"):
        open_checkpoint(tmp_path)


def test_mlflow_reports_what_its_requirements_want(tmp_path: Path) -> None:
    makers.mlflow(tmp_path)
    checkpoint = open_checkpoint(tmp_path / "model")
    assert checkpoint.metadata["inner_format"] == "torch-zip"
    unmet = checkpoint.metadata["requirements_not_met"]
    assert unmet == [f"numpy==1.0.0 (here {np.__version__})", "not-a-package==1 (not installed)"]


def test_mlflow_runs_its_class_only_when_the_folder_is_trusted(tmp_path: Path) -> None:
    makers.mlflow(tmp_path)
    with pytest.raises(UntrustedCode):
        pipeline.load_model(Settings.load(tmp_path))
    served = pipeline.load_model(Settings.load(tmp_path, trust_sha256=sha256(tmp_path / "model")))
    assert served.report.source == "the pickled module, trusted"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("flavors:\n  sklearn: {}\n  python_function: {}\n", UnsupportedFormat, "flavor sklearn, python_function"),
        ("a: [", MalformedFile, "not valid YAML"),
        ("flavors: 3", MalformedFile, "no flavors"),
        ("flavors:\n  pytorch: {model_data: ../../etc}\n", MalformedFile, "not in the folder"),
        ("flavors:\n  pytorch: {model_data: data}\n", NoCheckpoint, "no model.pth"),
        ("flavors: !!python/object/apply:os.system ['touch /tmp/score-was-here']", MalformedFile, "not valid YAML"),
    ],
)
def test_mlflow_that_is_no_pytorch_model(tmp_path: Path, text: str, error: type[LoadError], says: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(error, match=says):
        open_checkpoint(tmp_path)


def _distributed(folder: Path, state: dict[str, Any]) -> Path:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=str(folder / "dcp"))
    return folder / "dcp"


def test_distcp_keeps_the_nesting_and_the_values(tmp_path: Path) -> None:
    state = nn.Linear(4, 3).state_dict()
    checkpoint = open_checkpoint(_distributed(tmp_path, {"model": dict(state), "epoch": 3, "name": "x"}))
    weights = select.choose(checkpoint)
    assert weights.path == "model"
    assert all(torch.equal(weights.tensors[name].load(), tensor) for name, tensor in state.items())
    assert (checkpoint.tree["epoch"], checkpoint.tree["name"]) == (3, "x")


def test_distcp_merges_shards_without_a_process_group(tmp_path: Path) -> None:
    """Two ranks' shards of one tensor, by torch's own writer: metadata for both is what a planner would merge."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata

    whole = torch.arange(24.0).reshape(6, 4)
    folder = _distributed(tmp_path, {"top": whole[:2].clone(), "rest": whole[2:].clone()})
    reader = dcp.FileSystemReader(str(folder))
    metadata = reader.read_metadata()
    properties = metadata.state_dict_metadata["top"].properties
    chunks = [
        ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2, 4])),
        ChunkStorageMetadata(torch.Size([2, 0]), torch.Size([4, 4])),
    ]
    places = {index.fqn: info for index, info in metadata.storage_data.items()}
    metadata.state_dict_metadata = {"w": TensorStorageMetadata(properties, torch.Size([6, 4]), chunks)}
    metadata.storage_data = {
        MetadataIndex("w", torch.Size([0, 0])): places["top"],
        MetadataIndex("w", torch.Size([2, 0])): places["rest"],
    }
    metadata.planner_data = None
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    tree = open_checkpoint(folder).tree
    assert torch.equal(tree["w"].load(), whole)
    del metadata.storage_data[MetadataIndex("w", torch.Size([2, 0]))]
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(MalformedFile, match=r"no file holds the piece of 'w' at \[2, 0\]"):
        open_checkpoint(folder)


# archives


MODEL_FILE = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 7)
    def forward(self, x):
        return self.fc(x)
"""


def test_mar_with_a_model_file_runs_it_only_when_trusted(tmp_path: Path) -> None:
    state = nn.Linear(3, 7).state_dict()
    torch.save({f"fc.{name}": tensor for name, tensor in state.items()}, tmp_path / "weights.pt")
    manifest = {"model": {"serializedFile": "weights.pt", "modelFile": "model.py", "handler": "handler.py:run"}}
    path = tmp_path / "archive" / "model.mar"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "weights.pt", "weights.pt")
        archive.writestr("model.py", MODEL_FILE)
        archive.writestr("handler.py", "raise SystemExit('a handler was run')")
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    checkpoint = open_checkpoint(path)
    assert checkpoint.metadata["handler_not_run"] == "handler.py:run"
    with pytest.raises(UntrustedCode, match=r"model\.py"):
        pipeline.load_model(Settings.load(path))
    served = pipeline.load_model(Settings.load(path, trust_sha256=sha256(path)))
    assert torch.equal(served.module.state_dict()["fc.bias"], state["bias"])


@pytest.mark.parametrize("wrapper", ["mlflow", "mar"])
@pytest.mark.parametrize("program", ["torch_export", "torchscript"])
def test_a_program_in_a_wrapper_answers_as_it_does_alone(tmp_path: Path, wrapper: str, program: str) -> None:
    for folder in ("alone", "wrapped"):
        (tmp_path / folder).mkdir()
    getattr(makers, program)(tmp_path / "alone")
    inner = only(tmp_path / "alone")
    if wrapper == "mar":
        with zipfile.ZipFile(tmp_path / "wrapped" / "model.mar", "w") as archive:
            archive.write(inner, inner.name)
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"serializedFile": inner.name}}))
    else:
        (tmp_path / "wrapped" / "data").mkdir()
        name = "model.pt2" if program == "torch_export" else "model.pth"
        (tmp_path / "wrapped" / "data" / name).write_bytes(inner.read_bytes())
        (tmp_path / "wrapped" / "MLmodel").write_text("flavors:\n  pytorch:\n    model_data: data\n")
    served = pipeline.load_model(Settings.load(tmp_path / "wrapped"))
    assert served.report.format == wrapper
    images = torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(served.module(images), net()(images))


@torch.library.custom_op("loadstone_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class _Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return twice(x)


def test_a_trusted_program_in_an_mlflow_folder(tmp_path: Path) -> None:
    """torch's own loader gives a module that refuses `eval()`: nothing may call that for the folder's format."""
    (tmp_path / "data").mkdir()
    torch.export.save(torch.export.export(_Twice(), (torch.ones(3),)), tmp_path / "data" / "model.pt2")
    (tmp_path / "MLmodel").write_text("flavors:\n  pytorch:\n    model_data: data\n")
    with pytest.raises(UntrustedCode):
        pipeline.load_model(Settings.load(tmp_path))
    served = pipeline.load_model(Settings.load(tmp_path, trust_code=True))
    assert served.report.format == "mlflow"
    assert served.module(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]


def test_torch_package_with_its_own_code_only_when_trusted(tmp_path: Path) -> None:
    makers.torch_package(tmp_path)
    with pytest.raises((UntrustedCode, ClassNotImportable)):
        pipeline.load_model(Settings.load(tmp_path))
    path = only(tmp_path)
    served = pipeline.load_model(Settings.load(tmp_path, trust_sha256=sha256(path)))
    images = torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(served.module(images), net()(images))


def test_aot_inductor_is_native_code(tmp_path: Path) -> None:
    makers.aot_inductor(tmp_path)
    with pytest.raises(UntrustedCode) as caught:
        pipeline.load_model(Settings.load(tmp_path))
    assert "model.wrapper.so" in caught.value.detail
    with pytest.raises(LoadError):  # trusted, and no library at all
        pipeline.load_model(Settings.load(tmp_path, trust_code=True))


@pytest.mark.slow
def test_aot_inductor_is_served_when_trusted(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.ones(2, 3),))
    torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    served = pipeline.load_model(Settings.load(tmp_path, trust_code=True, inputs="float32[2, 3]"))
    inputs = torch.rand(2, 3)
    torch.testing.assert_close(served.module(inputs), program.module()(inputs))


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_of_every_dtype_and_order(tmp_path: Path, compressed: bool) -> None:
    arrays = {
        name: np.arange(6).reshape(2, 3).astype(name) for name in ("f4", "f8", "f2", "i8", "u1", "?", "c8", ">f4")
    }
    arrays |= {
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "0-d": np.array(2.5),
        "empty": np.zeros((0, 3)),
    }
    (np.savez_compressed if compressed else np.savez)(tmp_path / "model.npz", **arrays)
    tree = open_checkpoint(tmp_path / "model.npz").tree
    assert set(tree) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(tree[name].load().numpy(), array)


def test_npz_never_unpickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", a=np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnsupportedFormat, match="Python objects"):
        open_checkpoint(tmp_path / "model.npz")


def test_onnx_is_served_by_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    state = makers.onnx(tmp_path)
    served = pipeline.load_model(Settings.load(tmp_path))
    assert served.signature.as_dict()["inputs"] == {"x": "float32[N, 3]"}
    x = torch.rand(4, 3)
    np.testing.assert_allclose(served.predict({"x": x}), (x @ state["weight"] + state["bias"]).numpy(), rtol=1e-5)


def test_onnx_without_onnxruntime_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makers.onnx(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert set(open_checkpoint(only(tmp_path)).tree) == {"weight", "bias"}
    with pytest.raises(UnsupportedFormat, match="onnxruntime is not installed"):
        pipeline.load_model(Settings.load(tmp_path))


# what could be two things


def _zip(path: Path, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return path


def test_a_zip_that_is_both_torchscript_and_torch_zip_is_torchscript(tmp_path: Path) -> None:
    # both are read by the machine that runs nothing, so nothing hangs on it; torch.jit is what wants constants.pkl
    path = _zip(tmp_path / "model.pt", m__data_dot_pkl=b"\x80\x02}.", m__constants_dot_pkl=b"\x80\x02).")
    assert detect(path) == "torchscript"


def test_a_tar_inside_a_zip_is_a_zip(tmp_path: Path) -> None:
    makers.torch_tar(tmp_path)
    path = _zip(tmp_path / "model.zip", model_dot_tar=only(tmp_path).read_bytes())
    assert detect(path) == "archive"
    assert open_checkpoint(path).metadata["inner_format"] == "torch-tar"


def test_a_zip_behind_other_bytes_is_no_zip(tmp_path: Path) -> None:
    makers.torch_zip(tmp_path)
    path = only(tmp_path)
    path.write_bytes(b"GGUF" + path.read_bytes())  # Python's zipfile would still read it
    with pytest.raises(LoadError, match="GGUF"):
        open_checkpoint(path)


def test_weights_whose_class_is_not_known_say_so(tmp_path: Path) -> None:
    makers.npz(tmp_path)
    with pytest.raises(ArchitectureNeeded):
        pipeline.load_model(Settings.load(tmp_path))


def _node_of(domain: str, op: str = "Relu") -> Any:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], domain=domain)], "g", [value("x", kind, [2])], [value("y", kind, [2])]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("domain", "op"), [("evil.ops", "Run"), ("com.microsoft", "EPContext"), ("ai.onnx.x", "Y")])
def test_an_onnx_graph_with_operators_from_elsewhere(domain: str, op: str, tmp_path: Path) -> None:
    import onnx

    model = _node_of(domain, op)
    outer = _node_of("")
    branch = onnx.helper.make_graph(model.graph.node, "b", [], model.graph.output)
    outer.graph.node.append(onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    for at, made in enumerate((model, outer)):
        onnx.save(made, tmp_path / f"{at}.onnx")
        with pytest.raises(UntrustedCode) as caught:
            pipeline.load_model(Settings.load(tmp_path / f"{at}.onnx"))
        assert f"{domain}::{op}" in caught.value.detail


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "link.bin"])
def test_external_data_of_an_onnx_graph_stays_in_its_folder(location: str, tmp_path: Path) -> None:
    import onnx

    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(64))
    (folder / "link.bin").symlink_to("../outside.bin")
    tensor = onnx.TensorProto(name="t", dims=[2], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value=location)
    model = _node_of("")
    inner = onnx.helper.make_node("Constant", [], ["c"])
    inner.attribute.append(onnx.AttributeProto(name="value", t=tensor, type=4))
    model.graph.node.append(inner)  # not an initializer: onnxruntime reads it from there all the same
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(LoadError):
        pipeline.load_model(Settings.load(folder))


def test_a_program_of_torch_2_1_gives_its_weights(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(2, 3)}, buffer)
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("version", "1")
        archive.writestr("serialized_exported_program.json", json.dumps({"graph_module": {}, "schema_version": 1}))
        archive.writestr("serialized_state_dict.json", buffer.getvalue())
    checkpoint = open_checkpoint(tmp_path / "model.pt2")
    assert checkpoint.format == "torch-export"
    assert checkpoint.tree["weight"].load().tolist() == [[1.0] * 3] * 2
    with pytest.raises(VersionTooOld):
        pipeline.load_model(Settings.load(tmp_path))


@pytest.mark.parametrize(
    ("name", "kind", "way_out"),
    [
        ("encoder_model.onnx", "ONNX", "SCORE_CHECKPOINT=model.onnx"),
        ("onnx/decoder_model_merged.onnx", "ONNX", "SCORE_CHECKPOINT=onnx/model.onnx"),
        ("encoder.xml", "OpenVINO", "SCORE_CHECKPOINT"),
        ("tf_model.h5", "TensorFlow", "save_pretrained"),
        ("flax_model.msgpack", "Flax", "save_pretrained"),
    ],
)
def test_a_configuration_beside_other_weights_is_named_for_them(
    name: str, kind: str, way_out: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(NoWeights, match=kind) as raised:
        open_checkpoint(tmp_path)
    assert way_out in raised.value.hint
