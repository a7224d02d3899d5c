"""Write the table of bodies in docs/http.md from the codecs, and docs/tasks.md from the tasks:
`python -m tools.http_page`. A test keeps them equal."""

from pathlib import Path

from score.codecs.registry import codecs
from score.inference.tasks.find import ALIASES
from score.inference.tasks.parameters import BY_TASK

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- bodies: written by `python -m tools.http_page` -->\n", "<!-- end -->"

TASKS_HEAD = """# Tasks

A folder of transformers, sentence-transformers or MLflow answers as people expect: with labels, spans, boxes or text.
What comes before and after the model is `transformers.pipeline`'s own, around the module that is served here; forward
passes of different requests run together. question-answering, summarization, translation, text2text-generation and
image-to-text are as version 4 of transformers had them; sentence-embeddings and text-ranking as sentence-transformers
has them.

The task is `SCORE_TASK`, what `MLmodel` says, or what the model's class is for, in this order. `SCORE_TASK=tensors`
gives raw outputs; a request with numbers, such as `{"inputs": {"input_ids": [[...]], ...}}`, gets them in any case. The
model card says under `task` which it is, how that is known, and an example to send.

```console
$ curl -s http://127.0.0.1:5001/score -d '{"inputs": "a fine day", "parameters": {"top_k": 2}}'
[{"label":"good","score":0.66},{"label":"bad","score":0.27}]
```

A parameter that a task does not take is a 400 that lists those that it takes. Texts longer than the model takes are a
400, unless `"truncation": true` asks for them to be cut; a pair for text-ranking and a text for sentence-embeddings are
cut, as sentence-transformers does. `SCORE_MAX_NEW_TOKENS` bounds what is generated. Pictures and recordings are files
or base64; no address in a request is ever fetched.

Texts of different lengths run as one padded batch where the model then says what it says alone, which is tried at the
start with two made-up texts (`padding` in the model card). Padding costs time, and so does a pass: on a
GPU as much as thousands of tokens, on a CPU dozens. That is measured at the start, and with the oldest text that waits
run those with which it takes the least time to answer all.

| task | an item | an answer | parameters |
|---|---|---|---|
"""

TASKS_TAIL = """
Also known by other names: {aliases}.
"""

_TEXT, _PICTURE, _RECORDING = "text", "picture", "recording"
ITEMS = {
    "text-classification": ("text, or `{text, text_pair}`", "`label`, `score`"),
    "token-classification": (_TEXT, "`entity` or `entity_group`, `score`, `word`, `start`, `end`"),
    "question-answering": ("`{question, context}`", "`answer`, `score`, `start`, `end`"),
    "fill-mask": ("text with the mask token", "`token_str`, `score`, `token`, `sequence`"),
    "feature-extraction": (_TEXT, "the states of each token"),
    "sentence-embeddings": ("text, or `{source_sentence, sentences}`", "the embedding; similarities"),
    "text-ranking": ("`{query, texts}`, or a pair of texts", "`index`, `score`, best first; `score`"),
    "zero-shot-classification": (_TEXT, "`labels`, `scores`, `sequence`"),
    "summarization": (_TEXT, "`summary_text`"),
    "translation": (_TEXT, "`translation_text`"),
    "text2text-generation": (_TEXT, "`generated_text`"),
    "text-generation": (_TEXT, "`generated_text`"),
    "image-classification": (_PICTURE, "`label`, `score`"),
    "object-detection": (_PICTURE, "`label`, `score`, `box`"),
    "image-segmentation": (_PICTURE, "`label`, `score`, `mask` as PNG in base64"),
    "depth-estimation": (_PICTURE, "`predicted_depth`, `depth` as PNG in base64"),
    "zero-shot-image-classification": (_PICTURE, "`label`, `score`"),
    "image-to-text": (_PICTURE, "`generated_text`"),
    "automatic-speech-recognition": (_RECORDING, "`text`, `chunks` with `return_timestamps`"),
    "audio-classification": (_RECORDING, "`label`, `score`"),
}


def bodies() -> str:
    """The table of bodies, a row for each that a codec knows."""
    rows = [row for codec in reversed(codecs().values()) for row in codec.EXAMPLES]
    return "".join(f"| {' | '.join(row)} |\n" for row in [("body", "who sends it", "answer"), ("---",) * 3, *rows])


def http() -> str:
    """docs/http.md with its table as it ought to be."""
    before, _, rest = (DOCS / "http.md").read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{bodies()}\n{END}{rest.partition(END)[2]}"


def tasks() -> str:
    """docs/tasks.md."""
    rows = [
        f"| {task} | {' | '.join(ITEMS[task])} | {', '.join(f'`{name}`' for name in known) or 'none'} |\n"
        for task, known in BY_TASK.items()
    ]
    aliases = ", ".join(f"{other} ({task})" for other, task in sorted(ALIASES.items()))
    return TASKS_HEAD + "".join(rows) + TASKS_TAIL.format(aliases=aliases)


if __name__ == "__main__":
    (DOCS / "http.md").write_text(http())
    (DOCS / "tasks.md").write_text(tasks())
