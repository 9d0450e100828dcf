"""Shrink pictures of demonstrations for docs/gallery.md: at most 1200 pixels wide, and as many colours as fit into 150 kB.

    python validation/gallery_pictures.py spiral/spiral.png augmented/annuli.png

writes docs/pictures/spiral.png and docs/pictures/annuli.png. Pillow comes with matplotlib.
"""
import io
import pathlib
import sys

from PIL import Image

WIDTH, MOST_BYTES = 1200, 150_000
FOLDER = pathlib.Path(__file__).resolve().parents[1] / "docs" / "pictures"


def shrunk(path):
    """The bytes of a smaller picture."""
    image = Image.open(path).convert("RGB")
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    for colours in (256, 128, 64, 32, 16):
        buffer = io.BytesIO()
        image.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    return buffer.getvalue()


def main(paths):
    """Shrink each; say how large it became."""
    FOLDER.mkdir(exist_ok=True)
    for path in map(pathlib.Path, paths):
        content = shrunk(path)
        (FOLDER / path.name).write_bytes(content)
        print(f"docs/pictures/{path.name}: {len(content)} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
