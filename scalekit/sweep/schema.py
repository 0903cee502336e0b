"""The sweep file as a JSON schema, for editors: completion and checks while writing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel

from scalekit import registry
from scalekit.quantities import NUMBER_PATTERN
from scalekit.sweep.functions import ARITHMETICAL
from scalekit.sweep.keys import HORIZON, KEYS, SECTIONS, UnknownKeyError, resolve_key
from scalekit.sweep.sections import SweepFile

Schema = dict[str, Any]

_NUMBER_TEXT = {"type": "string", "pattern": f"^{NUMBER_PATTERN}$"}
_TRUTH_TEXT = {"enum": ["yes", "no", "on", "off", "true", "false"]}
_EXPRESSION = {"type": ["string", "number", "boolean"]}


def sweep_schema() -> Schema:
    """Return the JSON schema of a sweep file."""
    schema = _loosen(SweepFile.model_json_schema())
    keys = {name: _loosen(_schema_of(key.model)[key.field]) for name, key in KEYS.items()}
    lists = {name: _list_of(name) for name in KEYS}
    schema["$defs"] |= {f"key {name}": value for name, value in keys.items()}
    schema["$defs"] |= {f"list {name}": value for name, value in lists.items()}
    schema["$defs"]["settings"] = _settings("key")
    schema["$defs"]["lists"] = _settings("list")
    derived = {name: {"anyOf": [_EXPRESSION, {"type": "null"}]} for name in _names()}
    rungs = {
        word: {"$ref": f"#/$defs/list {name}"}
        for name in HORIZON
        for word in (name, name.removeprefix("train."))
    }
    rungs["train"] = _mapping({k: v for k, v in rungs.items() if "." not in k})
    paths = {"type": "array", "items": {"type": "string"}}
    shapes = {
        "base": {"$ref": "#/$defs/settings"},
        "grid": {"$ref": "#/$defs/lists"},
        "zip": {"$ref": "#/$defs/lists"},
        "ladder": {"type": "object", "properties": rungs, "additionalProperties": False},
        "cases": {"type": "array", "items": {"$ref": "#/$defs/settings"}},
        "derive": {"type": "object", "properties": derived},
        "extends": {"anyOf": [{"type": "string"}, paths]},
    }
    for name, shape in shapes.items():
        described = schema["properties"][name]["description"]
        schema["properties"][name] = {
            "description": described,
            "anyOf": [shape, {"type": "null"}],
        }
    schema["properties"]["derive"]["description"] += f". {_functions()}"
    schema["$defs"]["IsoflopSection"]["properties"]["sizes"] = {"$ref": "#/$defs/lists"}
    # What every sweep needs may stand in the file that this one extends.
    schema.pop("required", None)
    schema["anyOf"] = [{"required": ["scalekit", "name"]}, {"required": ["extends"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "scalekit sweep file",
    }


def _functions() -> str:
    """Say what expressions may call, and of each published rule what it gives and whose it is."""
    names = registry.names("hyperparameters")
    rules = "; ".join(registry.find("hyperparameters", name).describe() for name in names)
    return f"Functions: {', '.join(ARITHMETICAL)}. Published rules: {rules}"


@cache
def _schema_of(model: type[BaseModel]) -> Schema:
    return model.model_json_schema()["properties"]


def _names() -> list[str]:
    """List every word that names one key: dotted names and their unambiguous endings."""
    endings = {name.split(".", n)[-1] for name in KEYS for n in range(name.count(".") + 1)}
    return sorted(word for word in endings if _is_known(word))


def _is_known(word: str) -> bool:
    try:
        resolve_key(word)
    except UnknownKeyError:
        return False
    return True


def _settings(kind: str) -> Schema:
    """Describe a mapping of settings, by words and by sections."""
    found: Schema = {word: {"$ref": f"#/$defs/{kind} {resolve_key(word)}"} for word in _names()}
    for section in sorted(SECTIONS):
        inside = {
            name.removeprefix(f"{section}."): {"$ref": f"#/$defs/{kind} {name}"}
            for name in KEYS
            if name.startswith(f"{section}.")
        }
        inner = (s for s in SECTIONS if s.startswith(f"{section}."))
        inside |= {s.removeprefix(f"{section}."): found.get(s, {"type": "object"}) for s in inner}
        found[section] = _mapping(inside)
    return _mapping(found)


def _mapping(properties: Schema) -> Schema:
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": False}


def _list_of(name: str) -> Schema:
    """Describe the values that a key takes in a grid."""
    choices: list[Schema] = [
        {"type": "array", "items": {"$ref": f"#/$defs/key {name}"}, "minItems": 1},
        {"type": "null"},
    ]
    if KEYS[name].kind == "number":
        number = _loosen({"type": "number"})
        ends = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
        for kind, step in (("logspace", "num"), ("linspace", "num"), ("range", "step")):
            choices.append(
                {
                    "type": "object",
                    "properties": {kind: ends, step: number},
                    "required": [kind, step],
                    "additionalProperties": False,
                }
            )
    return {"anyOf": choices}


def _loosen(schema: Any) -> Any:
    """Let numbers be written with suffixes and truths as words, as the loader reads them."""
    if isinstance(schema, list):
        return [_loosen(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    loose = {key: _loosen(value) for key, value in schema.items()}
    texts = {"integer": _NUMBER_TEXT, "number": _NUMBER_TEXT, "boolean": _TRUTH_TEXT}
    text = texts.get(schema.get("type", "")) if isinstance(schema.get("type"), str) else None
    if text is None:
        return loose
    said = {key: loose.pop(key) for key in _kept(loose)}
    return {**said, "anyOf": [loose, text]}


def _kept(schema: Iterable[str]) -> list[str]:
    return [key for key in ("title", "description", "default") if key in schema]
