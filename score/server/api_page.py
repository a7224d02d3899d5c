"""`GET /docs`: the OpenAPI description of this model to read and to try, by Swagger UI, served from here.

Source: swagger.io/docs/open-source-tools/swagger-ui/usage/installation; the files are those of swagger-ui-bundle.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import swagger_ui_bundle

from score.server.answer import Answer

PATH = "/docs"
_FILES = Path(swagger_ui_bundle.swagger_ui_path)
_KINDS: Mapping[str, str] = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
}
_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API · Loadstone</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """"use strict";
const methods = ["get", "post"];
SwaggerUIBundle({ url: "swagger.json?version=3", dom_id: "#api", deepLinking: true, supportedSubmitMethods: methods });
"""
# Nothing on the page can make it fetch or run more.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(name: str = "") -> Answer | None:
    """The page, or one of the files that it loads, by name; None for any other."""
    return _pages().get(name)


@cache
def _pages() -> dict[str, Answer]:
    """All of them, read once."""
    headers = {"x-content-type-options": "nosniff", "content-security-policy": _POLICY}
    found = {
        "": Answer(200, headers | {"content-type": "text/html; charset=utf-8"}, _HTML.encode()),
        "start.js": Answer(200, headers | {"content-type": "text/javascript; charset=utf-8"}, _START.encode()),
    }
    for name, kind in _KINDS.items():
        kept = {"content-type": kind, "cache-control": "max-age=3600"}
        found[name] = Answer(200, headers | kept, (_FILES / name).read_bytes())
    return found
