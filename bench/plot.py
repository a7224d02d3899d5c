"""Draw what bench/serve.py measured: `python bench/plot.py serve.json serve.svg`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

OURS = "loadstone"


def main(source: Path, target: Path) -> None:
    everything = json.loads(source.read_text())
    figure, axes = pyplot.subplots(1, len(everything), figsize=(4.6 * len(everything), 3.6), squeeze=False)
    for axis, (title, results) in zip(axes[0], everything.items(), strict=True):
        connections = list(next(iter(results.values())))
        width = 0.8 / len(results)
        for place, (name, found) in enumerate(results.items()):
            at = [number + place * width for number in range(len(connections))]
            color = "#d1242f" if name == OURS else pyplot.get_cmap("Greys")(0.75 - 0.08 * place)
            axis.bar(at, [found[count]["rps"] for count in connections], width, label=name, color=color)
        axis.set_xticks([number + 0.4 - width / 2 for number in range(len(connections))], connections)
        axis.set_title(title)
        axis.set_xlabel("connections")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("requests/s")
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
