"""What gives features of several sizes: parts of a classifier, and a pyramid on top of them (Lin 2016)."""

import torch
from torch.nn import functional as F

from score.architectures.block import Block, words

MOST_ANCHORS = 100  # sizes, or shapes, of a feature
Named = dict[str, torch.Tensor]
"""Features by name, the largest first."""


class LayerGetter(Block):
    """Parts one after the other, and what those that are listed give, by the names there."""

    ANY = True
    KEPT = NEEDS = words("return_layers")

    def unknown(self) -> str:
        said = self.return_layers
        return "" if isinstance(said, dict) and said.keys() <= self._modules.keys() else "return_layers"

    def forward(self, x: torch.Tensor) -> Named:
        found: Named = {}
        for name, part in self._modules.items():
            assert part is not None
            x = part(x)
            if name in self.return_layers:
                found[str(self.return_layers[name])] = x
        return found


class WithPyramid(Block):
    PARTS = words("body fpn")

    def forward(self, x: torch.Tensor) -> Named:
        return self.fpn(self.body(x))


class Pyramid(Block):
    PARTS, MAY = words("inner_blocks layer_blocks"), words("extra_blocks")

    def forward(self, x: Named) -> Named:
        given = list(x.values())
        above, found = None, []
        for inner, layer, feature in zip(
            reversed(self.inner_blocks), reversed(self.layer_blocks), reversed(given), strict=True
        ):
            y = inner(feature)
            above = y if above is None else y + F.interpolate(above, size=y.shape[-2:], mode="nearest")
            found.append(layer(above))
        pyramid = dict(zip(x, reversed(found), strict=True))
        return self.extra_blocks(pyramid, given[-1]) if "extra_blocks" in self._modules else pyramid


class LastMaxPool(Block):
    """One more, half as large."""

    def forward(self, pyramid: Named, _last: torch.Tensor) -> Named:
        smallest = list(pyramid.values())[-1]
        return {**pyramid, "pool": F.max_pool2d(smallest, 1, 2, 0)}


class LastP6P7(Block):
    """Two more, of the pyramid's smallest or of what that was made of (Lin 2017)."""

    PARTS = words("p6 p7")
    KEPT = NEEDS = words("use_P5")

    def forward(self, pyramid: Named, last: torch.Tensor) -> Named:
        p6 = self.p6(list(pyramid.values())[-1] if self.use_P5 else last)
        return {**pyramid, "p6": p6, "p7": self.p7(F.relu(p6))}


class FrozenBatchNorm2d(Block):
    """Older versions added nothing to the variance, and had no `eps`."""

    KEPT = words("eps")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias, mean, variance = (
            getattr(self, name).reshape(1, -1, 1, 1) for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight * (variance + self.__dict__.get("eps", 0.0)).rsqrt()
        return x * scale + (bias - mean * scale)


class SSDFeaturesVGG(Block):
    """Liu 2015: the first features normalised, with a weight for each channel."""

    PARTS = words("features extra")

    def forward(self, x: torch.Tensor) -> Named:
        x = self.features(x)
        found = [self.scale_weight.view(1, -1, 1, 1) * F.normalize(x)]
        for block in self.extra:
            x = block(x)
            found.append(x)
        return {str(at): each for at, each in enumerate(found)}


class SSDFeaturesMobile(Block):
    """Sandler 2018."""

    PARTS = words("features extra")

    def forward(self, x: torch.Tensor) -> Named:
        found = []
        for block in (*self.features, *self.extra):
            x = block(x)
            found.append(x)
        return {str(at): each for at, each in enumerate(found)}


class Anchors(Block):
    """Boxes of each size and shape around each place of each feature."""

    KEPT = NEEDS = words("sizes aspect_ratios")

    def unknown(self) -> str:
        given = (*self.sizes, *self.aspect_ratios)
        pairs = all(isinstance(each, (list, tuple)) and len(each) < MOST_ANCHORS for each in given)
        return "" if pairs and len(self.sizes) == len(self.aspect_ratios) else "sizes"

    def forward(self, picture: torch.Size, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """For a picture [N, C, H, W], one [h x w x A, 4] a feature."""
        return [
            self._of(each, picture, sizes, ratios)
            for each, sizes, ratios in zip(features, self.sizes, self.aspect_ratios, strict=True)
        ]

    def _of(self, feature: torch.Tensor, picture: torch.Size, sizes: list[int], ratios: list[float]) -> torch.Tensor:
        high = torch.sqrt(torch.as_tensor(ratios, dtype=torch.float32))
        scales = torch.as_tensor(sizes, dtype=torch.float32)
        wide, high = ((side[:, None] * scales[None]).view(-1) for side in (1 / high, high))
        around = (torch.stack((-wide, -high, wide, high), 1) / 2).round().to(feature)
        steps = (picture[-2] // feature.shape[-2], picture[-1] // feature.shape[-1])
        pairs = zip(feature.shape[-2:], steps, strict=True)
        y, x = (torch.arange(count, device=feature.device) * step for count, step in pairs)
        y, x = torch.meshgrid(y, x, indexing="ij")
        places = torch.stack((x, y, x, y), -1).reshape(-1, 1, 4)
        return (places + around[None]).reshape(-1, 4)


class DefaultBoxes(Block):
    """SSD's: two squares, and two boxes of each shape, around each place; in shares of the picture."""

    KEPT = NEEDS = words("aspect_ratios steps clip scales")

    def forward(self, picture: torch.Size, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """For a picture [N, C, H, W], one [h x w x A, 4] a feature."""
        high, wide = picture[-2:]
        size = features[0].new_tensor((wide, high))
        found = []
        for at, feature in enumerate(features):
            rows, columns = feature.shape[-2:]
            step = self.steps[at] if self.steps is not None else None
            tall, broad = (rows, columns) if step is None else (high / step, wide / step)
            y = ((torch.arange(rows) + 0.5) / tall).to(torch.float32)
            x = ((torch.arange(columns) + 0.5) / broad).to(torch.float32)
            y, x = torch.meshgrid(y, x, indexing="ij")
            sides = self._sides(at)
            middles = torch.stack((x, y), -1).reshape(-1, 1, 2).expand(-1, len(sides), 2).reshape(-1, 2).to(feature)
            sides = sides.to(feature).repeat(rows * columns, 1)
            found.append(torch.cat(((middles - 0.5 * sides) * size, (middles + 0.5 * sides) * size), 1))
        return found

    def _sides(self, at: int) -> torch.Tensor:
        scale, between = self.scales[at], (self.scales[at] * self.scales[at + 1]) ** 0.5
        pairs = [[scale, scale], [between, between]]
        for ratio in self.aspect_ratios[at]:
            root = ratio**0.5
            pairs += [[scale * root, scale / root], [scale / root, scale * root]]
        found = torch.as_tensor(pairs, dtype=torch.float32)
        return found.clamp(0, 1) if self.clip else found
