"""Where the HTTP API takes text that may say anything: found in its own description."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Place = tuple[str, str]
"""The operation, and the parameter or the field of its body."""


def free_text(document: Mapping[str, Any]) -> set[Place]:
    """Every place that takes a text like a name. A pattern that lets none through closes it."""
    found: set[Place] = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for place, schema in _taken(operation):
                for field in _fields(document, schema, place):
                    found.add((operation.get("operationId", f"{method} {path}"), field))
    return found


def _taken(operation: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for parameter in operation.get("parameters", ()):
        yield parameter["name"], parameter["schema"]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield ("bytes" if kind == "application/octet-stream" else ""), content["schema"]


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any], place: str) -> Iterator[str]:
    """Names of the fields in a schema that may hold any text."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        known = {**document["components"]["schemas"], **schema.get("$defs", {})}
        yield from _fields(document, known[name], place)
        return
    for kind in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(kind, ()):
            yield from _fields(document, one, place)
    for name, one in schema.get("properties", {}).items():
        yield from _fields(document, one, name)
    if isinstance(schema.get("items"), dict):
        yield from _fields(document, schema["items"], place)
    more = schema.get("additionalProperties")
    if more is True or (schema.get("type") == "object" and "properties" not in schema and not more):
        yield place
    elif isinstance(more, dict):
        yield from _fields(document, more, place)
    if schema.get("type") == "string" and _is_free(schema):
        yield place


def _is_free(schema: Mapping[str, Any]) -> bool:
    if "enum" in schema or "const" in schema or schema.get("format") == "date-time":
        return False
    pattern = schema.get("pattern")
    return pattern is None or any(
        re.search(pattern, text) for text in ("ann@example.org", "Ann Example")
    )
