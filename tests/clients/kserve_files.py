"""The files in deploy/kserve, read by KServe's own classes: fields that these do not know, or of another type, fail.

    python kserve_files.py [FOLDER OF CRDS]

With a folder that holds KServe's custom resource definitions (its repository has them in config/crd/full), the files
are held against those too, with nothing allowed beside what they list.
"""

import re
import sys
from pathlib import Path
from typing import Any

import yaml
from kserve import models

ROOT = Path(__file__).resolve().parent.parent.parent
KINDS = {"ClusterServingRuntime": "V1alpha1ClusterServingRuntime", "InferenceService": "V1beta1InferenceService"}
FOREIGN = re.compile(r"V1[A-Z]")  # Kubernetes' own, such as V1EnvVar


def check(value: Any, kind: str, where: str) -> None:
    """Raise `AssertionError` for what the class of a `kind` does not know."""
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        assert isinstance(value, list), f"{where} is no list"
        for at, each in enumerate(value):
            check(each, inner[1], f"{where}[{at}]")
    elif inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        assert isinstance(value, dict), f"{where} is no object"
        for name, each in value.items():
            check(each, inner[1], f"{where}.{name}")
    elif hasattr(models, kind):
        described = getattr(models, kind)
        names = {json: python for python, json in described.attribute_map.items()}
        assert isinstance(value, dict), f"{where} is no object"
        for name, each in value.items():
            assert name in names, f"{where} has {name!r}, which {kind} does not know"
            check(each, described.openapi_types[names[name]], f"{where}.{name}")
    elif kind in ("str", "bool", "int", "float"):
        assert type(value).__name__ == kind, f"{where} is {value!r}, and {kind} is expected"
    else:
        assert FOREIGN.match(kind) or kind in ("object", "file"), f"{where}: {kind} is not known"


def definitions(folder: Path) -> dict[tuple[str, str], Any]:
    found = {}
    for file in folder.glob("*.yaml"):
        described = yaml.safe_load(file.read_text())
        spec = described["spec"]
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = closed(version["schema"]["openAPIV3Schema"])
            found[key]["properties"]["metadata"] = {"type": "object"}
    return found


def closed(schema: Any) -> Any:
    """A schema that allows nothing beside what it lists, in JSON Schema's words."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(each) for name, each in schema.items() if name != "format"}
    if "properties" in found and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string") is True:
        found = {"type": ["integer", "string"]}
    return found


def main() -> None:
    files = sorted((ROOT / "deploy" / "kserve").glob("*.yaml"))
    known = definitions(Path(sys.argv[1])) if len(sys.argv) > 1 else {}
    for file in files:
        document = yaml.safe_load(file.read_text())
        check(document, KINDS[document["kind"]], document["kind"])
        if known:
            import jsonschema

            schema = known[document["apiVersion"], document["kind"]]
            jsonschema.Draft202012Validator(schema).validate(document)
        print(f"{file.name}: as KServe's classes have it" + (", and its definitions" if known else ""))
    broken = yaml.safe_load((ROOT / "deploy/kserve/runtime.yaml").read_text())
    broken["spec"]["supportedModelFormat"] = []
    try:
        check(broken, KINDS[broken["kind"]], broken["kind"])
    except AssertionError:
        return
    raise AssertionError("a field that there is not was not seen")


if __name__ == "__main__":
    main()
