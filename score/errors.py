"""Every error a user can meet.

    ScoreError
    ├── LoadError                    the server can't start; exit code 3
    │   ├── InvalidSetting           a setting has a value that can't be used
    │   ├── ModelDirUnset            nothing says where the model is
    │   ├── ModelDirMissing          the model path does not exist
    │   ├── ModelDirEmpty            the model folder holds no file
    │   ├── ModelDirUnreadable       this user may not read the model path
    │   ├── NoCheckpoint             files are there, none of them is a checkpoint
    │   ├── SeveralCheckpoints       more than one checkpoint, and nothing says which
    │   ├── ArchiveTooLarge          an archive holds more than may be unpacked
    │   ├── ForeignFormat            the file belongs to another framework or is no model at all
    │   ├── UnsupportedFormat        a PyTorch format that this installation can't open
    │   ├── TruncatedFile            the file ends before its content does
    │   ├── MalformedFile            the file contradicts itself
    │   ├── ChecksumMismatch         a file is not the one that SHA256SUMS lists
    │   ├── VersionTooOld            Python, torch or numpy here is older than the file needs
    │   ├── UntrustedCode            serving this would run code from the file
    │   ├── NoWeights                the checkpoint was read and holds no weights
    │   ├── SeveralWeights           more than one mapping could be the weights
    │   ├── QuantisedWeights         weights that mean nothing without scales, in a way that is not known here
    │   ├── WeightsNotFound          SCORE_WEIGHTS names a path that is not there
    │   ├── ArchitectureNeeded       weights without a class, and no registered class fits
    │   ├── ArchitectureAmbiguous    several architectures fit
    │   ├── ArchitectureUndecided    one fits, and shapes can't tell all that it computes with
    │   ├── ProviderMissing          the weights are of an architecture whose package is not installed
    │   ├── ArchitectureUnknown      the named class can't be found
    │   ├── ArchitectureBroken       the class was found and can't be built
    │   ├── ClassNotImportable       a pickled module's class does not exist here
    │   ├── WeightsMismatch          keys or shapes differ between the class and the weights
    │   ├── PrefixAmbiguous          two prefixes match equally well
    │   ├── AdapterUnsupported       an adapter can't be merged into its base model
    │   ├── Uninitialised            the class needs values that the checkpoint lacks
    │   ├── InputsUnknown            `score check` has no input to try, since nothing says what the model takes
    │   ├── NoTemporaryFolder        nothing can be written where temporary files go
    │   ├── ConfinementUnavailable   the kernel lacks what SCORE_CONFINE=require asks for
    │   ├── WarmUpFailed             the loaded model has answered no made-up request, and SCORE_REQUIRE_WARM_UP is set
    │   ├── ModelTooLarge            a model takes more than SCORE_MAX_MEMORY_MB by itself
    │   ├── PortTaken                something listens on the port already
    │   ├── PortUnusable             nothing can listen on that address
    │   ├── ModelStuck               a forward pass does not come to an end
    │   ├── DeviceUnavailable        the wanted device is not there
    │   └── DeviceOutOfMemory        the weights don't fit on the device
    └── RequestError                 one request can't be answered; the server goes on
        ├── MalformedRequest         400, bytes that are no HTTP request
        ├── EmptyBody                400, a body without a byte
        ├── InvalidJson              400, JSON that is not well-formed
        ├── UnknownBody              400, JSON, but none of the known dialects
        ├── NotNumeric               400, strings, nulls or objects where numbers belong
        ├── RaggedRows               400, rows of different lengths
        ├── WrongInputs              400, other input names than the model's
        ├── WrongShape               400, another shape than the model's
        ├── WrongDtype               400, values that the model's dtype can't hold
        ├── InvalidTensor            400, a tensor of the Open Inference Protocol that contradicts itself
        ├── InvalidArray             400, a damaged npy or npz body
        ├── InvalidImage             400, a PNG or JPEG body that is damaged or too large
        ├── InvalidAudio             400, a WAV or FLAC body that is damaged or too large
        ├── InvalidTable             400, a damaged table, or one of which nobody knows what it is
        ├── InvalidForm              400, multipart/form-data that is damaged, or without a file
        ├── InvalidTopK              400, top_k is not a number above zero
        ├── UnknownParameter         400, a parameter that nothing here takes
        ├── TopKUnavailable          400, top_k for outputs that are no classes
        ├── InvalidParameter         400, a parameter with a value that it can't have
        ├── InvalidItem              400, an item that the model's task does not take
        ├── InputTooLong             400, more tokens than the model has places for
        ├── InvalidGzip              400, a body that says it is compressed and is not
        ├── UnknownOutput            400, an output that the model has not
        ├── ModelNotNamed            400, several models are served, and the request names none
        ├── ModelNotForRoute         400, a path that is for models of another kind
        ├── NotSupported             409, a part of a protocol that this server has not
        ├── UnknownModel             404, a model that is not served here
        ├── NotFound                 404, a path that is none of this server's
        ├── MethodNotAllowed         405, a method that the path does not take
        ├── NotAcceptable            406, the Accept header rules out all that can be written
        ├── RequestTimeout           408, a request that does not come to its end
        ├── BodyTooLarge             413, more than SCORE_MAX_BODY_MB
        ├── UnsupportedMediaType     415, a body that no codec here reads
        ├── ModelRejected            422, the model itself raised on this input
        ├── HeadTooLarge             431, a request line or headers beyond all measure
        ├── ClientGone               499, nobody waits for the answer; only the log sees it
        ├── QueueFull                429, as many requests are waiting as may
        ├── InternalError            500, a bug of ours
        ├── ModelUnloaded            503, a model that was unloaded by request
        ├── Draining                 503, the server has been told to stop
        ├── OutOfMemory              503, not even one row fits into memory
        ├── DeviceLost               503, the GPU is in an error state, and the worker restarts
        └── DeadlinePassed           504, the request waited too long and was not begun

A class sets `code` (stable, for machines), `cause` (what brings it about, as in the tree), `example` (a message),
`status` (HTTP) and `hint` (what to do next). An instance adds the message, and where it helps a `detail`: a table or
tree, already laid out in lines.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

EXPLAINED = Path(__file__).with_name("explained.toml")
DOCS_URL = "SCORE_DOCS_URL"  # the variable with the address of the documentation's site


def where_explained(code: str) -> str:
    """Where an error is explained: its place on the site, where the site's address is set, else a command."""
    site = os.environ.get(DOCS_URL, "").rstrip("/")
    return f"{site}/errors/#{code}" if site else f"score explain {code}"


Choices = Sequence[Mapping[str, Any]]
"""Settings, by name, of which each may mend an error; the likeliest first."""


class ScoreError(Exception):
    """An error with a stable code, a message that names what was found, and a hint that says what to do next."""

    code: ClassVar[str]
    cause: ClassVar[str]
    example: ClassVar[str]
    status: ClassVar[int]
    exit_code: ClassVar[int] = 3
    hint: str

    retry_after: float | None = None  # seconds after which the same request may succeed
    choices: Choices = ()

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        detail: str = "",
        retry_after: float | None = None,
        choices: Choices = (),
    ) -> None:
        super().__init__(message)
        message, detail = shortened(message, MOST_MESSAGE), shortened(detail, MOST_DETAIL)
        self.message = one_line(message) if isinstance(self, LoadError) else printable(message)
        self.detail = printable(detail)
        if hint is not None:
            self.hint = hint
        if retry_after is not None:
            self.retry_after = retry_after
        self.choices = choices

    def __str__(self) -> str:
        return self.message

    @classmethod
    def explained(cls) -> tuple[str, str]:
        """How it comes about, and an example that is worked through, from score/explained.toml."""
        found = tomllib.loads(EXPLAINED.read_text())[cls.code]
        return found["why"], found["worked"].strip("\n")

    @classmethod
    def meaning(cls) -> str:
        """The cause as a sentence, with what the error becomes outside."""
        where = "the model can't be loaded: exit code 3" if issubclass(cls, LoadError) else f"HTTP {cls.status}"
        return f"{cls.cause[:1].upper()}{cls.cause[1:]} ({where})."

    def as_dict(self) -> dict[str, str]:
        """The error as JSON shows it: `code`, `message`, `hint`, `docs`, and `detail` where there is one."""
        shown = {"code": self.code, "message": self.message, "hint": self.hint, "docs": where_explained(self.code)}
        return shown | {"detail": self.detail} if self.detail else shown

    def screen(self) -> str:
        """The error as people read it, the same in a terminal and in the server's log."""
        return "\n".join(f"{label}{text}" for label, text in laid_out(self.as_dict()))


def laid_out(error: Mapping[str, str]) -> list[tuple[str, str]]:
    """The lines of an error's screen, from what `ScoreError.as_dict` gives: each a label, which a terminal may set off,
    and a text."""
    return [
        (f"ERROR {error['code']}", f": {error['message']}"),
        *(("", f"  {line}") for line in error.get("detail", "").splitlines()),
        ("What to do", f": {error['hint']}"),
        ("More", f": {error['docs']}"),
    ]


MOST_MESSAGE, MOST_DETAIL = 4_000, 40_000  # characters, whatever names a file or a request has


def shortened(text: str, most: int) -> str:
    """A text that is too long for a screen, without its end."""
    return text if len(text) <= most else f"{text[:most]} ... ({len(text) - most:,} more characters)"


def printable(text: str) -> str:
    """Text that JSON and terminals take: a file name that is not UTF-8 reaches Python with lone surrogates, and control
    characters would steer a terminal. Line breaks stay; `one_line` is for names."""
    return _CONTROLS.sub(_escaped, text.encode("utf-8", "backslashreplace").decode())


def one_line(text: str) -> str:
    """The same for a text that is part of a line, such as a name: a line break in it would begin a line of its own."""
    return _BREAKS.sub(_escaped, printable(text))


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_BREAKS = re.compile("[\n\t\u2028\u2029]")


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class LoadError(ScoreError):
    status = 503


class InvalidSetting(LoadError):
    code = "invalid_setting"
    cause = "a setting has a value that can't be used"
    example = "SCORE_MAX_BATCH='many': Input should be a valid integer"
    hint = "Correct the setting. docs/settings.md lists every setting with its values."


class ModelDirUnset(LoadError):
    code = "model_dir_unset"
    cause = "nothing says where the model is"
    example = "AZUREML_MODEL_DIR is not set"
    hint = "Set AZUREML_MODEL_DIR to the file or folder that holds the checkpoint (Azure ML sets it by itself)."


class ModelDirMissing(LoadError):
    code = "model_dir_missing"
    cause = "the model path does not exist"
    example = "/var/azureml-app/azureml-models/digits/2 does not exist"
    hint = "Correct AZUREML_MODEL_DIR, or register the model that the deployment names."


class ModelDirEmpty(LoadError):
    code = "model_dir_empty"
    cause = "the model folder holds no file"
    example = "/var/azureml-app/azureml-models/digits/1 holds no files"
    hint = "Put the checkpoint into the folder; on Azure, check that the registered model has files in it."


class ModelDirUnreadable(LoadError):
    code = "model_dir_unreadable"
    cause = "this user may not read the model path"
    example = "/models/model.safetensors: this user (uid 1000) may not read the file"
    hint = "Give this user read access to the files and execute access to the folders (chmod -R a+rX)."


class NoCheckpoint(LoadError):
    code = "no_checkpoint"
    cause = "files are there, none of them is a checkpoint"
    example = "SCORE_CHECKPOINT=best.pt: there is no such file in /models"
    hint = "Put a PyTorch checkpoint into the folder, or point AZUREML_MODEL_DIR at the one that has it."


class SeveralCheckpoints(LoadError):
    code = "several_checkpoints"
    cause = "more than one checkpoint, and nothing says which"
    example = "/models holds 2 checkpoints"
    hint = (
        "Say which one with SCORE_CHECKPOINT=path/below/the/model/folder, or leave only one in the folder. A server "
        "serves each by its name."
    )


class ArchiveTooLarge(LoadError):
    code = "archive_too_large"
    cause = "an archive holds more than may be unpacked"
    example = "model.tar.gz: it holds more than 20 GB that has to be unpacked"
    hint = (
        "Register what is inside, or a tar that is not compressed, whose files are read where they are; or raise "
        "SCORE_MAX_UNPACKED_GB, where the temporary folder (TMPDIR) has the space."
    )


class ForeignFormat(LoadError):
    code = "foreign_format"
    cause = "the file belongs to another framework or is no model at all"
    example = "model.h5 is a Keras or HDF5 file"
    hint = "Export the model from its own framework to safetensors, ONNX or a PyTorch checkpoint."


class UnsupportedFormat(LoadError):
    code = "unsupported_format"
    cause = "a PyTorch format that this installation can't open"
    example = "model is an MLflow model of flavor sklearn, not pytorch"
    hint = "Save the weights with torch.save(model.state_dict(), path) or as safetensors, and serve that file."


class TruncatedFile(LoadError):
    code = "truncated_file"
    cause = "the file ends before its content does"
    example = "model.pt: a zip archive cut short or damaged (File is not a zip file)"
    hint = "The file was not written or copied whole. Copy it again and compare sizes or checksums."


class MalformedFile(LoadError):
    code = "malformed_file"
    cause = "the file contradicts itself"
    example = "the .metadata is not that of a distributed checkpoint"
    hint = "The file is damaged or was altered. Get it again from where it was saved."


class ChecksumMismatch(LoadError):
    code = "checksum_mismatch"
    cause = "a file is not the one that SHA256SUMS lists"
    example = "1 of the 2 files in /models/SHA256SUMS are not what they were"
    hint = (
        "The files were damaged or altered after SHA256SUMS was written: get them again. If you altered them "
        "yourself, write the list again (sha256sum FILE ... > SHA256SUMS)."
    )


class VersionTooOld(LoadError):
    code = "version_too_old"
    cause = "Python, torch or numpy here is older than the file needs"
    example = "model.pt: archive version 11, but torch 2.13.0 reads up to 10"
    hint = "Raise the version that the message names, or save the file again with the version used here."


class UntrustedCode(LoadError):
    code = "untrusted_code"
    cause = "serving this would run code from the file"
    example = "model.pt: a pickled module of class my_project.Net, which runs code from the file"
    hint = "If you know where the file comes from, allow exactly it with SCORE_TRUST_SHA256=<its sha256>."


class NoWeights(LoadError):
    code = "no_weights"
    cause = "the checkpoint was read and holds no weights"
    example = "bert holds a config.json, an architecture without weights"
    hint = "Save the weights: torch.save(model.state_dict(), path)."


class SeveralWeights(LoadError):
    code = "several_weights"
    cause = "more than one mapping could be the weights"
    example = "2 mappings could be the weights: generator, discriminator"
    hint = "Say which one with SCORE_WEIGHTS=<path>, one of those listed."


class QuantisedWeights(LoadError):
    code = "quantised_weights"
    cause = "weights that mean nothing without scales, in a way that is not known here"
    example = "model.pt holds weights quantised by quanto, which are not served as they are here: fc.weight._data"
    hint = (
        "Serve the model as it was before it was quantised; or save it as a program that computes with its own weights "
        "(torch.jit.save, torch.export.save, ONNX)."
    )


class WeightsNotFound(LoadError):
    code = "weights_not_found"
    cause = "SCORE_WEIGHTS names a path that is not there"
    example = "SCORE_WEIGHTS=ema: there is no such mapping"
    hint = "Set SCORE_WEIGHTS to one of the paths listed, or unset it."


class ArchitectureNeeded(LoadError):
    code = "architecture_needed"
    cause = "weights without a class, and no registered class fits"
    example = "the weights were read (20 tensors, 85,452 parameters), but no architecture fits them"
    hint = (
        "Say which class it is: SCORE_ARCHITECTURE=<registered name>, package.module:Class, or path/to/file.py:Class; "
        "or put your class into models/ with @register."
    )


class ArchitectureAmbiguous(LoadError):
    code = "architecture_ambiguous"
    cause = "several architectures fit"
    example = "2 architectures fit the weights: SimpleModel, Twin"
    hint = "Say which one with SCORE_ARCHITECTURE=<name>."


class ArchitectureUndecided(LoadError):
    code = "architecture_undecided"
    cause = "one fits, and shapes can't tell all that it computes with"
    example = "the weights are those of MLP(...), and shapes can't tell its activation and output"
    hint = (
        "Say what it was trained with in SCORE_ARCHITECTURE_KWARGS, as a JSON object; or name the class that it was "
        "trained as: SCORE_ARCHITECTURE=path/to/file.py:Class."
    )


class ProviderMissing(LoadError):
    code = "provider_missing"
    cause = "the weights are of an architecture whose package is not installed"
    example = "the weights are those of timm:convnext_tiny, and timm is not installed"
    hint = "Install the package that the message names."


class ArchitectureUnknown(LoadError):
    code = "architecture_unknown"
    cause = "the named class can't be found"
    example = "no architecture is registered as 'Resnet'"
    hint = "Use a registered name, package.module:Class, or path/to/file.py:Class."


class ArchitectureBroken(LoadError):
    code = "architecture_broken"
    cause = "the class was found and can't be built"
    example = "Net(width='wide') can't be built: TypeError: empty() received an invalid combination of arguments"
    hint = "Give the constructor's arguments in SCORE_ARCHITECTURE_KWARGS as a JSON object, or mend the class."


class ClassNotImportable(LoadError):
    code = "class_not_importable"
    cause = "a pickled module's class does not exist here"
    example = "model.pt is a pickled module of class __main__.Net, which is not here"
    hint = (
        "The weights in the file are intact. Put the class into models/ with @register and set "
        "SCORE_ARCHITECTURE=<its name>, or install the package that holds it."
    )


class WeightsMismatch(LoadError):
    code = "weights_mismatch"
    cause = "keys or shapes differ between the class and the weights"
    example = "Net does not fit the weights at 'state_dict': 2 keys missing, 0 mis-shaped, 2 unexpected, 18 match"
    hint = "The weights belong to another class, version or configuration: see SCORE_ARCHITECTURE_KWARGS."


class PrefixAmbiguous(LoadError):
    code = "prefix_ambiguous"
    cause = "two prefixes match equally well"
    example = "2 prefixes match 18 of 18 keys"
    hint = "Say which one with SCORE_PREFIX=<prefix>."


class AdapterUnsupported(LoadError):
    code = "adapter_unsupported"
    cause = "an adapter can't be merged into its base model"
    example = "my-lora sets use_qalora, which is not known here"
    hint = "Merge the two with the version of PEFT that made the adapter (merge_and_unload), and save the result."


class Uninitialised(LoadError):
    code = "uninitialised"
    cause = "the class needs values that the checkpoint lacks"
    example = "Net draws values for its buffer 'noise', and the checkpoint lacks it"
    hint = "Make these tensors part of the state_dict (register_buffer), or compute them without randomness."


class InputsUnknown(LoadError):
    code = "inputs_unknown"
    cause = "`score check` has no input to try, since nothing says what the model takes"
    example = "model.pt is loaded, but nothing says what shape of input it takes"
    hint = "Say what the model takes: SCORE_INPUTS='float32[N, 3, 224, 224]', or inputs= in @register."


class NoTemporaryFolder(LoadError):
    code = "no_temporary_folder"
    cause = "nothing can be written where temporary files go"
    example = "nothing can be written to /tmp: No space left on device"
    hint = "Free space in the folder for temporary files, or name another in TMPDIR."


class ConfinementUnavailable(LoadError):
    code = "confinement_unavailable"
    cause = "the kernel lacks what SCORE_CONFINE=require asks for"
    example = "this kernel or container does not have landlock (LandlockNotAvailableError: ENOSYS)"
    hint = "Run on a kernel with Landlock (5.13 or newer) and seccomp, or set SCORE_CONFINE=auto."


class WarmUpFailed(LoadError):
    code = "warm_up_failed"
    cause = "the loaded model has answered no made-up request, and SCORE_REQUIRE_WARM_UP is set"
    example = "Net is loaded, and answers nothing: what the model takes is not known (x: float32)"
    hint = "Set SCORE_INPUTS to what the model takes, or SCORE_REQUIRE_WARM_UP=false to serve it all the same."


class ModelTooLarge(LoadError):
    code = "model_too_large"
    cause = "a model takes more than SCORE_MAX_MEMORY_MB by itself"
    example = "bert takes 438 MB, and all models together may take 200 MB"
    hint = "Raise SCORE_MAX_MEMORY_MB, or serve the model where there is more memory."


class PortTaken(LoadError):
    code = "port_taken"
    cause = "something listens on the port already"
    example = "something listens on port 5001 already"
    hint = "End it, or take another port, as in: score serve model.pt --port 5002."


class PortUnusable(LoadError):
    code = "port_unusable"
    cause = "nothing can listen on that address"
    example = "nothing can listen on 127.0.0.1, port 80: Permission denied"
    hint = "Take another address or a port above 1023, as in: score serve model.pt --host 127.0.0.1 --port 5001."


class ModelStuck(LoadError):
    code = "model_stuck"
    cause = "a forward pass does not come to an end"
    example = "a forward pass of 1 row has run for 300 s, and does not come to an end"
    hint = (
        "Mend the model (a loop that does not end?), send smaller inputs, or raise SCORE_STUCK_AFTER_MS if it does "
        "take that long."
    )


class DeviceUnavailable(LoadError):
    code = "device_unavailable"
    cause = "the wanted device is not there"
    example = "SCORE_DEVICE=cuda:1: there is 1 GPU"
    hint = "Use SCORE_DEVICE=auto or cpu, or deploy to an instance type with a GPU and the gpu image."


class DeviceOutOfMemory(LoadError):
    code = "device_out_of_memory"
    cause = "the weights don't fit on the device"
    example = "the weights do not fit on cuda:0: CUDA out of memory"
    hint = "Use a larger GPU, free the one named, or set SCORE_DEVICE=cpu."


class RequestError(ScoreError):
    status = 400


class MalformedRequest(RequestError):
    code = "malformed_request"
    cause = "bytes that are no HTTP request"
    example = "not an HTTP request: Invalid character in Content-Length"
    hint = "Send HTTP/1.1 as RFC 9112 has it; mind proxies that alter what passes through them."


class EmptyBody(RequestError):
    code = "empty_body"
    cause = "a body without a byte"
    example = "the body is empty"
    hint = 'Send a JSON body such as {"data": [[0.1, 0.2]]}. GET /score shows what this model takes.'


class InvalidJson(RequestError):
    code = "invalid_json"
    cause = "JSON that is not well-formed"
    example = "not valid JSON at byte 10: unexpected end of data (near '{\"data\": [')"
    hint = "Send valid JSON. NaN and Infinity are not JSON; use numbers or another encoding."


class UnknownBody(RequestError):
    code = "unknown_body"
    cause = "JSON, but none of the known dialects"
    example = "the body is a JSON string, not an object"
    hint = 'Send {"data": [...]}, {"inputs": ...}, {"instances": [...]} or {"input_data": {...}}.'


class NotNumeric(RequestError):
    code = "not_numeric"
    cause = "strings, nulls or objects where numbers belong"
    example = "data[0][3] is null where a number belongs"
    hint = "Send numbers, in rows of equal length."


class RaggedRows(RequestError):
    code = "ragged_rows"
    cause = "rows of different lengths"
    example = "data: data[1] has 9 values, data[0] has 10"
    hint = "Make all rows the same length."


class WrongInputs(RequestError):
    code = "wrong_inputs"
    cause = "other input names than the model's"
    example = "the model takes input_ids, attention_mask; received text"
    hint = "Send exactly the inputs that the model takes. GET /score lists them."


class WrongShape(RequestError):
    code = "wrong_shape"
    cause = "another shape than the model's"
    example = "pixels: expected float32[N, 1, 8, 8], received [1, 3]"
    hint = "The first dimension is the batch: wrap a single item in a list. GET /score shows the shape."


class WrongDtype(RequestError):
    code = "wrong_dtype"
    cause = "values that the model's dtype can't hold"
    example = "tokens: expected int64, received numbers with a fraction"
    hint = "Send values that the model's input type can hold. GET /score shows the type."


class InvalidTensor(RequestError):
    code = "invalid_tensor"
    cause = "a tensor of the Open Inference Protocol that contradicts itself"
    example = "x: the shape [2, 3] has 6 values, the data 5"
    hint = "Make name, shape, datatype and data agree, as the Open Inference Protocol says."


class InvalidArray(RequestError):
    code = "invalid_array"
    cause = "a damaged npy or npz body"
    example = "the body is not a whole npz archive (File is not a zip file)"
    hint = "Send what numpy.save(file, array) or numpy.savez(file, name=array) wrote, as it is."


class InvalidImage(RequestError):
    code = "invalid_image"
    cause = "a PNG or JPEG body that is damaged or too large"
    example = "the body is not a whole PNG image (image file is truncated)"
    hint = "Send a whole PNG or JPEG file as the body, with its own content type."


class InvalidAudio(RequestError):
    code = "invalid_audio"
    cause = "a WAV or FLAC body that is damaged or too large"
    example = "the body is not a whole FLAC file (unspecified internal error)"
    hint = "Send a whole WAV or FLAC file as the body, with its own content type."


class InvalidTable(RequestError):
    code = "invalid_table"
    cause = "a damaged table, or one of which nobody knows what it is"
    example = "row 3 has 4 values, the first has 5"
    hint = "Send CSV as RFC 4180 has it, with as many values in each row."


class InvalidForm(RequestError):
    code = "invalid_form"
    cause = "multipart/form-data that is damaged, or without a file"
    example = "the form has no file"
    hint = "Send it as `curl -F file=@picture.png`; parameters as `-F 'parameters={\"top_k\": 3}'`."


class InvalidTopK(RequestError):
    code = "invalid_top_k"
    cause = "top_k is not a number above zero"
    example = "top_k is 0, and has to be a number above zero"
    hint = 'Ask for it as {"data": [...], "parameters": {"top_k": 5}}, or with ?top_k=5 after /score.'


class UnknownParameter(RequestError):
    code = "unknown_parameter"
    cause = "a parameter that nothing here takes"
    example = "there is no parameter 'topk'; did you mean top_k?"
    hint = "Leave it out, or correct its name: predictions take top_k."


class TopKUnavailable(RequestError):
    code = "top_k_unavailable"
    cause = "top_k for outputs that are no classes"
    example = "there are 10 labels for 7 classes"
    hint = "Leave top_k out; or, where the number of labels is wrong, correct SCORE_LABELS, labels.txt or id2label."


class InvalidParameter(RequestError):
    code = "invalid_parameter"
    cause = "a parameter with a value that it can't have"
    example = "aggregation_strategy is 'all', and has to be none or simple or first or average or max"
    hint = "Correct the value; GET /score lists the task's parameters."


class InvalidItem(RequestError):
    code = "invalid_item"
    cause = "an item that the model's task does not take"
    example = 'question-answering takes {"question": "...", "context": "..."}'
    hint = "Send what the task takes: GET /score names it. For tensors as the model takes them, set SCORE_TASK=tensors."


class InputTooLong(RequestError):
    code = "input_too_long"
    cause = "more tokens than the model has places for"
    example = "the text has 700 tokens; the model takes 512"
    hint = 'Send a shorter text, or {"inputs": ..., "parameters": {"truncation": true}} to have it cut.'


class InvalidGzip(RequestError):
    code = "invalid_gzip"
    cause = "a body that says it is compressed and is not"
    example = "the compressed body ends before its end"
    hint = "Compress the body with gzip, or leave the Content-Encoding header out."


class UnknownOutput(RequestError):
    code = "unknown_output"
    cause = "an output that the model has not"
    example = "the model gives scores; asked for was logits"
    hint = "Ask for the outputs that the message names, or for none to get all."


class ModelNotNamed(RequestError):
    code = "model_not_named"
    cause = "several models are served, and the request names none"
    example = "3 models are served here: cats, dogs, mice"
    hint = 'Name one: POST /score/<name>, or the header azureml-model-name, or "model" in the body.'


class ModelNotForRoute(RequestError):
    code = "model_not_for_route"
    cause = "a path that is for models of another kind"
    example = "digits does not answer texts with embeddings"
    hint = "Send the request to /score; GET /score shows what this model takes."


class NotSupported(RequestError):
    code = "not_supported"
    status = 409
    cause = "a part of a protocol that this server has not"
    example = "shared memory between client and server is not supported"
    hint = "Send tensors in the request itself, as JSON or as binary data."


class UnknownModel(RequestError):
    code = "unknown_model"
    status = 404
    cause = "a model that is not served here"
    example = "there is no model 'cat'; served are: cats, dogs"
    hint = "Correct the name. GET /v1/models lists the models that are served."


class NotFound(RequestError):
    code = "not_found"
    cause = "a path that is none of this server's"
    example = "there is nothing at this path"
    status = 404
    hint = "POST /score predicts, GET /score shows the model card, GET / is the liveness probe."


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"
    cause = "a method that the path does not take"
    example = "/score does not take PUT"
    status = 405
    hint = "Use POST /score to predict and GET /score for the model card."


class NotAcceptable(RequestError):
    code = "not_acceptable"
    cause = "the Accept header rules out all that can be written"
    example = "the request accepts text/csv; answers can be application/json, application/x-npy, application/x-npz"
    status = 406
    hint = "Send no Accept header to get the answer in the request's own format, or one that the message names."


class RequestTimeout(RequestError):
    code = "request_timeout"
    cause = "a request that does not come to its end"
    example = "nothing more of the request came for 20 s"
    status = 408
    hint = "Send the request in one go; for a slow line, send less in a request."


class BodyTooLarge(RequestError):
    code = "body_too_large"
    cause = "more than SCORE_MAX_BODY_MB"
    example = "the body is larger than 100 MB"
    status = 413
    hint = "Send fewer rows in a request, or raise SCORE_MAX_BODY_MB."


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    cause = "a body that no codec here reads"
    example = "the body is application/xml; accepted are application/json, application/x-npy, application/x-npz"
    status = 415
    hint = "Send JSON, npy, npz, or tensors of the Open Inference Protocol."


class ModelRejected(RequestError):
    code = "model_rejected"
    cause = "the model itself raised on this input"
    example = "the model raised IndexError: index out of range in self"
    status = 422
    hint = "Compare the input with what the model takes (GET /score); set SCORE_INPUTS to have it checked first."


class HeadTooLarge(RequestError):
    code = "head_too_large"
    cause = "a request line or headers beyond all measure"
    example = "the request's line and headers have more than 65,536 bytes"
    status = 431
    hint = "Send what is long in the body; predictions need a few headers only."


class ClientGone(RequestError):
    code = "client_gone"
    cause = "nobody waits for the answer; only the log sees it"
    example = "the client closed the connection before its request was begun"
    status = 499
    hint = "Wait longer for the answer, or send fewer requests at a time."


class QueueFull(RequestError):
    code = "queue_full"
    cause = "as many requests are waiting as may"
    example = "256 requests are waiting already"
    status = 429
    hint = "Send it again after Retry-After seconds; for lasting load, add instances or raise SCORE_MAX_QUEUE."
    retry_after = 1


class InternalError(RequestError):
    code = "internal_error"
    cause = "a bug of ours"
    example = "KeyError while answering the request"
    status = 500
    hint = "This is a bug in the server: report it with the request id and the log around it."


class ModelUnloaded(RequestError):
    code = "model_unloaded"
    status = 503
    cause = "a model that was unloaded by request"
    example = "cats was unloaded"
    hint = "Load it again: POST /v2/repository/models/<name>/load."


class Draining(RequestError):
    code = "draining"
    cause = "the server has been told to stop"
    example = "the server has been told to stop, and takes no new requests"
    status = 503
    hint = "Send it again: another instance, or this one's successor, takes it."
    retry_after = 1


class OutOfMemory(RequestError):
    code = "out_of_memory"
    cause = "not even one row fits into memory"
    example = "the GPU's memory does not suffice: CUDA out of memory"
    status = 503
    hint = "Send smaller inputs, or use an instance with more memory."
    retry_after = 1


class DeviceLost(RequestError):
    code = "device_lost"
    cause = "the GPU is in an error state, and the worker restarts"
    example = "the GPU can't be used any more: CUDA error: device-side assert triggered"
    status = 503
    hint = "Send it again: the worker restarts by itself. Its log has what the driver said."
    retry_after = 10


class DeadlinePassed(RequestError):
    code = "deadline_passed"
    cause = "the request waited too long and was not begun"
    example = "the request waited 60.0 s and was not begun"
    status = 504
    hint = "Send it again when there is less load, add instances, or raise SCORING_TIMEOUT_MS."
    retry_after = 1


def by_code() -> dict[str, type[ScoreError]]:
    """Every error's class, by its code."""
    return {kind.code: kind for kind in every_error()}


def every_error() -> Iterator[type[ScoreError]]:
    """All concrete error classes, in the order of the tree above."""
    waiting: list[type[ScoreError]] = [ScoreError]
    while waiting:
        kind = waiting.pop(0)
        if "code" in vars(kind):
            yield kind
        waiting[:0] = kind.__subclasses__()
