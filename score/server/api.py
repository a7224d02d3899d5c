"""How the clients of a protocol are spoken to: which bodies they send, how they want answers, and errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from score.codecs import registry as codecs
from score.codecs.base import Body, Decoded
from score.codecs.json_dialects import PREDICTIONS, TF_COLUMNS, TF_ROWS
from score.errors import ScoreError

ANY = "*"
_JSON = ("json", "items")  # codecs of JSON
Said = Callable[[ScoreError, str], Any]
"""From an error and the request's id to a document."""


def plain(error: ScoreError, request_id: str) -> Any:
    return {"error": error.as_dict() | {"request_id": request_id}}


def as_text(error: ScoreError, _request_id: str) -> Any:
    """As the Open Inference Protocol and TensorFlow Serving have it: clients show the text as it is."""
    return {"error": f"{error.code}: {error.message}. {error.hint}"}


def as_openai(error: ScoreError, _request_id: str) -> Any:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": f"{error.message}. {error.hint}", "type": kind, "param": None, "code": error.code}}


def as_mlflow(error: ScoreError, _request_id: str) -> Any:
    kind = "BAD_REQUEST" if error.status < 500 else "INTERNAL_ERROR"
    return {"error_code": kind, "message": f"{error.code}: {error.message}. {error.hint}"}


def as_torchserve(error: ScoreError, _request_id: str) -> Any:
    return {"code": error.status, "type": error.code, "message": f"{error.message}. {error.hint}"}


@dataclass(frozen=True, eq=False)
class Api:
    """`codec` is the only one for its bodies, where there is one; `dialects` are those that answers have, by the body's
    own; `accept` counts where a request does not say. A bare list is taken below the key `bare`."""

    name: str
    route: str  # as traces call it
    codec: str = ""
    dialects: Mapping[str, str] = field(default_factory=dict)
    accept: str | None = None
    bare: str = ""
    names_model: bool = False  # whether bodies name the model, of which there may be one
    said: Said = plain

    def read(self, body: Body) -> Body:
        """A body as the codecs know it."""
        if not self.bare:
            return body
        if body.data[:64].lstrip()[:1] == b"[" and codecs.choose(body).NAME in _JSON:
            return replace(body, data=b'{"%b":%b}' % (self.bare.encode(), body.data))
        return body

    def mirrored(self, decoded: Decoded) -> Decoded:
        """What was decoded, with the dialect that its answer is to have."""
        wanted = self.dialects.get(decoded.dialect) or self.dialects.get(ANY)
        return decoded if wanted is None else decoded._replace(dialect=wanted)

    def accepted(self, accept: str | None) -> str | None:
        """What a client takes, by its Accept header."""
        if self.accept is None:
            return accept
        return self.accept if accept in (None, "", "*/*") else accept


SCORE = Api("score", "/score")
OIP_V2 = Api("oip-v2", "/v2/models/{model}/infer", codec="oip-v2", said=as_text)
TF = Api(
    "tensorflow-serving",
    "/v1/models/{model}:predict",
    dialects={"instances": TF_ROWS, "inputs": TF_COLUMNS},
    said=as_text,
)
OPENAI = Api("openai", "/v1/embeddings", codec="openai-embeddings", names_model=True, said=as_openai)
MLFLOW = Api(
    "mlflow",
    "/invocations",
    dialects={ANY: PREDICTIONS},
    accept="application/json",
    bare="instances",
    said=as_mlflow,
)
TORCHSERVE = Api("torchserve", "/predictions/{model}", bare="instances", said=as_torchserve)
VERTEX = Api("vertex-ai", "$AIP_PREDICT_ROUTE", dialects={"instances": TF_ROWS})
