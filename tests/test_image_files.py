"""Images from files nobody vouches for: IDX and UCI, whole, damaged and hostile; and the digits that come with refnode."""
import gzip
import hashlib
import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from refnode.cli import main
from refnode.demos import image_files
from refnode.demos.image_files import IMAGES, LABELS, MNIST_FILES, SHIPPED, images_in, read_idx, read_uci, shipped_digits
from refnode.errors import InvalidInputError

RNG = np.random.default_rng(0)


def idx(array, magic=None):
    """The bytes of an IDX file."""
    magic = {3: IMAGES, 1: LABELS}[array.ndim] if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.astype(np.uint8).tobytes()


def mnist(folder, suffix="", side=28, counts=(6, 3)):
    """Four files of random images; what is in them."""
    content = []
    for count in counts:
        content += [RNG.integers(0, 256, (count, side, side)), RNG.integers(0, 10, count)]
    for name, array in zip(MNIST_FILES, content):
        (gzip.open if suffix else open)(folder / f"{name}{suffix}", "wb").write(idx(array))
    return content


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_read(suffix, tmp_path):
    x, labels, test_x, test_labels = mnist(tmp_path, suffix)
    found = images_in(tmp_path)
    assert str(found) == "MNIST: 6 images of 28x28 to train, 3 to test"
    np.testing.assert_array_equal(found.x[..., 0] * 255.0, x)
    np.testing.assert_array_equal(found.test_x[..., 0] * 255.0, test_x)
    assert found.labels.tolist() == labels.tolist() and found.test_labels.tolist() == test_labels.tolist()


FULL = idx(RNG.integers(0, 256, (2, 3, 3)))


@pytest.mark.parametrize("content, message", [
    (b"", "expected a header of 16 bytes, found 0: it is truncated"),
    (FULL[:10], "expected a header of 16 bytes, found 10: it is truncated"),
    (FULL[:-1], r"expected 18 bytes after the header for sizes \(2, 3, 3\), found 17: it is truncated"),
    (FULL + b"x", "found more"),
    (idx(np.zeros((2, 3, 3)), 0x0D03), "magic number must be 0x00000803, found 0x00000d03"),
    (b"GIF89a" + bytes(40), "magic number must be 0x00000803, found 0x47494638"),
    (struct.pack(">4I", IMAGES, 0, 3, 3), r"sizes must be positive, of at most 1000000 items .*found \(0, 3, 3\)"),
    (struct.pack(">4I", IMAGES, 2, 0, 3), r"found \(2, 0, 3\)"),
    (struct.pack(">4I", IMAGES, 2**32 - 1, 2**32 - 1, 2**32 - 1), "found .4294967295, 4294967295, 4294967295"),
    (struct.pack(">4I", IMAGES, 10, 60000, 60000), "found .10, 60000, 60000"),
    (struct.pack(">4I", IMAGES, 10**6, 256, 256), "at most 1000000 items and 268435456 bytes, found .1000000, 256, 256"),
])
def test_a_damaged_idx_file_is_named(content, message, tmp_path):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=message) as caught:
        read_idx(path, IMAGES)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [gzip.compress(FULL)[:-12], b"no gzip", gzip.compress(FULL)[:20] + bytes(9)],
                         ids=["cut", "other", "zeros"])
def test_a_damaged_compressed_file_is_named(content, tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="images.gz: "):
        read_idx(path, IMAGES)


def test_a_compressed_file_is_read_no_further_than_its_header_promises(tmp_path):
    """A hundred megabytes of zeros behind a small image: refused without unpacking them."""
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(FULL + bytes(10**8)))
    with pytest.raises(InvalidInputError, match="expected 18 bytes after the header"):
        read_idx(path, IMAGES)


def test_files_must_fit_each_other(tmp_path):
    mnist(tmp_path)
    (tmp_path / MNIST_FILES[1]).write_bytes(idx(np.zeros(5)))
    with pytest.raises(InvalidInputError, match="train-labels-idx1-ubyte: expected a label for each of 6 images, found 5"):
        images_in(tmp_path)
    (tmp_path / MNIST_FILES[1]).write_bytes(idx(np.array([0, 1, 2, 3, 11, 5])))
    with pytest.raises(InvalidInputError, match="labels must be 0 .. 9, found 11 at index 4"):
        images_in(tmp_path)
    mnist(tmp_path)
    (tmp_path / MNIST_FILES[2]).write_bytes(idx(np.zeros((3, 27, 28))))
    with pytest.raises(InvalidInputError, match=r"t10k-images-idx3-ubyte: images must be of \(28, 28\)"):
        images_in(tmp_path)
    (tmp_path / MNIST_FILES[3]).unlink()
    with pytest.raises(InvalidInputError, match="there is no t10k-labels-idx1-ubyte"):
        images_in(tmp_path)


@pytest.mark.parametrize("spoil, message", [
    (lambda path: path.write_bytes(path.read_bytes()[:-7]), "7: it is truncated"),
    (lambda path: path.write_bytes(b"junk" + path.read_bytes()[4:]), "magic number must be 0x"),
    (lambda path: path.unlink(), "there is no ")])
@pytest.mark.parametrize("name", MNIST_FILES)
def test_the_command_names_the_wrong_file(name, spoil, message, tmp_path, capsys):
    """`refnode demo odenet --data DIR` with one of its four files spoilt: one line, the file's name in it, exit status 2."""
    mnist(tmp_path, counts=(12, 7))
    spoil(tmp_path / name)
    assert main(["demo", "odenet", "--data", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert name in error and re.search(message.replace("7: it", r"\d+: it"), error) and len(error.splitlines()) == 1


# --- UCI --------------------------------------------------------------------------------------------

def uci_lines(count):
    table = np.column_stack([RNG.integers(0, 17, (count, 64)), RNG.integers(0, 10, count)])
    return table, "\n".join(",".join(map(str, row)) for row in table) + "\n"


def test_uci_is_read(tmp_path):
    tables = []
    for name, count in (("optdigits.tra", 5), ("optdigits.tes.gz", 2)):
        table, text = uci_lines(count)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        tables.append(table)
    found = images_in(tmp_path)
    assert str(found) == "UCI digits: 5 images of 8x8 to train, 2 to test"
    np.testing.assert_array_equal(found.test_x.reshape(2, 64) * 16.0, tables[1][:, :-1])
    assert found.labels.tolist() == tables[0][:, -1].tolist()


@pytest.mark.parametrize("line, message", [
    ("1,2,3", "line 2 must hold 65 small integers between commas, found 3 entries"),
    (",".join(["1"] * 64 + ["x"]), "line 2 must hold 65 small integers"), (",".join(["1"] * 64 + ["-1"]), "line 2 must hold"),
    (",".join(["17"] + ["1"] * 64), "line 2 must hold levels of at most 16 and a label of at most 9, found 17 and 1"),
    (",".join(["1"] * 64 + ["10"]), "found 1 and 10")])
def test_a_bad_line_is_named(line, message, tmp_path):
    path = tmp_path / "optdigits.tra"
    path.write_text(",".join(["1"] * 65) + "\n" + line + "\n")
    with pytest.raises(InvalidInputError, match=message):
        read_uci(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InvalidInputError, match="empty: expected a line for every image, found none"):
        read_uci(tmp_path / "empty")


# --- the digits that come with refnode --------------------------------------------------------------

def test_shipped_digits_are_those_that_their_readme_names():
    """Bytes and sums of the file, and how many there are of each digit."""
    readme = SHIPPED.with_name("README.md").read_text(encoding="utf-8")
    content = SHIPPED.read_bytes()
    assert hashlib.sha256(content).hexdigest() in readme and hashlib.sha256(gzip.decompress(content)).hexdigest() in readme
    assert "10.24432/C50P49" in readme and "CC BY 4.0" in readme and len(content) < 60_000
    x, labels = read_uci(SHIPPED)
    assert x.shape == (1797, 8, 8) and x.min() == 0 and x.max() == 16
    assert ", ".join(map(str, np.bincount(labels)[:-1])) + f" and {np.bincount(labels)[-1]}" in " ".join(readme.split())


def test_a_seed_divides_the_shipped_digits():
    """Two parts that share none; the same for a seed, another for the next."""
    found, again, other = (shipped_digits(1397, 400, seed) for seed in (3, 3, 4))
    assert str(found) == "1797 UCI digits: 1397 images of 8x8 to train, 400 to test"
    np.testing.assert_array_equal(found.x, again.x)
    assert not np.array_equal(found.test_x, other.test_x)
    x, labels = read_uci(SHIPPED)
    both = np.column_stack([np.concatenate([found.x, found.test_x]).reshape(1797, 64) * 16.0,
                            np.concatenate([found.labels, found.test_labels])])
    whole = np.column_stack([x.reshape(1797, 64), labels])
    np.testing.assert_array_equal(both[np.lexsort(both.T)], whole[np.lexsort(whole.T)])


def test_a_compressed_uci_file_is_read_no_further_than_the_limit(tmp_path, monkeypatch):
    (tmp_path / "torn.gz").write_bytes(SHIPPED.read_bytes()[:1000])
    with pytest.raises(InvalidInputError, match="torn.gz: cannot be read"):
        read_uci(tmp_path / "torn.gz")
    monkeypatch.setattr(image_files, "MOST_UCI_BYTES", 1000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"0," * 10**6))
    with pytest.raises(InvalidInputError, match="bomb.gz: expected at most 1000 bytes, found more"):
        read_uci(tmp_path / "bomb.gz")


@pytest.mark.slow
def test_a_wheel_has_the_digits_and_their_licence(tmp_path):
    """What setuptools copies into a wheel, built from a copy of the sources."""
    root = SHIPPED.parents[3]
    if not (root / "setup.cfg").exists():
        pytest.skip("refnode is installed: there are no sources to build a wheel from")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "pytest_refnode.py"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "refnode", tmp_path / "refnode", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build"], cwd=tmp_path, check=True,
                   capture_output=True, timeout=300)
    built = tmp_path / "build" / "lib" / "refnode" / "demos" / "data"
    assert sorted(file.name for file in built.iterdir()) == ["README.md", "optdigits.tes.gz"]
    assert (built / SHIPPED.name).read_bytes() == SHIPPED.read_bytes()
