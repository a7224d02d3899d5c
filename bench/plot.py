"""Draw what bench/serve.py measured: `python bench/plot.py serve.json serve.svg`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.patches
from matplotlib import pyplot

OURS = "loadstone"


def main(source: Path, target: Path) -> None:
    everything = json.loads(source.read_text())
    names = list(dict.fromkeys(name for results in everything.values() for name in results))
    others = iter([color for at, color in enumerate(pyplot.get_cmap("tab20").colors) if at not in (6, 7)])  # no red
    colors = {name: "#d1242f" if name == OURS else next(others) for name in names}
    figure, axes = pyplot.subplots(1, len(everything), figsize=(4 * len(everything), 3.8), squeeze=False)
    for axis, (title, results) in zip(axes[0], everything.items(), strict=True):
        connections = list(next(iter(results.values())))
        width = 0.8 / len(results)
        for place, (name, found) in enumerate(results.items()):
            at = [number + place * width for number in range(len(connections))]
            axis.bar(at, [found[count]["rps"] for count in connections], width, label=name, color=colors[name])
        axis.set_xticks([number + 0.4 - width / 2 for number in range(len(connections))], connections)
        axis.set_title(title)
        axis.set_xlabel("connections")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("requests/s")
    handles = [matplotlib.patches.Patch(color=color, label=name) for name, color in colors.items()]
    figure.legend(handles=handles, loc="lower center", ncols=len(names), frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
