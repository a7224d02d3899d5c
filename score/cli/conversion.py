"""Write a checkpoint in another format: `score convert`."""

from pathlib import Path

import torch

from score.errors import InputsUnknown, ModelRejected, UnsupportedFormat
from score.formats._io import integrity
from score.formats.search import size
from score.inference import infer_signature
from score.inference.pipeline import load_model, weights_of
from score.settings import Settings
from score.weights.opened import open_weights
from score.weights.progress import Track


def to_safetensors(settings: Settings, output: Path, track: Track = iter) -> str:
    """Write the chosen weights, under their own names, as one safetensors file. Says what was written.

    Raises a `LoadError`, or `OSError` where the file can't be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    opened = open_weights(settings)
    weights = weights_of(settings, opened)
    if weights is None:
        raise UnsupportedFormat(f"{opened.checkpoint.path.name} holds no weights that safetensors could hold")
    odd = [name for name, tensor in weights.tensors.items() if tensor.layout != "strided"]
    if odd:
        raise UnsupportedFormat(
            f"safetensors holds dense tensors only, and {odd[0]} is {weights.tensors[odd[0]].layout}"
        )
    # safetensors refuses tensors that share memory or skip elements, so each is written on its own
    with integrity.checked():
        tensors = {name: weights.tensors[name].load().contiguous().clone() for name in track(list(weights.tensors))}
    try:
        save_file(tensors, output)
    except SafetensorError as error:  # what the system says, in words of its own
        raise OSError(f"{output} can't be written: {error}") from error
    output.chmod(0o644)  # safetensors writes for its own user only, and a container's user is another
    return f"{len(weights.tensors):,} tensors, {size(output.stat().st_size)}"


def to_torch_export(settings: Settings, output: Path) -> str:
    """Export the loaded model with a free batch dimension. Raises `InputsUnknown` where no example can be made up."""
    served = load_model(settings)
    if not served.signature.known:
        raise InputsUnknown("exporting traces the model on an example, and nothing says what it takes")
    examples = infer_signature.synthetic(served.signature, rows=2)
    free = {
        name: {0: torch.export.Dim.AUTO} if isinstance(value, torch.Tensor) and value.ndim else None
        for name, value in examples.items()
    }
    try:
        program = torch.export.export(served.module, tuple(examples.values()), dynamic_shapes=tuple(free.values()))
    except Exception as error:
        raise ModelRejected(f"torch.export can't trace {served.report.architecture}: {error}") from error
    torch.export.save(program, output)
    return f"{served.report.architecture}, {size(output.stat().st_size)}"
