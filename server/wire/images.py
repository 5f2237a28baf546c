"""A picture of a digit as the 28x28 pixels the model was trained on, made the way the training set was made.

The authors of MNIST "size normalized [the images] to fit in a 20x20 pixel box while preserving their aspect ratio [...]
as a result of the anti-aliasing technique used by the normalization algorithm [they] contain grey levels. The images
were centered in a 28x28 image by computing the center of mass of the pixels" (http://yann.lecun.com/exdb/mnist/).
The rule here, also in docs/protocol.md: turn as EXIF says, flatten to grey, take the border's median as paper and what
differs from it as ink, crop to the ink, fit into 20x20, put the centre of mass at the middle.

The header is checked before a pixel is decoded: a 12 kB PNG may claim 10,000 x 10,000. Decoding takes milliseconds and
belongs on a thread of its own. This module must never know a request or a model.
"""

import struct
import zlib
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from server.errors import InvalidRequest
from server.wire.limits import Limits

SIDE = 28
_BOX = 20
_WORKING_SIDE = 512
"""Larger pictures are shrunk to this first; a glyph that fills a tenth of it still has 2.5 pixels for each of ours."""
_MIN_CONTRAST = 24
"""Of 255: what differs less from the paper is no ink but shadow, noise or compression."""
_FAINT = 0.2
"""Likewise, as a part of the darkest ink."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
"""What Pillow raises for damaged files, depending on where the damage is."""

Pixels = npt.NDArray[np.uint8]
Ink = npt.NDArray[np.float32]


def digit_pixels(data: bytes, limits: Limits) -> bytes:
    """Decode a PNG or JPEG and return 784 bytes: 28 rows of 28 grey values, white digit on black.

    Raises:
        InvalidRequest: the file is too large, of another format or damaged, or shows nothing.
    """
    return normalise(_decode(data, limits)).tobytes()


def normalise(grey: Pixels) -> Pixels:
    """Return [28,28] of a grey picture [height,width] with one glyph on plain paper, dark on light or light on dark.

    Raises:
        InvalidRequest: nothing stands out from the paper.
    """
    ink = _ink(grey)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    glyph = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _centre(_fit(glyph))


def _decode(data: bytes, limits: Limits) -> Pixels:
    if len(data) > limits.max_image_bytes:
        raise InvalidRequest(f"expected an image of at most {limits.max_image_bytes} bytes, got {len(data)}")
    kind = PngImageFile if data.startswith(_PNG) else JpegImageFile if data.startswith(_JPEG) else None
    if kind is None:
        raise InvalidRequest("expected a PNG or JPEG file, got something else")
    try:
        with kind(BytesIO(data)) as image:
            width, height = image.size
            if width * height > limits.max_image_pixels:
                raise InvalidRequest(
                    f"expected an image of at most {limits.max_image_pixels} pixels, got {width} x {height}"
                )
            image.draft("L", (_WORKING_SIDE, _WORKING_SIDE))  # JPEG only: decodes at a fraction of the size
            return _grey(image)
    except _DAMAGE as error:
        raise InvalidRequest("expected a whole PNG or JPEG file, got a damaged one") from error


def _grey(image: Image.Image) -> Pixels:
    """Turn as EXIF says, lay what is transparent on a contrasting ground, shrink, forget the colours."""
    upright: Image.Image = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = upright.convert("LA")
        upright.thumbnail((_WORKING_SIDE, _WORKING_SIDE), Image.Resampling.BOX)
        return _flatten(np.asarray(upright, np.float32))
    grey = upright.convert("L") if upright.mode not in ("I", "I;16", "F") else _deep(upright)
    grey.thumbnail((_WORKING_SIDE, _WORKING_SIDE), Image.Resampling.BOX)
    return np.asarray(grey)


def _deep(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey picture with 8; Pillow's own conversion clips instead of scaling."""
    return Image.fromarray((np.asarray(image, np.float64) / 257).clip(0, 255).astype(np.uint8))


def _flatten(pixels: npt.NDArray[np.float32]) -> Pixels:
    """Lay grey and alpha [height,width,2] on white where what is drawn is dark, on black where it is light."""
    grey, alpha = pixels[..., 0], pixels[..., 1] / 255
    drawn = float((grey * alpha).sum()) / max(float(alpha.sum()), 1e-6)
    ground = 255.0 if drawn < 128 else 0.0
    return (grey * alpha + ground * (1 - alpha)).round().astype(np.uint8)


def _ink(grey: Pixels) -> Ink:
    """Return how much each pixel differs from the paper, 0 to 1, in the direction in which most of it does."""
    values = grey.astype(np.float32)
    paper = float(np.median(np.concatenate((values[0], values[-1], values[:, 0], values[:, -1]))))
    darker, lighter = paper - float(values.min()), float(values.max()) - paper
    contrast = max(darker, lighter)
    if contrast < _MIN_CONTRAST:
        raise InvalidRequest(
            f"expected a digit that differs from its ground by {_MIN_CONTRAST} of 255 grey levels, got {contrast:.0f}"
        )
    ink = (paper - values if darker > lighter else values - paper) / contrast
    return np.where(ink < _FAINT, np.float32(0), ink)


def _fit(glyph: Ink) -> Ink:
    """Scale to fit 20x20, aspect kept and edges smooth; the darkest ink becomes full again."""
    height, width = glyph.shape
    scale = _BOX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(glyph).resize(size, Image.Resampling.BILINEAR), np.float32)
    full: Ink = small / small.max()
    return full


def _centre(glyph: Ink) -> Pixels:
    """Put the centre of mass at the middle of 28x28, as near as whole pixels and the edges allow."""
    page = np.zeros((SIDE, SIDE), np.float32)
    height, width = glyph.shape
    mass = float(glyph.sum())
    row = float(glyph.sum(axis=1) @ np.arange(height)) / mass
    column = float(glyph.sum(axis=0) @ np.arange(width)) / mass
    top = min(max(round(SIDE / 2 - row), 0), SIDE - height)
    left = min(max(round(SIDE / 2 - column), 0), SIDE - width)
    page[top : top + height, left : left + width] = glyph
    return (page * 255).round().astype(np.uint8)
