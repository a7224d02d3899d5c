"""The backends for GPUs: on one where there is one, and their own part of it on a made-up recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.inference.tuning import processor
from score.inference.tuning.backends import BACKENDS, cuda_graphs, folded, half
from score.inference.tuning.backends.base import NotPossible, Subject
from score.inference.tuning.samples import Samples

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Recorded:
    """Computes again, and puts what it finds where the first outputs lie, as a graph of CUDA's does."""

    made: list[int] = []  # noqa: RUF012  # rows, of all

    def __init__(self, compute: cuda_graphs.Compute, inputs: Sequence[torch.Tensor]) -> None:
        self._compute, self._inputs = compute, inputs
        self.outputs = [value.clone() for value in compute(inputs)]
        self.made.append(len(inputs[0]))

    def replay(self) -> None:
        for place, value in zip(self.outputs, self._compute(self._inputs), strict=True):
            place.copy_(value)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layer(x) * y, x.sum(1)


def subject(module: nn.Module, *samples: dict[str, torch.Tensor], device: torch.device = CPU) -> Subject:
    return Subject(module.to(device).eval(), Samples(tuple(samples[0]), samples), device, 1)


def rows(count: int) -> dict[str, torch.Tensor]:
    return {"x": torch.rand(count, 3), "y": torch.rand(count, 1)}


def test_a_pass_is_padded_to_the_next_power_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorded, "made", [])
    module = Two()
    run = cuda_graphs.build(subject(module, rows(1), rows(5)), Recorded).run
    with torch.inference_mode():
        kept = []
        for count in (5, 3, 8, 1, 5, 4):
            given = rows(count)
            found = run(list(given.values()))
            kept.append((found, module(**given)))
        for found, wanted in kept:  # nor is an answer changed by what runs after it
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, other)
    assert Recorded.made == [8, 4, 1]
    assert [cuda_graphs.padded(count) for count in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]


def test_what_is_padded_is_empty() -> None:
    """A row of an earlier request is not there any more while a later one runs."""
    seen: list[torch.Tensor] = []

    class Seen(Two):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(x.clone())
            return super().forward(x, y)

    run = cuda_graphs.build(subject(Seen(), rows(1), rows(4)), Recorded).run
    with torch.inference_mode():
        run(list(rows(4).values()))
        run(list(rows(3).values()))
    assert not seen[-1][3].any() and seen[-1][:3].any()


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (({"x": torch.rand(1, 3)}, {"x": torch.rand(2, 4)}), "other free sizes"),
        (({"x": torch.rand(1, 3), "y": torch.rand(3)}, {"x": torch.rand(2, 3), "y": torch.rand(3)}), "no rows"),
    ],
)
def test_sizes_that_no_graph_has(samples: Any, why: str) -> None:
    with pytest.raises(NotPossible, match=why):
        cuda_graphs.build(subject(nn.Identity(), *samples), Recorded)


def test_an_output_without_rows() -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean()

    run = cuda_graphs.build(subject(Mean(), {"x": torch.rand(1, 3)}, {"x": torch.rand(2, 3)}), Recorded).run
    with pytest.raises(NotPossible, match="no rows"):
        run([torch.rand(2, 3)])


def test_what_is_for_gpus_is_out_on_a_cpu() -> None:
    assert BACKENDS["cuda-graphs"].missing(CPU) == "it is for GPUs here"


@pytest.mark.parametrize("flag", ["avx512_fp16", "asimdhp", "avx512_bf16"])
def test_float16_on_a_cpu_by_what_it_can(flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu {flag} avx2\n\n")
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    out = "the processor has no float16" if flag == "avx512_bf16" else None
    assert BACKENDS["fp16"].missing(CPU) == BACKENDS["fp16-autocast"].missing(CPU) == out
    assert processor.name(CPU) == f"A CPU ({' '.join(sorted(('avx2', flag)))})"
    if BACKENDS["openvino"].missing(CPU) is None:
        assert BACKENDS["openvino-fp16"].missing(CPU) == out


@pytest.mark.parametrize(("capability", "out"), [((5, 0), True), ((5, 3), False), ((9, 0), False)])
def test_float16_by_what_the_gpu_can(capability: tuple[int, int], out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: not out)
    assert (half.no_half(GPU) is not None) == (half.no_bfloat16(GPU) is not None) == out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_as_many_bits_answer_in_the_precision_that_there_was(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    given = {"input": torch.rand(2, 3, 8, 8)}
    for built in (half.whole(subject(module, given), dtype), half.products(subject(module, given), dtype)):
        (found,) = built.run(list(given.values()))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, module(**given), rtol=0.05, atol=0.05)
    assert module[0].weight.dtype == torch.float32


def test_norms_are_folded_into_convolutions() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2)
    given = {"input": torch.rand(2, 3, 8, 8)}
    (found,) = folded.build(subject(module, given)).run(list(given.values()))
    torch.testing.assert_close(found, module(**given))
    assert found.is_contiguous()
    assert isinstance(module[1], nn.BatchNorm2d)  # the model keeps its own


def test_norms_that_can_not_be_folded() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x) if x.sum() > 0 else x

    given = {"x": torch.rand(1, 3, 4, 4)}
    for module, why in (
        (nn.Sequential(nn.Conv2d(3, 2, 1)), "no batch norm"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)), "no batch norm follows"),
        (Branches(), "torch.fx"),
    ):
        named = {"input" if isinstance(module, nn.Sequential) else "x": given["x"]}
        with pytest.raises(NotPossible, match=why):
            folded.build(subject(module, named))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cuda-graphs", "fp16", "fp16-autocast", "bf16", "folded", "channels-last"])
def test_on_a_gpu(name: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    samples = [{"input": torch.rand(count, 3, 8, 8, device="cuda")} for count in (1, 2, 6)]
    made = subject(module, *samples, device=GPU)
    if (why := BACKENDS[name].missing(GPU)) is not None:
        pytest.skip(why)
    with torch.inference_mode():
        run = BACKENDS[name].build(made).run
        for given in (*samples, *samples):
            (found,) = run(list(given.values()))
            torch.testing.assert_close(found, module(**given), rtol=0.02, atol=0.02)
