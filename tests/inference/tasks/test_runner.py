"""Tasks that are ours, what they refuse, and the bodies that ask for them."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from score.cli.app import app
from score.codecs.base import Body
from score.errors import (
    InputTooLong,
    InvalidImage,
    InvalidItem,
    InvalidParameter,
    InvalidSetting,
    InvalidTopK,
    RequestError,
    ScoreError,
    UnknownParameter,
)
from score.inference.pipeline import infer, load_model
from score.inference.predictor import Predictor
from score.server import data_collector
from score.settings import Settings
from tests.inference.tasks import tiny
from tests.server.test_task_answers import picture, recording, sent, wav

pytest.importorskip("transformers")
Loaded = Callable[..., Predictor]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    place = tmp_path_factory.mktemp("tasks")
    known: dict[str, Predictor] = {}

    def load(name: str, **given: Any) -> Predictor:
        key = f"{name} {given}"
        if key not in known:
            made = tiny.ranking(place / name) if name == "text-ranking" else tiny.made(name, place / name)
            known[key] = load_model(Settings.load(made, device="cpu", **given))
            known[key].warm_up()
        return known[key]

    return load


def ask(predictor: Predictor, document: Any) -> Any:
    return json.loads(infer(predictor, Body(json.dumps(document).encode())).encoded.body)


BODIES: dict[str, tuple[Any, bool]] = {
    "Hugging Face": ({"inputs": ["a fine day", "bad"]}, True),
    "Azure's catalog": ({"input_data": {"input_string": ["a fine day", "bad"]}}, True),
    "Azure's list": ({"input_data": ["a fine day", "bad"]}, True),
    "Azure's table": ({"input_data": {"columns": ["text"], "index": [0, 1], "data": [["a fine day"], ["bad"]]}}, True),
    "a table without columns": ({"input_data": {"data": [["a fine day"], ["bad"]]}}, True),
    "MLflow's table": ({"dataframe_split": {"columns": ["text"], "data": [["a fine day"], ["bad"]]}}, True),
    "MLflow's records": ({"dataframe_records": [{"text": "a fine day"}, {"text": "bad"}]}, False),
    "instances": ({"instances": ["a fine day", "bad"]}, False),
    "instances by name": ({"instances": [{"text": "a fine day"}, {"text": "bad"}]}, False),
    "data": ({"data": ["a fine day", "bad"]}, False),
}


@pytest.mark.parametrize("sender", BODIES)
def test_each_sender_is_answered_as_it_expects(sender: str, loaded: Loaded) -> None:
    predictor = loaded("text-classification")
    document, bare = BODIES[sender]
    found = ask(predictor, document)
    answers = found if bare else found["predictions"]
    assert bare or list(found) == ["predictions"]
    theirs = [predictor([text])[0] for text in ("a fine day", "bad")]
    assert answers == [{"label": each["label"], "score": pytest.approx(each["score"], rel=1e-4)} for each in theirs]


def test_a_lone_text_and_its_parameters(loaded: Loaded) -> None:
    predictor = loaded("text-classification")
    one = ask(predictor, {"inputs": "a fine day"})
    assert [set(answer) for answer in one] == [{"label", "score"}]
    three = ask(predictor, {"inputs": "a fine day", "parameters": {"top_k": 3}})
    assert len(three) == 3
    assert three[0] == pytest.approx(one[0])
    azure = {"input_data": {"input_string": ["a fine day"], "parameters": {"top_k": 2}}}
    assert len(ask(predictor, azure)[0]) == 2
    pair = ask(predictor, {"inputs": {"text": "a fine day", "text_pair": "bad"}})
    assert set(pair) == {"label", "score"}
    assert predictor(["a fine day"])[0] == pytest.approx(one[0])


@pytest.mark.parametrize(
    ("parameters", "error", "said"),
    [
        ({"topk": 2}, UnknownParameter, "top_k"),
        ({"aggregation_strategy": "simple"}, UnknownParameter, "function_to_apply"),
        ({"top_k": 0}, InvalidTopK, "above zero"),
        ({"truncation": 1}, InvalidParameter, "true or false"),
        ({"function_to_apply": "relu"}, InvalidParameter, "softmax"),
    ],
)
def test_parameters_are_checked(parameters: Any, error: type[ScoreError], said: str, loaded: Loaded) -> None:
    with pytest.raises(error) as raised:
        ask(loaded("text-classification"), {"inputs": "a fine day", "parameters": parameters})
    assert said in f"{raised.value.message} {raised.value.hint}"


def test_what_a_task_does_not_take_is_refused(loaded: Loaded) -> None:
    with pytest.raises(InputTooLong, match="the model takes 64"):
        ask(loaded("text-classification"), {"inputs": "a fine day " * 40})
    cut = ask(loaded("text-classification"), {"inputs": "a fine day " * 40, "parameters": {"truncation": True}})
    assert set(cut[0]) == {"label", "score"}
    with pytest.raises(InvalidItem, match="context"):
        ask(loaded("question-answering"), {"inputs": {"question": "who"}})
    with pytest.raises(InvalidItem, match="mask"):
        ask(loaded("fill-mask"), {"inputs": "nothing to fill"})
    for address in ("http://127.0.0.1:1/cat.png", "file:///etc/passwd", "/etc/passwd"):
        with pytest.raises(InvalidItem, match="not fetched"):
            ask(loaded("image-classification"), {"inputs": address})
    with pytest.raises(InvalidImage, match="SCORE_MAX_IMAGE_PIXELS allows 1,000"):
        ask(loaded("image-classification", max_image_pixels=1000), {"inputs": sent(picture(1))})
    with pytest.raises(InputTooLong, match="SCORE_MAX_TEXT_CHARACTERS allows 20"):
        ask(loaded("text-classification", max_text_characters=20), {"inputs": ["a fine day", "a fine day " * 3]})
    raw = loaded("text-classification", max_text_characters=20, task="tensors")
    with pytest.raises(InputTooLong, match="SCORE_MAX_TEXT_CHARACTERS allows 20"):
        ask(raw, {"data": ["a fine day " * 3]})
    with pytest.raises(InvalidItem, match=r"SCORE_MAX_AUDIO_SECONDS allows 0\.1"):
        body = base64.b64encode(wav(recording(1))).decode()
        ask(loaded("audio-classification", max_audio_seconds=0.1), {"inputs": body})
    with pytest.raises(InvalidParameter, match="SCORE_MAX_NEW_TOKENS allows 8"):
        generating = loaded("text-generation", max_new_tokens=8)
        ask(generating, {"inputs": "the weights", "parameters": {"max_new_tokens": 9}})


def test_the_tensors_of_old_and_tasks_by_name(loaded: Loaded) -> None:
    raw = loaded("text-classification", task="tensors")
    assert raw.runner is None
    assert np.asarray(ask(raw, {"data": ["a fine day"]})["predictions"]["logits"]).shape == (1, 3)
    texts = ask(raw, {"inputs": ["a fine day", "bad"]})["predictions"]["logits"]
    assert np.asarray(texts).shape == (2, 3)
    task = loaded("text-classification")
    numbers = {"inputs": {"input_ids": [[2, 5, 3]], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 0]]}}
    assert np.asarray(ask(task, numbers)["predictions"]["logits"]).shape == (1, 3)
    with pytest.raises(InvalidSetting, match="text-classification, "):
        loaded("text-classification", task="text-clasification").warm_up()


def test_the_best_span_is_the_one_by_hand(loaded: Loaded) -> None:
    """Against all spans tried one by one, on the model's own logits."""
    predictor = loaded("question-answering")
    question, context = "where lives anna?", "Anna lives in Paris. She works for Contoso, and likes long walks."
    found = ask(predictor, {"inputs": {"question": question, "context": context}, "parameters": {"top_k": 5}})
    words = predictor.runner._tokenizer  # type: ignore[union-attr]
    encoded = words(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets, of = encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids(0)
    with torch.inference_mode():
        outputs = predictor.module(**encoded)
    may = torch.tensor([each == 1 for each in of])
    may[0] = True
    starts, ends = (
        torch.softmax(torch.where(may, values[0], torch.tensor(-10_000.0)), 0)
        for values in (outputs.start_logits, outputs.end_logits)
    )
    spans = sorted(
        (
            (float(starts[a] * ends[b]), context[offsets[a][0] : offsets[b][1]])
            for a in range(1, len(of))
            for b in range(a, min(a + 15, len(of)))
            if of[a] == 1 and of[b] == 1
        ),
        reverse=True,
    )
    best = ask(predictor, {"inputs": {"question": question, "context": context}})
    assert best["answer"] == spans[0][1] == context[best["start"] : best["end"]]
    assert best["score"] == pytest.approx(spans[0][0], rel=1e-3)
    assert found[0] == best
    assert len(found) <= 5
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)


def test_a_context_longer_than_the_model_is_read_in_windows(loaded: Loaded) -> None:
    context = "the weights are never unavailable. " * 20
    found = ask(loaded("question-answering"), {"inputs": {"question": "what are they?", "context": context}})
    assert context[found["start"] : found["end"]] == found["answer"] != ""


def test_texts_are_generated_as_by_the_model_alone(loaded: Loaded) -> None:
    predictor = loaded("text2text-generation")
    words = predictor.runner._tokenizer  # type: ignore[union-attr]
    texts = ["the weights are never unavailable", "who wrote this"]
    wanted = []
    for text in texts:
        tokens = words(text, return_tensors="pt")
        tokens.pop("token_type_ids")
        made = predictor.module.generate(**tokens, max_new_tokens=6, num_beams=2)  # type: ignore[operator]
        wanted.append([{"generated_text": words.decode(made[0], skip_special_tokens=True)}])
    asked = {"inputs": texts, "parameters": {"max_new_tokens": 6, "num_beams": 2}}
    assert ask(predictor, asked) == wanted
    summary = loaded("text2text-generation", task="summarization")
    assert list(ask(summary, {"inputs": texts[0], "parameters": {"max_new_tokens": 3}})[0]) == ["summary_text"]
    translated = loaded("text2text-generation", task="translation_en_to_fr")
    assert list(ask(translated, {"inputs": texts[0], "parameters": {"max_new_tokens": 3}})[0]) == ["translation_text"]


def test_texts_of_different_lengths_run_as_one_pass(loaded: Loaded) -> None:
    predictor = loaded("text-classification")
    assert predictor.runner is not None
    assert predictor.runner.card()["padding"] is True
    asked = {"inputs": [" ".join(tiny.WORDS[: 4 + at % 4]) for at in range(32)]}
    body = Body(json.dumps(asked).encode())
    assert infer(predictor, body).took.batch_rows > 1


def test_embeddings_similarities_and_prompts(tmp_path: Path) -> None:
    predictor = load_model(Settings.load(tiny.sentences(tmp_path), device="cpu"))
    predictor.warm_up()
    one, two = ask(predictor, {"inputs": ["a fine day", "the weights are never unavailable"]})
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-4)
    pair = {"source_sentence": "a fine day", "sentences": ["the weights are never unavailable", "a fine day"]}
    assert ask(predictor, {"inputs": pair}) == pytest.approx([float(np.dot(one, two)), 1.0], abs=1e-4)
    prompted = ask(predictor, {"inputs": "a fine day", "parameters": {"prompt_name": "query"}})
    assert prompted == pytest.approx(ask(predictor, {"inputs": "who a fine day"}), abs=1e-5)
    assert prompted != pytest.approx(one, abs=1e-3)
    with pytest.raises(InvalidParameter, match="query, document"):
        ask(predictor, {"inputs": "a fine day", "parameters": {"prompt_name": "poem"}})


def test_texts_are_ranked_by_the_models_own_number(tmp_path: Path) -> None:
    predictor = load_model(Settings.load(tiny.ranking(tmp_path), device="cpu"))
    predictor.warm_up()
    assert predictor.runner is not None
    assert predictor.runner.task == "text-ranking"
    texts = ["a fine day", "the weights are never unavailable", "bad"]
    found = ask(predictor, {"inputs": {"query": "who wrote this", "texts": texts}})
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    words = predictor.runner._tokenizer
    for each in found:
        with torch.inference_mode():
            logits = predictor.module(**words("who wrote this", texts[each["index"]], return_tensors="pt")).logits
        assert each["score"] == pytest.approx(float(torch.sigmoid(logits)[0, 0]), abs=1e-4)
    assert ask(predictor, {"inputs": [["who wrote this", texts[0]]]})[0]["score"] == pytest.approx(
        next(each["score"] for each in found if each["index"] == 0), abs=1e-4
    )


def test_what_was_asked_and_answered_is_there_to_be_collected(loaded: Loaded) -> None:
    predictor = loaded("text-classification", collect_data=True)
    asked = {"inputs": ["a fine day", {"text": "a fine day", "text_pair": "bad"}]}
    found = infer(predictor, Body(json.dumps(asked).encode()))
    frame = data_collector._frame(found.prepared.inputs)
    assert frame["inputs"].tolist() == ["a fine day", '{"text":"a fine day","text_pair":"bad"}']
    assert list(data_collector._frame(found.outputs)["output"].iloc[0]) == ["label", "score"]


def test_check_answers_as_the_task_does(tmp_path: Path) -> None:
    folder = tiny.made("question-answering", tmp_path / "model")
    done = CliRunner().invoke(app, ["check", str(folder)])
    assert done.exit_code == 0, done.output
    assert "answers as question-answering (the model's class)" in done.output
    assert '"answer":' in done.output
    assert done.output.rstrip().endswith("ready to serve")


_NAMES = st.sampled_from(
    [
        "question",
        "context",
        "text",
        "text_pair",
        "query",
        "texts",
        "columns",
        "data",
        "index",
        "input_string",
        "parameters",
        "sentences",
    ]
)
_TEXTS = st.sampled_from(["", "a fine day", "a" * 3000, "\x00", "é😀", "[MASK]", "http://127.0.0.1:1/", "[SEP] [CLS]"])
_VALUES = st.recursive(
    _TEXTS | st.none() | st.booleans() | st.sampled_from([1, -1, 0.5, 1e300, 10**30]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)
_DIALECTS = ["inputs", "input_data", "instances", "data", "dataframe_split", "dataframe_records"]


@pytest.mark.parametrize("task", ["text-classification", "question-answering", "text-ranking"])
@given(dialect=st.sampled_from(_DIALECTS), value=_VALUES, parameters=st.none() | st.dictionaries(_NAMES, _VALUES))
@example(dialect="dataframe_records", value=1, parameters=None)
@example(dialect="dataframe_split", value={"input_string": 1e300}, parameters=None)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_asked_is_answered_or_refused(
    dialect: str, value: Any, parameters: Any, task: str, loaded: Loaded
) -> None:
    document = {dialect: value} if parameters is None else {dialect: value, "parameters": parameters}
    try:
        infer(loaded(task), Body(json.dumps(document).encode()))
    except RequestError as error:
        assert error.status < 500, error  # most are refused, and none may be a bug
