"""Files of every format, made here: what a format's tests, and the tests of all formats, read."""

import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

State = dict[str, torch.Tensor]
Maker = Callable[[Path], State]  # writes a checkpoint below a folder and gives the weights that are in it


class Net(nn.Module):
    """A small network with everything that a state has: parameters, buffers, a counter, submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x)).relu() * self.scale
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result


def net() -> Net:
    torch.manual_seed(11)
    return Net().eval()


def torch_zip(folder: Path) -> State:
    state = net().state_dict()
    torch.save(state, folder / "model.pt")
    return state


def torch_legacy(folder: Path) -> State:
    state = net().state_dict()
    torch.save(state, folder / "model.pth", _use_new_zipfile_serialization=False)
    return state


def safetensors(folder: Path) -> State:
    state = net().state_dict()
    save_file(state, folder / "model.safetensors")
    return state


def torchscript(folder: Path) -> State:
    module: Any = torch.jit.script(net())
    module.save(str(folder / "model.pt"))
    return dict(torch.jit.load(str(folder / "model.pt")).state_dict())


def torch_export(folder: Path) -> State:
    model = net()
    program = torch.export.export(model, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, folder / "model.pt2")
    return dict(program.state_dict)


def torch_tar(folder: Path) -> State:
    """As torch 0.1.9 wrote it; torch itself has long lost the writer, and still reads it."""
    state = {name: tensor for name, tensor in net().state_dict().items() if tensor.dim()}
    kinds = {torch.float32: "FloatStorage", torch.int64: "LongStorage"}
    storages, tensors = pickle.dumps(len(state), 2), pickle.dumps(len(state), 2)
    for key, tensor in enumerate(state.values()):
        kind = _name(f"torch {kinds[tensor.dtype]}")
        storages += _tuple(_int(key), pickle.dumps("cpu", 2)[2:-1], kind) + struct.pack("<q", tensor.numel())
        storages += tensor.numpy().tobytes()
        tensors += _tuple(_int(100 + key), _int(key), _name("torch FloatTensor"))
        tensors += struct.pack("<ii", tensor.dim(), 0)
        tensors += struct.pack(f"<{2 * tensor.dim() + 1}q", *tensor.shape, *tensor.stride(), 0)
    storages += pickle.dumps([], 2)
    items = b"".join(
        pickle.dumps(name, 2)[2:-1] + b"U\x03" + str(100 + key).encode() + b"Q" for key, name in enumerate(state)
    )
    content = {
        "sys": pickle.dumps({}, 2),
        "pickle": b"\x80\x02}(" + items + b"u.",
        "tensors": tensors,
        "storages": storages,
    }
    with tarfile.open(folder / "model.pt", "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return state


def _name(text: str) -> bytes:
    module, name = text.split()
    return f"c{module}\n{name}\n".encode()


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _tuple(*parts: bytes) -> bytes:
    """A pickle of a tuple, from its parts' opcodes."""
    return b"\x80\x02(" + b"".join(parts) + b"t."


def safetensors_sharded(folder: Path) -> State:
    state = net().state_dict()
    return _sharded(folder / "model", state, "model.safetensors.index.json", save_file, "safetensors")


def torch_bin_sharded(folder: Path) -> State:
    state = net().state_dict()
    return _sharded(folder / "model", state, "pytorch_model.bin.index.json", torch.save, "bin")


def _sharded(folder: Path, state: State, index: str, save: Callable[..., Any], suffix: str) -> State:
    folder.mkdir()
    places = {name: f"model-{1 + at % 2:05}-of-00002.{suffix}" for at, name in enumerate(state)}
    for shard in set(places.values()):
        save({name: state[name] for name in state if places[name] == shard}, folder / shard)
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return state


def hf_dir(folder: Path) -> State:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": "net", "architectures": ["NoSuchModel"]}))
    return safetensors(folder / "model")


def mlflow(folder: Path) -> State:
    data = folder / "model" / "data"
    data.mkdir(parents=True)
    model = net()
    torch.save(model, data / "model.pth")
    flavor = "  pytorch:\n    model_data: data\n    pytorch_version: 2.13.0\n    code: null\n"
    (folder / "model" / "MLmodel").write_text(
        f"artifact_path: model\nflavors:\n{flavor}  python_function:\n    data: data\n"
    )
    (folder / "model" / "requirements.txt").write_text("torch==2.13.0\nnumpy==1.0.0\nnot-a-package==1\n")
    (data / "pickle_module_info.txt").write_text("mlflow.pytorch.pickle_module")
    return dict(model.state_dict())


def distcp(folder: Path) -> State:
    import torch.distributed.checkpoint as dcp

    state = net().state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(dict(state), checkpoint_id=str(folder / "model"))
    return state


def mar(folder: Path) -> State:
    state = net().state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    manifest = {"model": {"modelName": "net", "serializedFile": "net.pt", "handler": "image_classifier"}}
    with zipfile.ZipFile(folder / "model.mar", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net.pt", buffer.getvalue())
        archive.writestr("handler.py", "raise SystemExit('a handler was run')")
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    return state


def torch_package(folder: Path) -> State:
    from torch.package import PackageExporter

    model = net()
    with PackageExporter(str(folder / "model.pt")) as exporter:
        exporter.intern("tests.makers")
        exporter.intern("tests")
        exporter.extern("**")
        exporter.save_pickle("model", "model.pkl", model)
    return dict(model.state_dict())


def npz(folder: Path) -> State:
    state = net().state_dict()
    numpy.savez(folder / "model.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    return state


def onnx(folder: Path) -> State:
    """A graph of one matrix product and an addition, its weights as raw and as typed data."""
    torch.manual_seed(3)
    state = {"weight": torch.randn(3, 2), "bias": torch.randn(2)}
    builder = pytest.importorskip("onnx")
    helper, float_type = builder.helper, builder.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["xw"]), helper.make_node("Add", ["xw", "bias"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", float_type, ["N", 3])],
        [helper.make_tensor_value_info("y", float_type, ["N", 2])],
        [
            helper.make_tensor("weight", float_type, [3, 2], state["weight"].numpy().tobytes(), raw=True),
            helper.make_tensor("bias", float_type, [2], state["bias"].tolist()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="tests")
    model.ir_version = 8
    builder.save(model, str(folder / "model.onnx"))
    return state


def openvino(folder: Path) -> State:
    """The same graph as OpenVINO writes it, in a folder with its two files."""
    torch.manual_seed(3)
    state = {"weight": torch.randn(3, 2), "bias": torch.randn(2)}
    runtime = pytest.importorskip("openvino")
    opset = runtime.opset13
    x = opset.parameter([-1, 3], numpy.float32, name="x")
    x.output(0).set_names({"x"})
    weight, bias = (opset.constant(value.numpy(), name=name) for name, value in state.items())
    y = opset.add(opset.matmul(x, weight, False, False), bias)
    y.output(0).set_names({"y"})
    (folder / "model").mkdir()
    runtime.save_model(runtime.Model([y], [x], "net"), folder / "model" / "graph.xml", compress_to_fp16=False)
    return state


def aot_inductor(folder: Path) -> State:
    """The layout of a compiled package, with a library that is none: it is never loaded in a fast test."""
    with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/data/aotinductor/model/model.wrapper.so", b"\x7fELF" + bytes(60))
    return {}


def pickled(folder: Path) -> State:
    """As `pickle.dump(model.state_dict(), file)` writes it."""
    state = net().state_dict()
    (folder / "model.pkl").write_bytes(pickle.dumps(state))
    return state


def archive(folder: Path) -> State:
    """As SageMaker has it: a compressed tar of what a folder held."""
    content = io.BytesIO()
    state = net().state_dict()
    torch.save(state, content)
    with tarfile.open(folder / "model.tar.gz", "w:gz") as packed:
        for name, data in (("config.yaml", b"epochs: 3\n"), ("weights/model.pth", content.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return state


def deepspeed(folder: Path) -> State:
    """As DeepSpeed writes two ranks of ZeRO's second stage: the weights of a group flattened, filled up, and halved."""
    model, place = net(), folder / "model" / "global_step10"
    place.mkdir(parents=True)
    (folder / "model" / "latest").write_text("global_step10")
    state, shapes = model.state_dict(), [{}, {}]
    for name, parameter in model.named_parameters():
        shapes[name.endswith("bias")][name] = parameter.shape
    ranks: list[list[torch.Tensor]] = [[], []]
    for group in shapes:
        flat = torch.cat([state[name].flatten() for name in group])
        padded = torch.nn.functional.pad(flat, (0, -len(flat) % 4))
        for rank, half in zip(ranks, padded.chunk(2), strict=True):
            rank.append(half.clone())
    for rank, flats in enumerate(ranks):
        kept = {"zero_stage": 2, "partition_count": [2, 2], "single_partition_of_fp32_groups": flats}
        torch.save({"optimizer_state_dict": kept}, place / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    buffers = [name for name, _ in model.named_buffers() if name in state]
    module = {
        name: value.half() if value.is_floating_point() and name not in buffers else value
        for name, value in state.items()
    }
    said = {
        "module": module,
        "buffer_names": buffers,
        "param_shapes": shapes,
        "shared_params": {},
        "ds_version": "0.19",
    }
    torch.save(said, place / "mp_rank_00_model_states.pt")
    return state


def rank_files(folder: Path) -> State:
    """As two ranks save what FSDP cut among them."""
    from torch import distributed
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    (folder / "model").mkdir()
    state = net().state_dict()
    for rank in (0, 1):
        distributed.init_process_group("fake", rank=rank, world_size=2, store=FakeStore())
        mesh = init_device_mesh("cpu", (2,))
        parts = dict(state)
        for name, value in state.items():
            if value.ndim:
                size = {"shape": value.shape, "stride": value.stride()}
                half = value.chunk(2)[rank].clone()
                parts[name] = DTensor.from_local(half, mesh, [Shard(0)], run_check=False, **size)
        torch.save(parts, folder / "model" / f"rank_{rank}.pt")
        distributed.destroy_process_group()
    return state


def llama_consolidated(folder: Path) -> State:
    """The smallest Llama of Meta's, cut among two GPUs, and its weights as transformers names and orders them."""
    torch.manual_seed(4)
    (folder / "model").mkdir()
    said = {"dim": 8, "n_layers": 1, "n_heads": 2, "vocab_size": 6, "multiple_of": 4, "norm_eps": 1e-5}
    (folder / "model" / "params.json").write_text(json.dumps(said))
    rows = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj"}
    rows |= {"feed_forward.w1": "mlp.gate_proj", "feed_forward.w3": "mlp.up_proj"}
    columns = {"attention.wo": "self_attn.o_proj", "feed_forward.w2": "mlp.down_proj"}
    norms = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    shapes = {"feed_forward.w1": (12, 8), "feed_forward.w3": (12, 8), "feed_forward.w2": (8, 12)}
    state, halves = {}, [{}, {}]
    for theirs, ours in {**rows, **columns, **norms, "tok_embeddings": "", "norm": "", "output": ""}.items():
        top = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}.get(theirs)
        size = (6, 8) if top and theirs != "norm" else shapes.get(theirs, (8, 8))
        value = torch.randn(8) if theirs in norms or theirs == "norm" else torch.randn(size)
        for rank, half in enumerate(halves):
            part = value if value.ndim == 1 else value.chunk(2, 1 if theirs in columns else 0)[rank]
            half[f"{theirs}.weight" if top else f"layers.0.{theirs}.weight"] = part.clone()
        if theirs in ("attention.wq", "attention.wk"):  # from pairs of neighbours to halves
            value = value.view(2, 2, 2, 8).transpose(1, 2).reshape(8, 8)
        state[f"{top}.weight" if top else f"model.layers.0.{ours}.weight"] = value
    for rank, half in enumerate(halves):
        torch.save(half, folder / "model" / f"consolidated.{rank:02}.pth")
    return state


def megatron(folder: Path) -> State:
    state, place = net().state_dict(), folder / "model" / "iter_0000100" / "mp_rank_00"
    place.mkdir(parents=True)
    (folder / "model" / "latest_checkpointed_iteration.txt").write_text("100")
    torch.save({"checkpoint_version": 3.0, "iteration": 100, "model": state}, place / "model_optim_rng.pt")
    return state


def gguf(folder: Path) -> State:
    from gguf import GGUFWriter

    state = net().state_dict()
    writer = GGUFWriter(folder / "model.gguf", "net")
    for name, value in state.items():
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state


MAKERS: dict[str, Maker] = {
    "torch-zip": torch_zip,
    "torch-legacy": torch_legacy,
    "torch-tar": torch_tar,
    "safetensors": safetensors,
    "safetensors-sharded": safetensors_sharded,
    "torch-bin-sharded": torch_bin_sharded,
    "torchscript": torchscript,
    "torch-export": torch_export,
    "aot-inductor": aot_inductor,
    "torch-package": torch_package,
    "hf-dir": hf_dir,
    "mlflow": mlflow,
    "distcp": distcp,
    "deepspeed": deepspeed,
    "megatron": megatron,
    "llama-consolidated": llama_consolidated,
    "rank-files": rank_files,
    "mar": mar,
    "onnx": onnx,
    "openvino": openvino,
    "npz": npz,
    "pickle": pickled,
    "archive": archive,
    "gguf": gguf,
}


def scripted_program(folder: Path) -> State:
    """A TorchScript program with text, lists, a loop and an LSTM."""

    class Loops(nn.Module):
        names: list[str]

        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lstm, self.names = nn.Linear(4, 3), nn.LSTM(3, 3, batch_first=True), ["a", "b"]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.fc(x)
            for at in range(len(self.names)):
                z = z + at
            while bool(z.sum() > 100.0):
                z = z / 2
            out, _ = self.lstm(z[:, None])
            return out[:, 0]

    torch.manual_seed(3)
    torch.jit.script(Loops().eval()).save(str(folder / "model.pt"))
    return {}


def exported_program(folder: Path) -> State:
    """A torch.export program with free sizes, arithmetic on them, and attention."""
    torch.manual_seed(3)
    encoder, auto = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.export.Dim.AUTO
    program = torch.export.export(encoder, (torch.rand(2, 5, 8),), dynamic_shapes=({0: auto, 1: auto},))
    torch.export.save(program, folder / "model.pt2")
    return {}


PROGRAMS: dict[str, Maker] = {"scripted-program": scripted_program, "exported-program": exported_program}
