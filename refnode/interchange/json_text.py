"""JSON for people: one member a line at the outer levels, shortest decimals, non-finite values as strings."""
import json
import math

LINE = 120


def json_text(content):
    """The text of nested dicts, lists, numbers, strings, booleans and None; ends with a new line."""
    return _text(content, "") + "\n"


def _text(value, indent):
    flat = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    if not isinstance(value, dict) and not (isinstance(value, list) and value and isinstance(value[0], (list, dict, str))):
        return flat
    if len(indent) + len(flat) <= LINE:
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        entries = [f"{json.dumps(key, ensure_ascii=False)}: {_text(entry, inner)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(inner + entry for entry in entries) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _text(entry, inner) for entry in value) + f"\n{indent}]"


def _plain(value):
    """Non-finite numbers as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
