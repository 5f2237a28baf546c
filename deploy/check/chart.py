"""Lint a Helm chart, render it for every file in its ci/ and check each document: `python -m deploy.check.chart CHART`.

Needs no cluster and no network: Helm itself as a library (helm-python-sdk), Kubernetes' own schemas
(kubernetes-validate), and for what operators define the schemas in schemas/, all strict, because a misspelt key is
otherwise dropped without a word. Install them with `make check-tools`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from helm_python import HelmError
from helm_python.chart import Chart, lint

SCHEMAS = Path(__file__).resolve().parent / "schemas"
KUBERNETES = "1.37"
ICON = "icon is recommended"
LINT_ERROR = 2
"""helm's severities: 1 info, 2 warning, 3 error; the one hint about an icon is no reason to stop."""

Json = dict[str, Any]


def strict(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a schema in which an object with listed properties has no others, as the API server's pruning has it."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    open_on_purpose = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and "properties" in schema and not open_on_purpose:
        closed["additionalProperties"] = False
    return closed


def problems_of(document: Json) -> list[str]:
    """Return what is wrong with one Kubernetes object, [] when nothing is."""
    kind = f"{document['apiVersion'].replace('/', '_')}_{document['kind']}"
    path = SCHEMAS / f"{kind}.json"
    if path.exists():
        schema = strict(json.loads(path.read_text()))
        schema["properties"]["metadata"] = {"type": "object"}
        errors = jsonschema.Draft7Validator(schema).iter_errors(document)
        return [f"{error.json_path}: {error.message[:200]}" for error in errors]
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"no schema for {kind}: expected one in {SCHEMAS.name}/"]
    return []


def documents(chart: Chart, values: Json) -> Iterator[tuple[str, Json]]:
    """Render and yield (template, object). Raises HelmError, yaml.YAMLError."""
    for template, text in chart.render(values=values, name="demo", namespace="models").items():
        if not template.endswith(".txt"):
            yield from ((template, document) for document in yaml.safe_load_all(text) if document)


def check(folder: Path) -> Iterator[str]:
    """Yield one line for each thing wrong with the chart."""
    for message in lint(str(folder))["messages"]:
        if message["severity"] >= LINT_ERROR or message["error"] != ICON:
            yield f"lint: {message['path']}: {message['error']}"
    with Chart.load(str(folder)) as chart:
        for path in sorted((folder / "ci").glob("*-values.yaml")):
            values = yaml.safe_load(path.read_text())
            try:
                chart.validate_schema(values)
                for template, document in documents(chart, values):
                    name = f"{path.name}: {template.removeprefix('sluice/')} {document['kind']}"
                    yield from (f"{name}: {problem}" for problem in problems_of(document))
            except (HelmError, yaml.YAMLError) as error:
                yield f"{path.name}: {' '.join(str(error).split())}"


if __name__ == "__main__":
    found = list(check(Path(sys.argv[1])))
    sys.stdout.writelines(f"{line}\n" for line in found)
    sys.exit(bool(found))
