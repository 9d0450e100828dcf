"""Labelled images: the digits that come with refnode, MNIST's IDX files, and the text files of the UCI digits.

No file is trusted. Sizes are read first and held against limits and against the length of the file, so that no file can ask
for more memory than it has bytes; a compressed one is read no further than its header, or a limit, allows.
"""
import dataclasses
import gzip
import math
import pathlib
import zlib

import numpy as np

from refnode.errors import InvalidInputError

IMAGES, LABELS = 0x0803, 0x0801             # magic numbers: unsigned bytes, of three or of one dimension
MOST_ITEMS, MOST_BYTES = 1_000_000, 2**28
MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UCI_FILES, UCI_COLUMNS, UCI_SIDE, UCI_LEVELS = ("optdigits.tra", "optdigits.tes"), 65, 8, 16
MOST_UCI_BYTES = 16 * 2**20
SHIPPED = pathlib.Path(__file__).parent / "data" / "optdigits.tes.gz"        # source and licence: data/README.md


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images (N, height, width, 1) in [0, 1] and their labels (N,), for training and for testing."""

    name: str
    x: np.ndarray
    labels: np.ndarray
    test_x: np.ndarray
    test_labels: np.ndarray

    def __str__(self):
        height, width = self.x.shape[1:3]
        return f"{self.name}: {len(self.x)} images of {height}x{width} to train, {len(self.test_x)} to test"


def shipped_digits(train, test, seed):
    """`LabelledImages` of the 1797 handwritten digits that come with refnode, divided by a seeded permutation.

    They are the test set of the UCI digits, of 13 writers; each of them is found in both parts. What is measured is so how well
    other digits of the same writers are told apart: easier than those of writers never seen.

    Parameters
    ----------
    train, test : int
        The first ``train`` of the permutation are for training, the last ``test`` for testing.
    seed : int or sequence of int
    """
    x, labels = read_uci(SHIPPED)
    order = np.random.default_rng(seed).permutation(len(x))
    x, labels = scaled(x[order], UCI_LEVELS), labels[order]
    return LabelledImages("1797 UCI digits", x[:train], labels[:train], x[-test:], labels[-test:])


def images_in(folder):
    """`LabelledImages` of a folder with MNIST's four IDX files or the two UCI text files, plain or .gz.

    Raises
    ------
    InvalidInputError
        If there are none, or one is not what it should be: the file is named, and what was expected and found.
    """
    folder = pathlib.Path(folder)
    if any((folder / (UCI_FILES[0] + suffix)).is_file() for suffix in ("", ".gz")):
        (x, labels), (test_x, test_labels) = (read_uci(found_file(folder, name)) for name in UCI_FILES)
        return LabelledImages("UCI digits", scaled(x, UCI_LEVELS), labels, scaled(test_x, UCI_LEVELS), test_labels)
    paths = [found_file(folder, name) for name in MNIST_FILES]
    x, test_x = read_idx(paths[0], IMAGES), read_idx(paths[2], IMAGES)
    labels, test_labels = read_labels(paths[1], len(x)), read_labels(paths[3], len(test_x))
    if x.shape[1:] != test_x.shape[1:]:
        raise InvalidInputError(f"{paths[2]}: images must be of {x.shape[1:]} like those of {paths[0].name}, "
                                f"found {test_x.shape[1:]}")
    return LabelledImages("MNIST", scaled(x, 255), labels, scaled(test_x, 255), test_labels)


def found_file(folder, name):
    """The file, or its compressed form."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InvalidInputError(f"data {folder}: expected {', '.join(MNIST_FILES)} (or each with .gz), or {' and '.join(UCI_FILES)}; "
                            f"there is no {name}")


def opened(path):
    """The file for reading bytes, decompressed where its name ends in .gz."""
    return (gzip.open if path.suffix == ".gz" else open)(path, "rb")


def scaled(images, levels):
    """Grey levels 0 ... levels as numbers in [0, 1], with one channel."""
    return images[..., None] / float(levels)


# --- IDX --------------------------------------------------------------------------------------------

def read_idx(path, magic):
    """The unsigned bytes of an IDX file, as an array of the shape that its header says.

    Raises
    ------
    InvalidInputError
        Naming the file: a magic number that is not ``magic``, sizes that are 0 or beyond the limits, a file that is too
        short or too long for its header, or that cannot be decompressed.
    """
    path, dimensions = pathlib.Path(path), magic & 0xFF
    try:
        with opened(path) as file:
            header = file.read(4 * (1 + dimensions))
            shape = checked_header(path, header, magic, dimensions)
            content = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInputError(f"{path}: cannot be read: {error}") from error
    if len(content) != math.prod(shape):
        more = "more" if len(content) > math.prod(shape) else f"{len(content)}: it is truncated"
        raise InvalidInputError(f"{path}: expected {math.prod(shape)} bytes after the header for sizes {shape}, found {more}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def checked_header(path, header, magic, dimensions):
    """The sizes in an IDX header."""
    if len(header) < 4 * (1 + dimensions):
        raise InvalidInputError(f"{path}: expected a header of {4 * (1 + dimensions)} bytes, found {len(header)}: it is truncated")
    found, *shape = (int.from_bytes(header[at:at + 4], "big") for at in range(0, len(header), 4))
    if found != magic:
        raise InvalidInputError(f"{path}: magic number must be 0x{magic:08x}, found 0x{found:08x}")
    if not 1 <= shape[0] <= MOST_ITEMS or not 1 <= math.prod(shape) <= MOST_BYTES:
        raise InvalidInputError(f"{path}: sizes must be positive, of at most {MOST_ITEMS} items and {MOST_BYTES} bytes, "
                                f"found {tuple(shape)}")
    return tuple(shape)


def read_labels(path, count, classes=10):
    """The labels of ``count`` images, each below ``classes``."""
    labels = read_idx(path, LABELS).astype(np.int64)
    if len(labels) != count:
        raise InvalidInputError(f"{path}: expected a label for each of {count} images, found {len(labels)}")
    return checked_labels_of(path, labels, classes)


def checked_labels_of(path, labels, classes):
    if np.any(labels >= classes):
        bad = int(np.argmax(labels >= classes))
        raise InvalidInputError(f"{path}: labels must be 0 .. {classes - 1}, found {labels[bad]} at index {bad}")
    return labels


# --- the text files of UCI --------------------------------------------------------------------------

def read_uci(path):
    """Images (N, 8, 8) of levels 0 to 16, and labels (N,), of a file (or .gz) with 64 levels and a label in every line.

    Raises
    ------
    InvalidInputError
        Naming the file, the line and what is wrong in it.
    """
    path = pathlib.Path(path)
    try:
        with opened(path) as file:
            content = file.read(MOST_UCI_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInputError(f"{path}: cannot be read: {error}") from error
    if len(content) > MOST_UCI_BYTES:
        raise InvalidInputError(f"{path}: expected at most {MOST_UCI_BYTES} bytes, found more")
    rows = [read_uci_line(path, number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    if not rows:
        raise InvalidInputError(f"{path}: expected a line for every image, found none")
    table = np.array(rows, dtype=np.int64)
    return table[:, :-1].reshape(-1, UCI_SIDE, UCI_SIDE), table[:, -1]


def read_uci_line(path, number, line):
    """64 levels and a label."""
    entries = line.split(b",")
    if len(entries) != UCI_COLUMNS or not all(entry.strip().isdigit() and len(entry) < 4 for entry in entries):
        raise InvalidInputError(f"{path}: line {number} must hold {UCI_COLUMNS} small integers between commas, "
                                f"found {len(entries)} entries: {line[:40]!r}")
    values = [int(entry) for entry in entries]
    if max(values[:-1]) > UCI_LEVELS or values[-1] > 9:
        raise InvalidInputError(f"{path}: line {number} must hold levels of at most {UCI_LEVELS} and a label of at most 9, "
                                f"found {max(values[:-1])} and {values[-1]}")
    return values
