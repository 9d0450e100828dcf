"""Checkpoints of a training run: npz archives of plain arrays, never half written, never unpickled.

A checkpoint holds its format, its version, the settings of the run as text, and a SHA-256 of all its arrays beside the
CRC that the archive keeps of each. One that is damaged, of another version or of a run with other settings is refused.
"""
import hashlib
import io
import json
import math
import zipfile

import numpy as np

from refnode.atomic_file import write_atomically
from refnode.errors import ProblemFileError
from refnode.interchange.npz_members import DAMAGED, MAGIC, read_header

FORMAT, VERSION = "refnode.checkpoint", 1
PLAIN = "fiub"                                     # kinds of arrays, beside text


def write_checkpoint(path, settings, arrays):
    """Write ``arrays``, a dict of plain arrays, and the dict ``settings`` of texts and numbers."""
    content = {"format": np.array(FORMAT), "version": np.array(VERSION), "settings": np.array(json.dumps(settings)),
               **{name: np.asarray(array) for name, array in arrays.items()}}
    content["sha256"] = np.array(digest(content))
    write_atomically(path, stored_archive(content))


def read_checkpoint(path, settings):
    """The arrays that were written to ``path`` by a run with the same ``settings``.

    Raises
    ------
    ProblemFileError
        If the file is damaged, is no checkpoint, is of another version, or belongs to another run.
    """
    arrays = whole_archive(path)
    if str(arrays.pop("format", "")) != FORMAT:
        raise ProblemFileError(f"{path}: no checkpoint of a training run: its format is not {FORMAT!r}")
    version = arrays.pop("version", None)
    if version is None or version.shape != () or int(version) != VERSION:
        raise ProblemFileError(f"{path}: checkpoint of version {version}, this is version {VERSION}")
    found = str(arrays.pop("sha256", ""))
    said = {"format": np.array(FORMAT), "version": version, **arrays}
    if found != digest(said):
        raise ProblemFileError(f"{path}: damaged: its content does not have the SHA-256 that it states")
    theirs = json.loads(str(arrays.pop("settings")))
    if theirs != json.loads(json.dumps(settings)):
        raise ProblemFileError(f"{path}: checkpoint of another run: {differences(theirs, settings)}")
    return arrays


def differences(theirs, ours):
    """What two dicts of settings do not share, in words."""
    return "; ".join(f"{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here"
                     for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name))


def digest(arrays):
    """SHA-256 of names, dtypes, shapes and bytes, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def stored_archive(arrays):
    """The bytes of an npz archive, not compressed; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as stream:       # dated 1980
                np.lib.format.write_array(stream, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    return buffer.getvalue()


def whole_archive(path):
    """{name: array} of a file written by `stored_archive`. No header can claim more than the file has bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {entry.filename.removesuffix(".npy"): member(archive, entry, path) for entry in archive.infolist()}
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise ProblemFileError(f"{path}: not a whole checkpoint: {type(error).__name__}: {error}") from error


def member(archive, entry, path):
    """One array; its header is held against the size of the member before its data are read."""
    place = f"{path}: member {entry.filename}"
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ProblemFileError(f"{place} is compressed, and checkpoints are not")
    content = archive.read(entry)                                   # checks the CRC
    stream = io.BytesIO(content)
    if not content.startswith(MAGIC):
        raise ProblemFileError(f"{place}: no npy array")
    descr, fortran, shape = header_of_any_text(stream, place)
    dtype = np.dtype(descr)
    data = content[stream.tell():]
    if fortran or len(data) != math.prod(shape) * dtype.itemsize:
        raise ProblemFileError(f"{place}: {len(data)} bytes do not make an array of shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def header_of_any_text(stream, place):
    """`read_header`, which knows plain numbers and text."""
    descr, fortran, shape = read_header(stream, place)
    if np.dtype(descr).kind not in PLAIN + "U":
        raise ProblemFileError(f"{place}: dtype {descr} is not one of a checkpoint")
    return descr, fortran, shape
