"""What trainers cut among ranks, put together without them; the files are written by real processes."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import score
from score.errors import LoadError, MalformedFile, NoWeights, WeightsMismatch
from score.formats import registry
from score.settings import Settings
from score.weights import select
from score.weights.opened import open_weights
from tests import makers

WRITES = """
import sys
import torch
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

rank, world, port, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
torch.manual_seed(0)
mesh = init_device_mesh("cpu", (world,))
w, b = torch.randn(7, 4), torch.randn(5)
cuts = {"rows": [Shard(0)], "columns": [Shard(1)]}
state = {name: distribute_tensor(w, mesh, cut) for name, cut in cuts.items()}
state |= {"all": distribute_tensor(b, mesh, [Replicate()]), "plain": torch.ones(2)}
torch.save({"model": state, "epoch": 3}, f"{out}/dtensor/model_{rank}.pt")
grid = init_device_mesh("cpu", (2, world // 2))
both = {"grid": distribute_tensor(w, grid, [Shard(0), Shard(1)])}
both |= {"half": distribute_tensor(w, grid, [Replicate(), Shard(0)])}
torch.save(both, f"{out}/grid/rank{rank}.pth")
model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
full = {name: value.clone() for name, value in model.state_dict().items()}
wrapped = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
with FullyShardedDataParallel.state_dict_type(wrapped, StateDictType.SHARDED_STATE_DICT):
    torch.save(wrapped.state_dict(), f"{out}/sharded/shard-{rank}-of-{world}.pt")
with FullyShardedDataParallel.state_dict_type(wrapped, StateDictType.LOCAL_STATE_DICT):
    torch.save(wrapped.state_dict(), f"{out}/local/rank_{rank}.pt")
from functools import partial
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from trained import Layer, Net

torch.manual_seed(1)
net = Net()
net(torch.randn(8, 6))  # the batch norm has seen something
nested = {name: value.clone() for name, value in net.state_dict().items()}
policy = ModuleWrapPolicy({Layer})
net = FullyShardedDataParallel(net, auto_wrap_policy=policy, device_id=torch.device("cpu"))
with FullyShardedDataParallel.state_dict_type(net, StateDictType.LOCAL_STATE_DICT):
    torch.save({"model": net.state_dict()}, f"{out}/nested/rank{rank}.pt")
again = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
again.load_state_dict(full)
fully_shard(again, mesh=mesh)
torch.save(again.state_dict(), f"{out}/fsdp2/model_{rank}.pt")
if rank == 0:
    torch.save({"w": w, "b": b, "full": full, "nested": nested}, f"{out}/wanted.pt")
distributed.destroy_process_group()
"""
# Units within a unit, a weight that is shared in one of them, and buffers.
TRAINED = """
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width))
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight

    def forward(self, x):
        return x + self.second(self.first(x).relu() * self.scale)


class Net(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))
        self.layers = nn.ModuleList([Layer(width), Layer(width)])
        self.norm, self.head = nn.BatchNorm1d(width), nn.Linear(width, 3, bias=False)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)) / self.temperature
"""
KINDS = ("dtensor", "grid", "sharded", "local", "nested", "fsdp2")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four processes with gloo wrote."""
    out = tmp_path_factory.mktemp("ranks")
    for kind in KINDS:
        (out / kind).mkdir()
    (out / "trained.py").write_text(TRAINED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WRITES, str(rank), "4", port, str(out)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(out)},
            stderr=subprocess.PIPE,
        )
        for rank in range(4)
    ]
    for rank in ranks:
        _, said = rank.communicate(timeout=120)
        assert rank.returncode == 0, said.decode()[-2000:]
    return out


def weights(path: Path) -> dict[str, torch.Tensor]:
    found = open_weights(Settings.load(path)).weights
    assert found is not None
    return {name: ref.load() for name, ref in found.tensors.items()}


def the_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def test_dtensors_are_put_together(written: Path) -> None:
    wanted = torch.load(written / "wanted.pt")
    plain = {"all": wanted["b"], "plain": torch.ones(2)}
    the_same(weights(written / "dtensor"), {"rows": wanted["w"], "columns": wanted["w"], **plain})
    assert open_weights(Settings.load(written / "dtensor")).checkpoint.metadata["epoch"] == 3
    the_same(weights(written / "grid"), {"grid": wanted["w"], "half": wanted["w"]})


@pytest.mark.parametrize("kind", ["sharded", "fsdp2"])
def test_what_fsdp_cut_is_put_together(written: Path, kind: str) -> None:
    the_same(weights(written / kind), torch.load(written / "wanted.pt")["full"])


def test_a_flat_parameter_has_lost_its_names(written: Path) -> None:
    for kind in ("local", "nested"):
        with pytest.raises(NoWeights, match="flat") as raised:
            score.load(written / kind)
        assert "SCORE_ARCHITECTURE" in raised.value.screen()
        with pytest.raises(NoWeights, match="flat"):
            score.open_weights(written / kind)


def test_with_its_class_a_flat_parameter_is_what_it_was_made_of(written: Path) -> None:
    named = {"architecture": f"{written / 'trained.py'}:Net"}
    wanted = torch.load(written / "wanted.pt")["nested"]
    found = score.open_weights(written / "nested", **named)
    tied = {f"layers.{at}.second.weight" for at in range(2)}
    the_same(dict(found), {name: value for name, value in wanted.items() if name not in tied})
    x = torch.randn(4, 6)
    with torch.inference_mode():
        served = score.load(written / "nested", **named)(x)
        torch.testing.assert_close(served, _trained(written, wanted)(x))


def _trained(folder: Path, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    space: dict[str, Any] = {"__name__": "trained"}
    exec((folder / "trained.py").read_text(), space)
    net: torch.nn.Module = space["Net"]()
    net.load_state_dict(state)
    return net.eval()


def test_a_class_of_other_sizes_is_not_filled(written: Path) -> None:
    with pytest.raises(WeightsMismatch, match=r"_flat_param holds .* numbers .* parameters of Net are"):
        score.load(written / "nested", architecture=f"{written / 'trained.py'}:Net", architecture_kwargs={"width": 7})
    with pytest.raises(WeightsMismatch, match="has no module layers"):
        score.load(written / "nested", architecture="SimpleModel")


@pytest.mark.parametrize(
    ("kind", "rank"), [("dtensor", 0), ("dtensor", 2), ("dtensor", 3), ("sharded", 0), ("sharded", 2)]
)
def test_without_a_rank_nothing_is_made_up(written: Path, kind: str, rank: int, tmp_path: Path) -> None:
    shutil.copytree(written / kind, tmp_path / "model")
    gone = next(each for each in (tmp_path / "model").iterdir() if str(rank) in each.stem.replace("of-4", ""))
    gone.unlink()
    with pytest.raises(LoadError):
        weights(tmp_path / "model")


def test_one_ranks_file_alone_says_what_it_is(written: Path) -> None:
    with pytest.raises(NoWeights, match="one rank's pieces"):
        weights(written / "sharded" / "shard-1-of-4.pt")


def test_ranks_that_differ_are_refused(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "fsdp2", tmp_path / "model")
    torch.save({"0.weight": torch.ones(2)}, tmp_path / "model" / "model_2.pt")
    with pytest.raises(MalformedFile, match="different things"):
        weights(tmp_path / "model")


def test_numbered_checkpoints_of_plain_tensors_are_several(tmp_path: Path) -> None:
    for number in (0, 1):
        torch.save(makers.net().state_dict(), tmp_path / f"model_{number}.pt")
    assert registry.detect(tmp_path) is None


# DeepSpeed


def _stage_three(folder: Path, *, ranks: int = 3) -> dict[str, torch.Tensor]:
    """As DeepSpeed writes the third stage: each weight filled up and cut; copies in the model's files are empty."""
    folder.mkdir()
    model = makers.net()
    state, names = model.state_dict(), [name for name, _ in model.named_parameters()]
    frozen = names.pop()
    buffers = [name for name, _ in model.named_buffers() if name in state]

    def cut(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = value.flatten()
        return torch.nn.functional.pad(flat, (0, -len(flat) % ranks)).chunk(ranks)

    for rank in range(ranks):
        flats = [cut(state[name])[rank] for name in names]
        groups = [torch.cat(flats[:2]), torch.cat(flats[2:])]  # sub-groups end wherever memory does
        kept = {"zero_stage": 3, "partition_count": ranks, "fp32_flat_groups": groups}
        file = f"zero_pp_rank_{rank}_mp_rank_00"
        torch.save({"optimizer_state_dict": kept}, folder / f"bf16_{file}_optim_states.pt")
        module = {name: state[name] if name in buffers else torch.empty(0) for name in state}
        said: dict[str, Any] = {"module": module, "buffer_names": buffers, "shared_params": {"tied": names[0]}}
        said |= {"param_shapes": [{name: state[name].shape for name in names}], "ds_version": "0.19"}
        said |= {
            "frozen_param_shapes": {frozen: state[frozen].shape},
            "frozen_param_fragments": {frozen: cut(state[frozen])[rank]},
        }
        torch.save(said, folder / f"{file}_model_states.pt")
    return {**state, "tied": state[names[0]]}


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_zero_of_the_third_stage(ranks: int, tmp_path: Path) -> None:
    state = _stage_three(tmp_path / "global_step1", ranks=ranks)
    the_same(weights(tmp_path), state)


def test_a_frozen_weight_that_is_in_no_partition_is_not_lost(tmp_path: Path) -> None:
    state = makers.deepspeed(tmp_path)
    file = tmp_path / "model" / "global_step10" / "mp_rank_00_model_states.pt"
    said = torch.load(file)
    said["module"]["frozen.weight"] = torch.ones(3, 3)
    torch.save(said, file)
    the_same(weights(tmp_path), {**state, "frozen.weight": torch.ones(3, 3)})


@pytest.mark.parametrize("gone", ["0_*optim*", "1_*optim*", "2_*optim*", "1_*model*"])
def test_without_a_partition_it_is_refused(gone: str, tmp_path: Path) -> None:
    _stage_three(tmp_path / "global_step1")
    for each in (tmp_path / "global_step1").glob(f"*pp_rank_{gone}"):
        each.unlink()
    with pytest.raises(MalformedFile):
        weights(tmp_path)


def test_parts_of_model_parallel_ranks_are_named(tmp_path: Path) -> None:
    _stage_three(tmp_path / "global_step1")
    first = next((tmp_path / "global_step1").glob("*rank_0*model*"))
    shutil.copy(first, first.with_name(first.name.replace("mp_rank_00", "mp_rank_01")))
    with pytest.raises(NoWeights, match="model-parallel"):
        weights(tmp_path)


@pytest.mark.parametrize("latest", [b"../outside", b"/etc", b"nothing", b"", b"\x00\x85\xff", b"a" * 5000])
def test_latest_leads_nowhere_else(latest: bytes, tmp_path: Path) -> None:
    _stage_three(tmp_path / "outside")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "latest").write_bytes(latest)
    assert registry.detect(tmp_path / "model") is None


def test_shapes_that_are_not_those_of_the_partitions_are_refused(tmp_path: Path) -> None:
    makers.deepspeed(tmp_path)
    file = tmp_path / "model" / "global_step10" / "mp_rank_00_model_states.pt"
    said = torch.load(file)
    for shape in ((400, 4), (-1, 4), "many"):
        said["param_shapes"][0]["head.weight"] = shape
        torch.save(said, file)
        with pytest.raises(MalformedFile):
            select.weights_of(registry.open_checkpoint(tmp_path / "model"))
