"""Boxes read in features, and masks put into pictures, held against other ways to compute the same."""

import pytest
import torch
from torch.nn import functional as F

from score.architectures.detection_blocks import boxes, regions


@pytest.mark.parametrize("middles", [True, False])
@pytest.mark.parametrize("sampling", [1, 2, 0])
def test_a_box_is_read_as_a_grid_of_points(middles: bool, sampling: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 12, 10)
    box = torch.tensor([[2.0, 3.0, 14.0, 17.0], [4.5, 2.5, 16.0, 20.0]])
    found = boxes.aligned(x, box, torch.tensor([1, 0]), 0.5, (3, 2), sampling, middles=middles)
    for at, owner in enumerate((1, 0)):
        left, top, right, bottom = (box[at] * 0.5 - (0.5 if middles else 0.0)).tolist()
        high, wide = (bottom - top) / 3, (right - left) / 2
        down, across = (sampling or int(-(-side // 1)) for side in (high, wide))
        y = top + (torch.arange(3 * down) + 0.5) * high / down
        x_ = left + (torch.arange(2 * across) + 0.5) * wide / across
        grid = torch.stack(torch.meshgrid(x_ / (10 - 1) * 2 - 1, y / (12 - 1) * 2 - 1, indexing="xy"), -1)
        points = F.grid_sample(x[owner][None], grid[None], align_corners=True)[0]
        torch.testing.assert_close(found[at], F.avg_pool2d(points, (down, across)))


def test_a_box_without_an_area_is_empty() -> None:
    found = boxes.aligned(
        torch.ones(1, 1, 4, 4), torch.tensor([[2.0, 2.0, 2.0, 3.0]]), torch.tensor([0]), 1.0, (2, 2), 0, middles=True
    )
    assert torch.equal(found, torch.zeros(1, 1, 2, 2))


def test_each_box_is_read_in_the_feature_of_its_level() -> None:
    layers = torch.nn.ModuleList([regions.Align(), regions.Align()])
    for layer, scale in zip(layers, (1.0, 0.5), strict=True):
        layer.output_size, layer.spatial_scale, layer.sampling_ratio = (1, 1), scale, 1
    features = [torch.full((2, 1, 8, 8), 1.0), torch.full((2, 1, 4, 4), 2.0)]
    features[1][1] += 5.0
    given = [torch.tensor([[1.0, 1.0, 3.0, 3.0]]), torch.tensor([[2.0, 2.0, 6.0, 6.0], [1.0, 1.0, 2.0, 2.0]])]
    found = regions.read(layers, features, given, torch.tensor([0, 1, 0]))
    assert found.flatten().tolist() == [1.0, 7.0, 1.0]
    assert regions.read(layers[:1], features[:1], given, torch.tensor([0, 0, 0])).flatten().tolist() == [1.0] * 3


def test_a_mask_covers_the_middles_of_pixels_within_its_box() -> None:
    box = torch.tensor([[1.4, 0.0, 4.6, 2.4], [-3.0, 1.0, 1.0, 9.0], [20.0, 20.0, 30.0, 30.0], [0.0, 6.0, 3.0, 9.0]])
    found = regions.pasted(torch.ones(4, 7, 7), box, (5, 6), 0.5)
    assert found.dtype == torch.bool
    assert found[0].nonzero().tolist() == [[y, x] for y in (0, 1) for x in (1, 2, 3, 4)]
    assert found[1].nonzero().tolist() == [[y, 0] for y in (1, 2, 3, 4)]
    assert not found[2:].any()
