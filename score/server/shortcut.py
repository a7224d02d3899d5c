"""`POST /score` answered before Flask and azmlinfsrv's hooks see it.

With a small model these take more time than everything else together. What they would do to the answer is done here:
the headers with the request's ids, the server's version and the time that `run()` took. Whatever needs more of them
(Application Insights' record of requests, CORS, a request with deprecated or overlong headers) goes the long way, as do
all other routes; a test holds both ways' answers against each other.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from flask import Request, Response

LONGEST_ID = 100  # characters, as azmlinfsrv has it
_LONG_WAY = ("HTTP_X_MS_REQUEST_ID", "HTTP_TRACEID")  # headers that only azmlinfsrv knows what to do with

Run = Callable[[Request], Response]


def before(application: Any, blueprint: Any, cors_origins: str | None, run: Run) -> None:
    """Put the shortcut in front of a Flask application, unless its hooks have work to do."""
    if blueprint.appinsights_client.enabled or cors_origins:
        return
    version = os.environ.get("HTTP_X_MS_SERVER_VERSION", "")
    long_way = application.wsgi_app

    def wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        own, client = environ.get("HTTP_X_REQUEST_ID"), environ.get("HTTP_X_MS_CLIENT_REQUEST_ID", "")
        if (
            environ["PATH_INFO"] != "/score"
            or environ["REQUEST_METHOD"] != "POST"
            or any(name in environ for name in _LONG_WAY)
            or len(own or "") > LONGEST_ID
            or len(client) > LONGEST_ID
        ):
            found: Iterable[bytes] = long_way(environ, start_response)
            return found
        started = time.perf_counter()
        if own is None:
            own = environ["HTTP_X_REQUEST_ID"] = str(uuid.uuid4())
        response = run(Request(environ))
        headers = response.headers
        headers["x-ms-run-fn-exec-ms"] = f"{(time.perf_counter() - started) * 1e3:.3f}"
        if response.status_code >= 500:
            headers["x-ms-run-function-failed"] = "True"
        if version:
            headers["x-ms-server-version"] = version
        if own:
            headers["x-request-id"] = own
        if client or own:
            headers["x-ms-request-id"] = client or own
        if client:
            headers["x-ms-client-request-id"] = client
        return response(environ, start_response)

    application.wsgi_app = wsgi_app
