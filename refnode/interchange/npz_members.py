"""npz archives of plain arrays: the header of each is read, and held against the limits, before its data.

Only little-endian numbers, booleans and strings are known. Objects, which NumPy would unpickle, are refused by name.
"""
import io
import math
import re
import struct
import zipfile
import zlib

import numpy as np

from refnode.errors import ProblemFileError
from refnode.interchange.safe_reading import MAX_BYTES, MAX_CONTAINERS, MAX_VALUES, shown

MAX_MEMBERS = 1000
MAX_HEADER = 10_000
MAGIC = b"\x93NUMPY"
KINDS = re.compile(r"<[fi][48]|\|[biu]1|<[fu]2|<u[48]|<U\d{1,6}")
NAME = re.compile(r"[A-Za-z0-9_]{1,64}(/[A-Za-z0-9_]{1,64}){0,15}\.npy")
HEADER = re.compile(r"\{'descr': ?'([^']{1,20})', ?'fortran_order': ?(True|False), ?'shape': ?\(([0-9, ]{0,200})\),? ?\}\s*")
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, struct.error,
           OverflowError, MemoryError)                   # what zipfile raises for broken archives


def archive_of(arrays):
    """The bytes of an archive, as `numpy.savez` writes it; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as stream:       # dated 1980
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return buffer.getvalue()


def arrays_of(content, source="npz"):
    """{key path: array} of an archive in bytes, as `numpy.savez` and `numpy.savez_compressed` write it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _require_few(members, source)
            return {entry.filename[:-4]: array for entry, array in _each(archive, members, source)}
    except ProblemFileError:
        raise
    except DAMAGED as error:
        raise ProblemFileError(f"{source}: not a whole npz archive: {type(error).__name__}: {shown(str(error))}") from error


def _require_few(members, source):
    names = [entry.filename for entry in members]
    if not names:
        raise ProblemFileError(f"{source}: an npz archive without members")
    if len(names) > MAX_MEMBERS:
        raise ProblemFileError(f"{source}: {len(names)} members, at most {MAX_MEMBERS} are read")
    for name, entry in zip(names, members):
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):      # others decompress without bound
            raise ProblemFileError(f"{source}: member {shown(name)} is compressed by a method that is not read")
        if not NAME.fullmatch(name):
            raise ProblemFileError(f"{source}: member {shown(name)} is not named by a key path such as loss/data.npy")
    if len(set(names)) < len(names):
        raise ProblemFileError(f"{source}: a member stands there twice")


def _each(archive, members, source):
    """(member, its array) one after another, within the limits on all of them together."""
    values = rows = 0
    for entry in members:
        place = f"{source}: member {entry.filename}"
        with archive.open(entry) as stream:
            descr, fortran, shape = read_header(stream, place)
            values += math.prod(shape)
            rows += math.prod(shape[:-1])
            if values > MAX_VALUES or rows > MAX_CONTAINERS:
                raise ProblemFileError(f"{place}: its header claims shape {shape}; at most {MAX_VALUES} values in "
                                       f"{MAX_CONTAINERS} rows are read")
            yield entry, _array(stream, descr, fortran, shape, place)


def read_header(stream, place):
    """(descr, fortran_order, shape) of the npy format, versions 1 to 3; the stream stands at the data afterwards."""
    start = stream.read(8)
    if len(start) < 8 or start[:6] != MAGIC or start[6] not in (1, 2, 3):
        raise ProblemFileError(f"{place}: no npy array")
    width = 2 if start[6] == 1 else 4
    size = int.from_bytes(stream.read(width), "little")
    if size > MAX_HEADER:
        raise ProblemFileError(f"{place}: a header of {size} bytes, at most {MAX_HEADER} are read")
    text = stream.read(size).decode("latin-1")
    match = HEADER.fullmatch(text)
    if not match:
        raise ProblemFileError(f"{place}: header {shown(text)} is not that of a plain array")
    descr, fortran, shape = match.groups()
    if "O" in descr:
        raise ProblemFileError(f"{place}: an array of objects, which only unpickling could read; it is never unpickled")
    if not KINDS.fullmatch(descr):
        raise ProblemFileError(f"{place}: dtype {shown(descr)} is not known; write <f8, <i8 or <U")
    shape = tuple(int(size) for size in shape.split(",") if size.strip())
    return descr, fortran == "True", shape


def _array(stream, descr, fortran, shape, place):
    """The data behind a header; as many bytes as it claims, and no more."""
    dtype = np.dtype(descr)
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_BYTES or len(shape) > 8:
        raise ProblemFileError(f"{place}: its header claims {size} bytes in {len(shape)} dimensions, at most {MAX_BYTES} "
                               "in 8 are read")
    data = stream.read(size + 1)                          # the last read checks the CRC
    if len(data) != size:
        raise ProblemFileError(f"{place}: {'fewer' if len(data) < size else 'more'} bytes than the {size} of shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
