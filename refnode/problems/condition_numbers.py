"""Condition numbers of the reference gradients, measured by `validation/certify/condition_numbers.py`."""

CONDITION_NUMBERS = {
}
