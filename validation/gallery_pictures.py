"""Shrink pictures of demonstrations for docs/gallery.md: at most 1200 pixels wide, and as many colours as fit into 150 kB.

Animations become 640 pixels wide, with 48 colours for all their frames.

    python validation/gallery_pictures.py spiral/spiral.png augmented/annuli.png

writes docs/pictures/spiral.png and docs/pictures/annuli.png. Pillow comes with matplotlib.
"""
import io
import pathlib
import sys

from PIL import Image, ImageSequence

WIDTH, MOST_BYTES = 1200, 150_000
ANIMATION_WIDTH, ANIMATION_COLOURS = 640, 48
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


def shrunk_animation(path):
    """The bytes of a smaller animation; its frames last as long as before, and share their colours."""
    frames, durations = [], []
    for frame in ImageSequence.Iterator(Image.open(path)):
        durations.append(frame.info["duration"])
        image = frame.convert("RGB")
        frames.append(image.resize((ANIMATION_WIDTH, round(image.height * ANIMATION_WIDTH / image.width)), Image.Resampling.LANCZOS))
    width, height = frames[0].size
    together = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        together.paste(frame, (0, height * number))
    palette = together.quantize(ANIMATION_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)
    return buffer.getvalue()


def main(paths):
    """Shrink each; say how large it became."""
    FOLDER.mkdir(exist_ok=True)
    for path in map(pathlib.Path, paths):
        content = (shrunk_animation if path.suffix == ".gif" else shrunk)(path)
        (FOLDER / path.name).write_bytes(content)
        print(f"docs/pictures/{path.name}: {len(content)} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
