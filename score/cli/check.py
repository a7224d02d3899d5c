"""`score check`: load a checkpoint and answer one made-up request."""

import orjson
from rich.markup import escape

from score.cli.console import Asked, Model, busy, errors_shown, guarded, out
from score.cli.flags import Given, with_settings
from score.errors import InputsUnknown, one_line
from score.settings import Settings


@with_settings
def check(path: Model, given: Given) -> None:
    """Load a checkpoint and answer one made-up request, exactly as the server would."""
    with errors_shown(Asked("check", path, given)):
        with busy(f"loading {path.name}"):
            from score.cli.render_text import shortened
            from score.codecs.base import Body
            from score.inference import infer_signature
            from score.inference.pipeline import infer, load_model
            from score.inference.running import EAGER
            from score.weights import versions

            settings = guarded(Settings.load(path, **given))
            served = load_model(settings)
        for line in served.report.lines():
            out.print(escape(line))
        if served.running is not EAGER:
            out.print(escape(f"run by {served.running}"))
        for difference in versions.differences(served.report.metadata):
            if difference.here is not None:
                advice = f"; to have the same, pin {difference.pin}" if difference.newer else ""
                out.print(f"[{'yellow' if difference.newer else 'dim'}]{escape(str(difference) + advice)}[/]")
        if served.runner is not None:
            out.print(escape(f"answers as {served.runner.task} ({served.runner.source})"))
        else:
            out.print(escape(one_line(str(served.signature))))
        recorded = served.hooks.example if served.hooks.example is not None else served.beside.example
        if recorded is not None:
            out.print("asked with the example that was recorded with the model")
            answer = infer(served, Body(orjson.dumps(recorded))).encoded.body
        elif served.hooks.preprocess is not None:
            raise InputsUnknown(
                f"{path.name} is loaded, and what its preprocess expects is not known",
                hint="Put an example of a request beside preprocess: example = {...}",
            )
        elif served.runner is not None:
            answer = orjson.dumps(served.runner(served.runner.made_up(), {})[0])
        elif served.signature.known:
            made_up = infer_signature.as_lists(infer_signature.synthetic(served.signature))
            answer = infer(served, Body(orjson.dumps({"inputs": made_up}))).encoded.body
        else:
            raise InputsUnknown(f"{path.name} is loaded, but nothing says what shape of input it takes")
        out.print(escape(f"answers {shortened(answer.decode())}"))
        out.print("[green]ready to serve[/green]")
