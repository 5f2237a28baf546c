"""Pictures drawn here, no row of any data set."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from server.errors import InvalidRequest
from server.wire.images import digit_pixels, normalise
from tests.wire import LIMITS


def drawn(side=200, ink=0, paper=255, box=(80, 40, 130, 160), width=18, mode="L"):
    """Draw an L: a vertical stroke and a foot, so that turning and mirroring show."""
    picture = Image.new(mode, (side, side), paper)
    pen = ImageDraw.Draw(picture)
    left, top, right, bottom = box
    pen.line([(left, top), (left, bottom), (right, bottom)], fill=ink, width=width, joint="curve")
    return picture


def encoded(picture, kind="PNG", **options):
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pixels(picture, kind="PNG", **options):
    return np.frombuffer(digit_pixels(encoded(picture, kind, **options), LIMITS), np.uint8).reshape(28, 28)


REFERENCE = pixels(drawn())


def difference(a, b=REFERENCE):
    return np.abs(a.astype(int) - b.astype(int)).mean()


def test_the_digit_is_white_on_black_within_20x20_and_centred_by_mass():
    rows, columns = np.flatnonzero(REFERENCE.any(axis=1)), np.flatnonzero(REFERENCE.any(axis=0))
    mass = REFERENCE.astype(float) / REFERENCE.sum()

    assert REFERENCE.max() == 255
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    assert abs((mass.sum(axis=1) @ np.arange(28)) - 14) <= 0.5
    assert abs((mass.sum(axis=0) @ np.arange(28)) - 14) <= 0.5


@pytest.mark.parametrize(
    "picture",
    [
        drawn(ink=255, paper=0),
        drawn(ink=90, paper=200),
        drawn(ink=230, paper=140),
        drawn(side=300, box=(150, 100, 200, 220)),
        drawn(side=1600, box=(640, 320, 1040, 1280), width=144),
        drawn(mode="RGB", ink=(0, 0, 120), paper=(255, 250, 240)),
        drawn(mode="RGBA", ink=(0, 0, 0, 255), paper=(0, 0, 0, 0)),
        drawn(mode="LA", ink=(255, 255), paper=(255, 0)),
        drawn().convert("1"),
        drawn().convert("P"),
        Image.fromarray(np.asarray(drawn(), np.uint16) * 257),
    ],
    ids=[
        "white on black", "faint", "light on grey", "elsewhere", "large", "coloured", "on glass", "white on glass",
        "bilevel", "palette", "16 bit",
    ],
)  # fmt: skip
def test_the_same_digit_looks_the_same_however_it_is_drawn(picture):
    assert difference(pixels(picture)) < 6


def test_noise_shadow_and_jpeg_leave_the_digit_alone():
    rng = np.random.default_rng(7)
    shadow = np.linspace(0, 20, 200)[None, :]
    picture = (np.asarray(drawn(ink=40, paper=220), float) - shadow + rng.normal(0, 3, (200, 200))).clip(0, 255)

    assert difference(pixels(Image.fromarray(picture.astype(np.uint8)), "JPEG", quality=60)) < 6


def test_a_photo_is_turned_the_way_its_camera_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    lying = drawn().transpose(Image.Transpose.ROTATE_90)

    assert difference(pixels(lying, "JPEG", exif=exif, quality=95)) < 4


def test_a_digit_of_the_training_set_comes_back_nearly_as_it_is():
    again = normalise(REFERENCE)

    assert difference(again) < 2


@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_dot_is_no_trouble(side):
    picture = Image.new("L", (9, 9), 255)
    picture.paste(0, (3, 3, 3 + side, 3 + side))

    assert pixels(picture).max() == 255


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (300, 200)])
def test_an_empty_page_is_refused(size):
    with pytest.raises(InvalidRequest, match="expected a digit that differs from its ground by 24 of 255"):
        digit_pixels(encoded(Image.new("L", size, 200)), LIMITS)


def bomb(width, height):
    """Return a PNG of a few kilobytes that claims to be huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 10_000), (13_000, 13_000), (100_000, 100_000), (2**31 - 1, 1)])
def test_a_picture_that_would_not_fit_is_refused_from_its_header(size):
    with pytest.raises(InvalidRequest, match="expected an image of at most 16000000 pixels, got"):
        digit_pixels(bomb(*size), LIMITS)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "expected a PNG or JPEG file, got something else"),
        (b"not a picture", "got something else"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "got something else"),
        (encoded(drawn(), "TIFF"), "got something else"),
        (encoded(drawn(), "GIF"), "got something else"),
        (encoded(drawn(), "WEBP"), "got something else"),
        (b"\x89PNG\r\n\x1a\n", "got a damaged one"),
        (encoded(drawn())[:200], "got a damaged one"),
        (encoded(drawn(), "JPEG")[:400], "got a damaged one"),
        (bomb(0, 10), "got a damaged one"),
        (bytes(LIMITS.max_image_bytes + 1), "expected an image of at most 4194304 bytes"),
    ],
)
def test_what_is_no_picture_is_refused(data, says):
    with pytest.raises(InvalidRequest, match=says):
        digit_pixels(data, LIMITS)


def test_every_cut_of_a_picture_is_refused_or_read_and_never_breaks():
    whole = encoded(drawn(side=64, box=(20, 10, 40, 50), width=6), "JPEG")
    refused = 0
    for length in range(0, len(whole), 7):
        try:
            digit_pixels(whole[:length], LIMITS)
        except InvalidRequest:
            refused += 1

    assert refused > len(whole) // 7 - 5


def test_a_flipped_byte_is_refused_or_read_and_never_breaks():
    whole = bytearray(encoded(drawn(side=40, box=(12, 6, 26, 32), width=5)))
    rng = np.random.default_rng(3)
    for at in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[at] ^= int(rng.integers(1, 256))
        try:
            digit_pixels(bytes(damaged), LIMITS)
        except InvalidRequest as error:
            assert "expected" in str(error)
