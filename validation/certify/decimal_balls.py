"""Balls as decimal strings, midpoint and radius, that contain them, and back."""
from flint import arb


def text_of(ball):
    """{"mid", "rad"} of an enclosure of the ball, with as many digits as it knows."""
    if not ball.is_finite():
        raise ArithmeticError("a ball is not finite")
    digits = 60
    mid, rad, exponent = (int(x) for x in ball.mid_rad_10exp(digits))
    if rad == 0:
        while mid and mid % 10 == 0:
            mid, exponent = mid // 10, exponent + 1
    while rad > 9999:                                   # digits below the radius say nothing
        mid, dropped = divmod(mid, 10)
        rad, exponent = rad // 10 + 1 + (dropped > 0), exponent + 1
    exponent = exponent if mid or rad else 0
    return {"mid": _decimal(mid, exponent), "rad": _decimal(rad, exponent)}


def _decimal(number, exponent):
    """number * 10^exponent, as d.ddd...e±x."""
    if number == 0:
        return "0"
    sign, figures = "-" * (number < 0), str(abs(number))
    point, exponent = figures[1:].rstrip("0"), exponent + len(figures) - 1
    return f"{sign}{figures[0]}{'.' * bool(point)}{point}{f'e{exponent}' if exponent else ''}"


def ball_of(entry):
    """The ball of {"mid", "rad"}."""
    return arb(entry["mid"]) + arb(0, arb(entry["rad"]).abs_upper())


def nested(function, values):
    """A function on the entries of nested lists."""
    return [nested(function, value) for value in values] if isinstance(values, list) else function(values)


def leaves(values):
    """The entries of nested lists."""
    return [leaf for value in values for leaf in leaves(value)] if isinstance(values, list) else [values]
