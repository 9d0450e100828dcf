"""Files that are never half written."""
import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path, content):
    """Write bytes or text so that the file is always either the old one or the new one, whole.

    A temporary file in the same folder is filled, forced to the disk and renamed. Text is stored as UTF-8; what UTF-8
    cannot hold (half a surrogate pair) is written as its escape.
    """
    path = Path(path)
    content = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
