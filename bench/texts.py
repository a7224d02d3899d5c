"""What batching gives a text model: requests per second of texts that differ in length, 16 and 64 connections.

    python bench/texts.py [--seconds 8] [--rounds 3]

A classifier of DistilBERT's size with random weights, and 64 texts of 4 to 40 words that the clients send in turns. It
is served by this project; by this project with `SCORE_MAX_BATCH=1`; and by azmlinfsrv with the usual score.py around
transformers' pipeline. They take turns; the table gives medians of the rounds. Needs wrk.
"""

import argparse
import dataclasses
import json
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contenders import CACHE, OURS, PEERS, PORT, USUAL, Case, Contender, contenders
from serve import first_answer, load, serving

CONNECTIONS = (1, 16, 64)
LABELS = {0: "negative", 1: "positive"}
WORDS = [first + second for first in "bcdfghklmnprstvw" for second in ("a", "e", "i", "o", "u", "an", "er", "is")]


def make_model(folder: Path) -> None:
    """The folder, and wrk's script with all bodies."""
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    words = save_tokenizer(folder)
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=words, id2label=LABELS)
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    write_texts(folder.parent / "texts.json.lua")


def save_tokenizer(folder: Path) -> int:
    """A tokenizer of `WORDS`, saved into a model's folder; how many words it knows."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=512, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    return len(words)


def write_texts(script: Path, form: Callable[[str], Any] = lambda text: {"inputs": text}) -> None:
    """wrk's script with 64 texts in turns, each in a `form` of JSON, and beside it, without `.lua`, the first body."""
    texts = random.Random(0)
    bodies = [json.dumps(form(" ".join(texts.choices(WORDS, k=texts.randint(4, 40))))) for _ in range(64)]
    script.with_suffix("").write_text(bodies[0])
    listed = ",\n".join(f"  {json.dumps(body)}" for body in bodies)
    script.write_text(
        f'local bodies = {{\n{listed}\n}}\nlocal at = 0\nwrk.method = "POST"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        "request = function()\n  at = at % #bodies + 1\n  return wrk.format(nil, nil, nil, bodies[at])\nend\n"
    )


def servers() -> dict[str, Contender]:
    ours, usual = contenders()[OURS], contenders()[USUAL]
    entry = str(PEERS / "pipeline_score.py")
    return {
        OURS: ours,
        "one by one": dataclasses.replace(ours, environment={"SCORE_MAX_BATCH": "1"}),
        USUAL: dataclasses.replace(
            usual,
            command=lambda case, bin: [
                str(bin / "azmlinfsrv"), "--entry_script", entry, "--model_dir", str(case.folder), "--port", str(PORT),
            ],
        ),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    folder = CACHE / "models" / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    make_model(folder)
    case, script = Case("texts", folder, "json"), folder.parent / "texts.json.lua"
    rounds: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(given.rounds):
        for name, contender in servers().items():
            with serving(name, contender, case):
                first_answer("/score", script.with_suffix(""))
                load(script, "/score", 16, 2)  # warm up
                for connections in CONNECTIONS:
                    found = load(script, "/score", connections, given.seconds)
                    rounds.setdefault((name, connections), []).append(found)
                    print(f"  {name:<12}{connections:>4}  {found}", file=sys.stderr)
    print("| server | connections | texts/s | p50 ms | p99 ms | errors | x usual |\n|---|--:|--:|--:|--:|--:|--:|")
    for connections in CONNECTIONS:
        usual = statistics.median(each["rps"] for each in rounds[USUAL, connections])
        for name in servers():
            median = {
                key: statistics.median(each[key] for each in rounds[name, connections]) for key in ("rps", "p50", "p99")
            }
            errors = max(each["errors"] for each in rounds[name, connections])
            print(
                f"| {name} | {connections} | {median['rps']:.0f} | {median['p50']:.1f} | {median['p99']:.1f} | "
                f"{errors:.0f} | {median['rps'] / usual:.2f} |"
            )


if __name__ == "__main__":
    main()
