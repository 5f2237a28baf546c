"""Made-up digits for golden files: drawn with strokes, so that no row of a data set is committed."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SIDE = 28
STROKES: dict[int, str] = {  # corners of a 4 x 7 grid (x 0-3, y 0-6), a polyline per word
    0: "10 20 31 35 26 16 05 01 10",
    1: "11 20 26",
    2: "01 10 20 31 32 06 36",
    3: "00 30 13 23 34 35 26 16 05",
    4: "20 04 34 22,26",
    5: "30 00 03 23 34 35 26 06",
    6: "20 02 05 16 26 35 34 23 13 04",
    7: "00 30 16",
    8: "10 20 31 32 23 13 02 01 10 20,13 04 05 16 26 35 34 23",
    9: "32 23 13 02 01 10 20 31 32 34 26",
}


def drawn_digits() -> NDArray[np.uint8]:
    """The digits 0 to 9 in two stroke widths, then a black and a white picture, [22, 28, 28]."""
    pictures = [_draw(STROKES[digit], width) for width in (1.1, 1.7) for digit in range(10)]
    return np.stack([*pictures, np.zeros((SIDE, SIDE), np.uint8), np.full((SIDE, SIDE), 255, np.uint8)])


def _draw(strokes: str, width: float) -> NDArray[np.uint8]:
    """White polylines on black with soft edges: brightness falls with the distance from the line."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    distance = np.full((SIDE, SIDE), np.inf)
    for line in strokes.split(","):
        corners = [(8.5 + 3.6 * int(point[0]), 5.0 + 3.0 * int(point[1])) for point in line.split()]
        for (ax, ay), (bx, by) in pairwise(corners):
            dx, dy = bx - ax, by - ay
            along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
            distance = np.minimum(distance, np.hypot(x - ax - along * dx, y - ay - along * dy))
    return (255 * np.clip(width + 0.7 - distance, 0, 1)).astype(np.uint8)
