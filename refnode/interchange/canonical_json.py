"""One text for one value, and its hash: the JSON Canonicalization Scheme (RFC 8785).

Members are sorted, nothing is spaced, and a number is the shortest decimal that gives back its float64, written as
ECMAScript writes it: 1.0 and 1 are the same number and the same text. Programs in other languages find libraries for it.
"""
import hashlib
import json
import math

from refnode.errors import InvalidInputError

HOW_TO_ANSWER = ("sha256", "solver", "want")       # keys of a problem that do not change what is asked


def canonical_json(value):
    """The canonical text of None, booleans, numbers, strings, and lists and dicts of them.

    Raises
    ------
    InvalidInputError
        If a number is not finite, or something else is among the values.
    """
    if value is None or isinstance(value, (bool, str)):
        return _text(value)
    if isinstance(value, (int, float)):
        return canonical_number(value)
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{_text(key)}:{canonical_json(entry)}" for key, entry in members) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical_json, value)) + "]"
    raise InvalidInputError(f"JSON holds no {type(value).__name__}: convert {str(value)[:40]!r} to lists and numbers")


def canonical_number(value):
    """The shortest decimal of a float64, in ECMAScript's layout: 0.1, 1e-7, 1e+30, 0 for -0.0."""
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    text = repr(value)
    if not math.isfinite(value):
        raise InvalidInputError(f"JSON has no number {value}; write non-finite values as strings")
    if "e" not in text and not text.endswith(".0"):       # most numbers: both languages write them alike
        return text
    sign, digits, point = _decimal(value)
    count = len(digits)
    if count <= point <= 21:
        text = digits + "0" * (point - count)
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' * (count > 1)}{digits[1:]}e{point - 1:+d}"
    return sign + text


def _decimal(value):
    """(sign, digits, point): the value is 0.digits x 10^point, with as few digits as give it back."""
    mantissa, _, exponent = repr(value).partition("e")
    sign, mantissa = ("-", mantissa[1:]) if mantissa[0] == "-" else ("", mantissa)
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return (sign, digits, point) if digits else ("", "0", 1)


def _text(value):
    return json.dumps(value, ensure_ascii=False)


def sha256_of(value):
    """SHA-256 of the canonical text, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def problem_sha256(problem):
    """The hash that identifies a problem: of everything in it but how it is to be answered.

    Left out are ``sha256`` itself, ``want`` and ``solver``, so that one reference serves every tolerance. With given steps
    (``solver`` of mode "fixed") the steps are part of the question, and of the hash.
    """
    fixed = isinstance(problem.get("solver"), dict) and problem["solver"].get("mode") == "fixed"
    left_out = [key for key in HOW_TO_ANSWER if not (key == "solver" and fixed)]
    return sha256_of({key: value for key, value in problem.items() if key not in left_out})
