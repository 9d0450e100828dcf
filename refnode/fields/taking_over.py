"""A field that differs from a former one only in the constants of its tape takes over what that one kept.

Noise that is drawn anew for every solve stands in the header of the tape, so every solve has a field of its own. To
touch fresh pages of memory for its steps costs more than to evaluate it; so the storage goes from field to field.
"""


def taken_over(field, former):
    """``field``, with the storage, addresses and counts of a former field of the same functions and sizes.

    The header is written over in all that is kept. Where functions or sizes differ, nothing is taken.
    """
    if former is None or not same_kind(field, former):
        return field
    field._tapes, former._tapes = former._tapes, []
    field.idle_storage, former.idle_storage = former.idle_storage, []
    field._pointers, field.entries, field.pace = former._pointers, former.entries, former.pace
    field.probed, field.checked_sizes = former.probed, former.checked_sizes
    size = field.tape_header.size
    for tape in [*field._tapes, *(storage.tape for _, storage in field.idle_storage)]:
        if tape.shape[1] >= size:
            tape[:, :size] = field.tape_header
    return field


def same_kind(field, former):
    """Whether both have the same functions, and tapes of the same sizes."""
    functions, sizes = ("f", "jvp", "vjp", "hvp"), ("n", "p", "tape_size", "hvp_tape_size")
    return (all(getattr(field, name) is getattr(former, name) for name in functions)
            and all(getattr(field, name) == getattr(former, name) for name in sizes)
            and field.tape_header.size == former.tape_header.size)
