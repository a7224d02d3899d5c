"""The tokenizer that a GGUF file holds, as the files that transformers reads.

Specification: gguf.md, "Tokenizer", and tokenizer.json as the package `tokenizers` writes it. A kind that is not known
makes none: cut otherwise, a text would be another.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score.errors import MalformedFile
from score.formats._gguf.header import Header

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(pattern: str) -> list[dict[str, Any]]:
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}]


_DIGITS = [{"type": "Digits", "individual_digits": True}]
_LLAMA_3, _QWEN_2 = _split(rf"{_LETTERS}|\p{{N}}{{1,3}}|{_REST}"), _split(rf"{_LETTERS}|\p{{N}}|{_REST}")
# How a text is cut before its bytes are paired, by `tokenizer.ggml.pre`: the steps, and whether the last one cuts too.
_CUTS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "default": ([], True), "gpt-2": ([], True),
    "smollm": (_DIGITS, True),
    "llama3": (_LLAMA_3, False), "llama-v3": (_LLAMA_3, False), "llama-bpe": (_LLAMA_3, False),
    "qwen2": (_QWEN_2, False), "deepseek-r1-qwen": (_QWEN_2, False),
}  # fmt: skip
_OF_LLAMA_3 = ("llama3", "llama-v3", "llama-bpe")


def write(header: Header, folder: Path) -> None:
    """`tokenizer.json` and `tokenizer_config.json`, into a folder. Raises `MalformedFile`."""
    tokens = _texts(header, "tokens")
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(header, tokens), ensure_ascii=False))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    for name, said in names.items():
        if (number := special(header, said)) is not None:
            config[name] = tokens[number]
    longest = header.own().get("context_length")
    config |= {"model_max_length": longest} if isinstance(longest, int) else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False))


def known(header: Header) -> bool:
    """Whether the file holds a tokenizer of a kind that is known here."""
    kind = _said(header, "model")
    return (kind == "llama" and "tokenizer.ggml.scores" in header.values) or (
        kind == "gpt2" and _said(header, "pre", "default") in _CUTS
    )


def special(header: Header, name: str) -> int | None:
    """The number of a token such as `bos`; None where the file says none. Raises `MalformedFile`."""
    number = _said(header, f"{name}_token_id")
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number < len(_texts(header, "tokens")):
        raise MalformedFile(f"the file's {name}_token_id is {number!r:.40}, which is none of its tokens")
    return number


def _said(header: Header, name: str, otherwise: Any = None) -> Any:
    return header.values.get(f"tokenizer.ggml.{name}", otherwise)


def _texts(header: Header, name: str) -> list[str]:
    found = _said(header, name)
    if isinstance(found, list) and found and all(isinstance(each, str) for each in found):
        return found
    raise MalformedFile(f"the file's tokenizer.ggml.{name} are not a list of texts")


def _tokenizer(header: Header, tokens: list[str]) -> dict[str, Any]:
    vocabulary = {text: number for number, text in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise MalformedFile("the file's tokenizer has the same token twice")
    made = _of_sentencepiece(header, vocabulary) if _said(header, "model") == "llama" else _of_bytes(header, vocabulary)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(header, tokens),
        **made,
        "post_processor": _around(header, tokens),
    }


def _added(header: Header, tokens: list[str]) -> list[dict[str, Any]]:
    kinds = _said(header, "token_type", [1] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise MalformedFile("the file's tokenizer.ggml.token_type is not one for each token")
    exact = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": number, "content": tokens[number], **exact, "special": kind != _USER_DEFINED}
        for number, kind in enumerate(kinds)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]


def _model(vocabulary: Mapping[str, int], merges: list[list[str]], **said: Any) -> dict[str, Any]:
    plain = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    rest = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **plain, **rest, **said, "vocab": dict(vocabulary), "merges": merges}


def _of_bytes(header: Header, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """GPT-2's: pairs of bytes, in the order in which they were learnt."""
    merges = [each.split(" ") for each in _texts(header, "merges")]
    if any(len(each) != 2 for each in merges):
        raise MalformedFile("the file's tokenizer.ggml.merges are not pairs")
    pre = _said(header, "pre", "default")
    steps, cuts = _CUTS[pre]
    by_byte = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "normalizer": {"type": "NFC"} if steps is _QWEN_2 else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, {**by_byte, "use_regex": cuts}]},
        "decoder": {**by_byte, "use_regex": True},
        "model": _model(vocabulary, merges, ignore_merges=pre in _OF_LLAMA_3),
    }


def _of_sentencepiece(header: Header, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """Llama's: pairs of pieces, those of the highest score first; what is in none of them is its bytes."""
    scores = _said(header, "scores")
    if not isinstance(scores, list) or len(scores) != len(vocabulary):
        raise MalformedFile("the file's tokenizer.ggml.scores are not one for each token")
    pairs = [
        (-scores[number], -len(text[:at]), text[:at], text[at:])
        for text, number in vocabulary.items()
        for at in range(1, len(text))
        if text[:at] in vocabulary and text[at:] in vocabulary
    ]
    merges = [[first, second] for *_, first, second in sorted(pairs, key=lambda each: each[:2])]
    unknown = special(header, "unknown")
    word = next((text for text, number in vocabulary.items() if number == unknown), None)
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    before = [{"type": "Prepend", "prepend": "▁"}] if _said(header, "add_space_prefix", True) else []
    after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if before else []
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, space]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *after]},
        "model": _model(vocabulary, merges, unk_token=word, fuse_unk=word is not None, byte_fallback=True),
    }


def _around(header: Header, tokens: list[str]) -> dict[str, Any] | None:
    """What comes before and after each text."""
    first = _said(header, "add_bos_token", _said(header, "model") == "llama" or _said(header, "pre") in _OF_LLAMA_3)
    bos, eos = special(header, "bos") if first else None, special(header, "eos")
    last = eos if _said(header, "add_eos_token", False) else None
    if bos is None and last is None:
        return None

    def around(name: str, number: int) -> list[dict[str, Any]]:
        put = [
            [{"SpecialToken": {"id": tokens[each], "type_id": number}}] if each is not None else []
            for each in (bos, last)
        ]
        return [*put[0], {"Sequence": {"id": name, "type_id": number}}, *put[1]]

    used = {tokens[each]: each for each in (bos, last) if each is not None}
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [each], "tokens": [text]} for text, each in used.items()},
    }
