"""What answers `/score`, without HTTP."""

import json
import multiprocessing
import uuid

import pytest

from score.codecs.base import Body
from score.errors import InvalidJson, UnknownParameter
from score.server import card
from score.server.api import SCORE
from score.server.body import Intake, held
from score.server.metrics import RequestRecord
from score.server.models import Models
from score.server.page import HEADERS, PAGE
from score.server.prediction import Prediction, predict, top_k
from score.server.service import Head, Service, new_id


def head(method: str = "POST", query: bytes = b"", **headers: str) -> Head:
    return Head.of(method, query, {name.replace("_", "-"): value for name, value in headers.items()})


def test_ids() -> None:
    assert head(x_request_id="r1").request_id == "r1"
    assert Head.of("GET", b"", {"x-request-id": "r1"}, "flask").request_id == "flask"
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(str(uuid.UUID(each)) == each and uuid.UUID(each).version == 4 for each in ids)
    with multiprocessing.get_context("fork").Pool(2) as pool:  # as workers are made
        others = [each for found in pool.map(_ids, [100] * 4) for each in found]
    assert len({*ids, *others}) == 1400


def _ids(count: int) -> list[str]:
    return [new_id() for _ in range(count)]


def test_everything_but_a_prediction(service: Service) -> None:
    models = Models.of_one(service)
    options = card.answer_to(models, head("OPTIONS"), "")
    assert (options.status, options.headers["allow"]) == (200, "GET, POST, HEAD, OPTIONS")
    shown = card.answer_to(models, head("GET"), "")
    assert list(json.loads(shown.body)) == ["model", "signature", "backend", "problem", "task", "serving", "versions"]
    page = card.answer_to(models, head("GET", accept="text/html,application/xhtml+xml,*/*;q=0.8"), "")
    assert (page.body, page.headers) == (PAGE, HEADERS)
    assert card.answer_to(models, head("DELETE"), "").status == 405
    assert card.answer_to(models, head("GET"), "another").status == 404


def test_a_prediction_is_seen_by_all_who_watch(service: Service) -> None:
    seen: list[RequestRecord] = []

    class Watching:
        def saw(self, record: RequestRecord) -> None:
            seen.append(record)

    watched = Service(service.predictor, service.observer, watchers=(service.observer, Watching()))
    asked = head(x_request_id="r7")
    with Prediction(Models.of_one(watched), asked, SCORE) as prediction:
        prediction.service = watched
        body = Body(json.dumps({"data": [[1.0] * 10] * 3}).encode())
        prediction.answer = predict(watched, SCORE, asked, body, prediction.record)
    assert prediction.answer.status == 200
    (record,) = seen
    assert (record.request_id, record.status, record.codec, record.error) == ("r7", 200, "json", "")
    assert record.took is not None
    assert record.took.rows == 3
    assert record.inputs is not None
    assert service.observer.snapshot()["rows"] == 3


def test_what_is_raised_is_the_answer_and_what_was_held_is_given_back(service: Service) -> None:
    asked = head()
    models = Models.of_one(service)
    with Prediction(models, asked, SCORE) as prediction:
        intake = Intake({}, models.settings, prediction.share)
        intake.add(b"{")
        predict(service, SCORE, asked, intake.body(), prediction.record)
    assert prediction.answer is not None
    assert prediction.answer.status == 400
    assert (prediction.record.status, prediction.record.error) == (400, InvalidJson.code)
    assert held.bytes == 0
    with Prediction(models, asked, SCORE) as prediction:
        raise KeyError("a bug")
    assert (prediction.record.status, prediction.record.error) == (500, "internal_error")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [("", None), ("top_k=3", "3"), ("a=b&top_k=3", "3"), ("top_k=1&top_k=2", "1"), ("top_k=", "")],
)
def test_top_k_in_the_query(query: str, wanted: str | None) -> None:
    assert top_k(query) == wanted


def test_a_word_that_is_nearly_a_parameter_is_refused() -> None:
    with pytest.raises(UnknownParameter, match="did you mean top_k"):
        top_k("topk=3")
    assert top_k("code=azure-functions-key") is None  # others are for others
