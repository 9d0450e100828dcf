"""A value held against a JSON Schema (draft 2020-12), as far as the shipped schemas use it.

The schemas are the description that other languages' validators read; this is the same description at work, with the
first fault's place as a JSON pointer. A keyword that is not known here raises KeyError: a test checks that there is none.
"""
import functools
import json
import re
from importlib import resources

from refnode.interchange.safe_reading import pointer_step, shown

TYPES = {"object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
         "boolean": (bool,), "null": (type(None),)}
ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description", "examples"}


class Fault(Exception):
    """The first thing that does not fit."""

    def __init__(self, pointer, reason, constant=None):
        super().__init__(f"at {pointer or '/'}: {reason}")
        self.pointer, self.constant = pointer, constant


@functools.cache
def schema_named(name):
    """A shipped schema: "problem" or "answer"."""
    return json.loads(resources.files("refnode.interchange").joinpath("schema", f"{name}.schema.json").read_text("utf-8"))


def require(value, schema, root, pointer=""):
    """Raise the `Fault` of a value that does not fit the schema; ``root`` is the whole schema, for "$ref"."""
    for keyword, expected in schema.items():
        if keyword not in ANNOTATIONS:
            applies_to, check = KEYWORDS[keyword]
            if isinstance(value, applies_to):
                check(value, expected, schema, root, pointer)


def _type(value, expected, schema, root, pointer):
    names = [expected] if isinstance(expected, str) else expected
    if type(value) not in {kind for name in names for kind in TYPES[name]}:
        raise Fault(pointer, f"expected {' or '.join(names)}, found {shown(value)}")


def _const(value, expected, schema, root, pointer):
    if type(value) is not type(expected) or value != expected:
        raise Fault(pointer, f"expected {shown(expected)}, found {shown(value)}", shown(expected))


def _enum(value, expected, schema, root, pointer):
    if not isinstance(value, (str, int)) or value not in expected:
        raise Fault(pointer, f"expected one of {', '.join(map(shown, expected))}, found {shown(value)}")


def _required(value, expected, schema, root, pointer):
    for key in expected:
        if key not in value:
            raise Fault(pointer, f"the key {shown(key)} is missing")


def _properties(value, expected, schema, root, pointer):
    for key, inner in expected.items():
        if key in value:
            require(value[key], inner, root, f"{pointer}/{key}")


def _additional(value, expected, schema, root, pointer):
    known = schema.get("properties", {})
    for key, entry in value.items():
        if key not in known:
            if expected is False:
                raise Fault(pointer, f"the key {shown(key)} is not known here; known are {', '.join(known)}")
            require(entry, expected, root, f"{pointer}/{pointer_step(key)}")


def _property_names(value, expected, schema, root, pointer):
    for key in value:
        require(key, expected, root, f"{pointer}/{pointer_step(key)}")


def _most(what):
    def check(value, expected, schema, root, pointer):
        if len(value) > expected:
            raise Fault(pointer, f"{len(value)} {what}, at most {expected} are taken")
    return check


def _fewest(value, expected, schema, root, pointer):
    if len(value) < expected:
        raise Fault(pointer, f"expected at least {expected} entries, found {len(value)}")


def _items(value, expected, schema, root, pointer):
    """Equal scalars are checked once, and where only their type counts one of each type: a million numbers are one check."""
    by_type, checked = _only_types_count(expected, root), set()
    for i, entry in enumerate(value):
        if not isinstance(entry, (list, dict)):
            key = type(entry) if by_type and type(entry) is not str else (type(entry), entry)
            if key in checked:
                continue
            checked.add(key)
        require(entry, expected, root, f"{pointer}/{i}")


def _only_types_count(schema, root):
    schema = _resolved(schema["$ref"], root) if "$ref" in schema else schema
    if "anyOf" in schema:
        return all("enum" in inner or _only_types_count(inner, root) for inner in schema["anyOf"])
    return set(schema) <= {"type", "title", "description"}


def _pattern(value, expected, schema, root, pointer):
    if not re.fullmatch(expected, value):
        raise Fault(pointer, f"{shown(value)} does not match {expected}")


def _minimum(value, expected, schema, root, pointer):
    if value < expected:
        raise Fault(pointer, f"expected a number of at least {expected}, found {value}")


def _above(value, expected, schema, root, pointer):
    if not value > expected:
        raise Fault(pointer, f"expected a number above {expected}, found {value}")


def _any(value, expected, schema, root, pointer):
    """One of several; what is said of a value that fits none is what the nearest one says."""
    faults = []
    for inner in expected:
        try:
            return require(value, inner, root, pointer)
        except Fault as fault:
            faults.append(fault)
    if {fault.pointer for fault in faults if fault.constant} == {fault.pointer for fault in faults}:
        known = ", ".join(fault.constant for fault in faults)
        raise Fault(faults[0].pointer, f"expected one of {known}, found {str(faults[0]).rpartition('found ')[2]}")
    nearest = max(faults, key=lambda fault: (fault.constant is None, fault.pointer.count("/")))
    if nearest.pointer != pointer or any(fault.constant for fault in faults) or len(set(map(str, faults))) == 1:
        raise nearest
    raise Fault(pointer, f"expected {' or '.join(_title(inner, root) for inner in expected)}, found {shown(value)}")


def _title(schema, root):
    return _resolved(schema["$ref"], root)["title"] if "$ref" in schema else schema["title"]


def _reference(value, expected, schema, root, pointer):
    require(value, _resolved(expected, root), root, pointer)


def _resolved(reference, root):
    return root if reference == "#" else root["$defs"][reference.removeprefix("#/$defs/")]


ANY, NUMBER = object, (int, float)
KEYWORDS = {                # keyword -> the values it speaks of, its check
    "type": (ANY, _type), "const": (ANY, _const), "enum": (ANY, _enum), "$ref": (ANY, _reference),
    "oneOf": (ANY, _any), "anyOf": (ANY, _any),
    "required": (dict, _required), "properties": (dict, _properties), "additionalProperties": (dict, _additional),
    "propertyNames": (dict, _property_names), "maxProperties": (dict, _most("keys")),
    "items": (list, _items), "minItems": (list, _fewest), "maxItems": (list, _most("entries")),
    "maxLength": (str, _most("characters")), "pattern": (str, _pattern),
    "minimum": (NUMBER, _minimum), "exclusiveMinimum": (NUMBER, _above),
}
