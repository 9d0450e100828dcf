"""Digits that refnode draws itself: random strokes as 8x8 images of 17 grey levels, made as the UCI digits were.

Each digit is a few polylines and arcs in the unit square. A sample bends them (its corners move at random), turns,
shears, scales and shifts them, and draws them with a pen of random width on a 32x32 bitmap; the image holds, for
each of 8x8 blocks of 4x4 pixels, how many are black, 0 to 16. The bitmaps and blocks are those of the
"Optical recognition of handwritten digits" (Alpaydin & Kaynak, UCI, 1998); the handwriting is not: nobody wrote these, and
what classifies them well has shown nothing about people's writing. `image_files` reads the real ones.
"""
import numpy as np

SIDE, BLOCK = 8, 4                          # of an image; pixels of the bitmap in one of the image's
TURN, SHEAR, STRETCH, SHIFT = 0.12, 0.12, 0.08, 0.025         # standard deviations: [rad], 1, 1, [side]
WOBBLE, PEN = 0.025, (0.045, 0.08)         # of the corners, [side]; half the width of the pen, least and most, [side]


def line(*points):
    return np.array(points)


def arc(x, y, rx, ry, begin, end, count=9):
    """Points of an ellipse; angles in degrees, clockwise from the right, for y points down."""
    angles = np.deg2rad(np.linspace(begin, end, count))
    return np.column_stack([x + rx * np.cos(angles), y + ry * np.sin(angles)])


STROKES = [                                 # of each digit, in the unit square, y downwards
    [arc(0.5, 0.5, 0.26, 0.38, 0, 360, 13)],
    [line((0.33, 0.28), (0.53, 0.12), (0.53, 0.88))],
    [np.vstack([arc(0.5, 0.32, 0.24, 0.2, 180, 380), line((0.28, 0.86), (0.76, 0.86))])],
    [arc(0.47, 0.3, 0.23, 0.18, 200, 450), arc(0.47, 0.68, 0.26, 0.2, 270, 510)],
    [line((0.62, 0.88), (0.62, 0.12), (0.24, 0.62), (0.8, 0.62))],
    [line((0.72, 0.13), (0.34, 0.13), (0.31, 0.46)), arc(0.48, 0.65, 0.25, 0.22, 235, 510)],
    [line((0.62, 0.1), (0.38, 0.35), (0.29, 0.66)), arc(0.5, 0.68, 0.21, 0.2, 0, 360)],
    [line((0.25, 0.13), (0.75, 0.13), (0.42, 0.88))],
    [arc(0.5, 0.3, 0.19, 0.18, 90, 450), arc(0.5, 0.68, 0.23, 0.2, -90, 270)],
    [arc(0.5, 0.33, 0.21, 0.2, 0, 360), line((0.71, 0.33), (0.66, 0.62), (0.52, 0.88))],
]


def drawn_digits(count, seed):
    """Images and labels, as many of each digit as of another, in random order.

    Parameters
    ----------
    count : int
    seed : int or sequence of int

    Returns
    -------
    images : ndarray of uint8, shape (count, 8, 8)
        0 to 16.
    labels : ndarray of int64, shape (count,)
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 10)
    return np.array([drawn(STROKES[label], rng) for label in labels], dtype=np.uint8).reshape(-1, SIDE, SIDE), labels


def drawn(strokes, rng):
    """One sample of a digit."""
    turn, shear, stretch = rng.normal(0.0, TURN), rng.normal(0.0, SHEAR), 1.0 + rng.normal(0.0, STRETCH, 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(stretch)
    shift, pen = 0.5 + rng.normal(0.0, SHIFT, 2), rng.uniform(*PEN)
    begins, ends = [], []
    for stroke in strokes:
        points = (stroke - 0.5 + smooth_wobble(len(stroke), rng)) @ matrix.T + shift
        begins.append(points[:-1]), ends.append(points[1:])
    black = distance_to(np.concatenate(begins), np.concatenate(ends)) <= pen
    return black.reshape(SIDE, BLOCK, SIDE, BLOCK).sum(axis=(1, 3))


def smooth_wobble(count, rng):
    """Random displacements of a stroke's corners that change over about three of them."""
    raw = rng.normal(0.0, WOBBLE, (count + 2, 2))
    return (raw[:-2] + raw[1:-1] + raw[2:]) / np.sqrt(3.0)


def distance_to(begins, ends):
    """Distance of the centre of every pixel of the bitmap to the nearest segment, shape (32, 32)."""
    centres = (np.arange(SIDE * BLOCK) + 0.5) / (SIDE * BLOCK)
    (along_x, along_y), (begin_x, begin_y) = (ends - begins).T, begins.T
    x, y = centres[:, None] - begin_x, centres[:, None] - begin_y             # (32, segments)
    length = np.maximum(along_x**2 + along_y**2, 1e-12)
    share = np.clip((x * along_x)[None] / length + (y * along_y)[:, None] / length, 0.0, 1.0)
    return np.sqrt(((x[None] - share * along_x)**2 + (y[:, None] - share * along_y)**2).min(axis=2))
