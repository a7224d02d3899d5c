"""azmlinfsrv as `score serve` starts it on a person's machine: without its banner, and without the lines that say
nothing to a person. Run as a module; the arguments are azmlinfsrv's.

All that relies on the insides of its start, as `score.server.azmlinfsrv` is for requests: that one needs torch, and the
process that starts the server has none.
"""

import importlib
import logging

from azureml_inference_server_http import amlserver, log_config

# What these say at the start is what every server says; what is wrong comes as a warning.
_CHATTY = ("azmlinfsrv", "azmlinfsrv.user_script", "azmlinfsrv.swagger", "gunicorn.error")
_BANNER = ("print_server_info", "print_server_settings", "print_routes")


def _matters(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO and not str(record.msg).startswith("Found extra keys in the config file")


def _line(_formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """A line begins with the time of this place, and not with the process and the logger."""
    return _LINE.format(record)


_LINE = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")


def hush() -> None:
    """In a worker, before azmlinfsrv's application is loaded: what that prints is left out."""
    importlib.import_module("azureml_inference_server_http.server.aml_blueprint").print = lambda *_: None  # type: ignore[attr-defined]


def run() -> None:
    """Start the server; returns when it has ended."""
    for name in _BANNER:
        setattr(amlserver, name, lambda: None)
    for name in _CHATTY:
        logging.getLogger(name).addFilter(_matters)
    log_config.AMLLogFormatter.format = _line
    amlserver.run()


if __name__ == "__main__":
    run()
