"""Damaged or unusual image files: each gives an image or a one-line error with its name, and none hangs."""

import io
import os
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from gfl_jax.data.categories import Categories
from gfl_jax.data.headers import try_headers
from gfl_jax.data.image_files import image_files_source
from gfl_jax.data.images import decode_image, image_size
from gfl_jax.errors import UserError

HEIGHT, WIDTH = 45, 60
COARSE = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
SCENE = cv2.resize(COARSE, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
GRAY = cv2.cvtColor(SCENE, cv2.COLOR_RGB2GRAY)
RGB = Image.fromarray(SCENE)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


ODD = {
    "jpeg": encoded(RGB, "JPEG"),
    "progressive.jpeg": encoded(RGB, "JPEG", progressive=True),
    "gray.jpeg": encoded(RGB.convert("L"), "JPEG"),
    "cmyk.jpeg": encoded(RGB.convert("CMYK"), "JPEG"),
    "trailer.jpeg": encoded(RGB, "JPEG") + b"motion photo" * 1000,
    "preview.jpeg": encoded(RGB, "JPEG", comment=encoded(RGB.resize((8, 8)), "JPEG")),
    "png": encoded(RGB, "PNG"),
    "trailer.png": encoded(RGB, "PNG") + b"\0" * 100,
    "16 bits.png": cv2.imencode(".png", SCENE[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
    "16 bits gray.png": cv2.imencode(".png", GRAY.astype(np.uint16) * 257)[1].tobytes(),
    "palette.png": encoded(RGB.convert("P"), "PNG"),
    "alpha.png": encoded(RGB.convert("RGBA"), "PNG"),
    "gray alpha.png": encoded(RGB.convert("LA"), "PNG"),
    "1 bit.png": encoded(RGB.convert("1"), "PNG"),
    "animated.png": encoded(RGB, "PNG", save_all=True, append_images=[RGB.rotate(9)]),
    "gif": encoded(RGB, "GIF"),
    "animated.gif": encoded(RGB, "GIF", save_all=True, append_images=[RGB.rotate(9)]),
    "tiff": encoded(RGB, "TIFF"),
    "lzw.tiff": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "pages.tiff": encoded(RGB, "TIFF", save_all=True, append_images=[RGB.rotate(9)]),
    "bmp": encoded(RGB, "BMP"),
    "1 bit.bmp": encoded(RGB.convert("1"), "BMP"),
    "webp": encoded(RGB, "WEBP"),
    "lossless.webp": encoded(RGB, "WEBP", lossless=True),
    "animated.webp": encoded(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(9)]),
    "avif": encoded(RGB, "AVIF"),
    "ppm": encoded(RGB, "PPM"),
}
OTHERS = {
    "empty": b"",
    "one byte": b"\xff",
    "text": b"no image",
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "json": b'{"message": "rate limit"}',
    "zeros": b"\0" * 5000,
    "zip": b"PK\3\4" + b"\0" * 100,
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
    "header alone.png": ODD["png"][:33],
    "header alone.jpeg": ODD["jpeg"][:200],
    "huge.png": b"\x89PNG\r\n\x1a\n"
    + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in [(b"IHDR", struct.pack(">IIBBBBB", 10**6, 10**6, 8, 2, 0, 0, 0)), (b"IEND", b"")]
    ),
}


def damaged():
    """The contents of 200 files by name, each with a typical damage."""
    rng = np.random.default_rng(1)
    contents = {}
    for i in range(200):
        kind = ("jpeg", "png", "progressive.jpeg", *ODD)[i % (len(ODD) + 3)]
        content = bytearray(ODD[kind])
        way = ("cut", "flipped", "cut and filled", "hole")[i // 3 % 4]
        at = int(rng.integers(1, len(content)))
        if way == "cut":
            del content[at:]
        elif way == "flipped":
            for place in rng.integers(0, len(content), 5):
                content[place] ^= int(rng.integers(1, 256))
        elif way == "cut and filled":  # as after an aborted download or a lost block
            content[at:] = bytes(len(content) - at)
        else:
            del content[at : at + 64]
        contents[f"{i} {way} {kind}"] = bytes(content)
    return contents


def read(path):
    """The size in the header and the decoded image, or the error message."""
    try:
        (header,) = try_headers([path])
        if isinstance(header, UserError):
            raise header
        size = header.displayed
        return size, image_files_source([path], [size], [1], Categories((), ())).read_image(0)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", ODD)
def test_unusual_files_decode_to_the_size_in_their_header(tmp_path, name, capfd):
    path = tmp_path / f"an image, {name}"
    path.write_bytes(ODD[name])
    size, image = read(path)
    assert size == image.shape[:2] == (HEIGHT, WIDTH)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    expected = GRAY[..., None] if "gray" in name or "1 bit" in name else SCENE
    assert np.abs(image - 1.0 * expected).mean() < (128 if "1 bit" in name else 20)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 70000)])
def test_thin_images(tmp_path, size):
    Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "thin.png")
    found, image = read(tmp_path / "thin.png")
    assert found == image.shape[:2] == size[::-1]
    assert image[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("name", OTHERS)
def test_files_that_are_not_images_are_errors(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(OTHERS[name])
    assert read(path).startswith((f"{path}: cannot be decoded as an image; ", f"{path}: is cut off; "))
    with pytest.raises(UserError, match="replace the file"):
        decode_image(OTHERS[name], name)


def test_each_of_200_damaged_files_gives_an_image_or_a_one_line_error(tmp_path):
    errors = []
    for name, content in damaged().items():
        path = tmp_path / name
        path.write_bytes(content)
        found = read(path)
        if isinstance(found, str):
            errors.append(found)
            assert re.match(rf"{re.escape(str(path))}: .*; replace the file[^\n]*$", found)
        else:
            assert found[0] == found[1].shape[:2], name
    assert 100 < len(errors) < 200


def test_a_cut_off_file_is_an_error_wherever_it_is_cut(capfd):
    """Decoders would otherwise give half an image and fill the rest with gray."""
    for name in ("jpeg", "progressive.jpeg", "cmyk.jpeg", "preview.jpeg", "png", "palette.png"):
        content = ODD[name]
        start = max(content.rfind(b"\xff\xda"), content.find(b"IDAT")) + 20
        for length in [*range(start, len(content) - 1, 41), len(content) - 2]:
            with pytest.raises(UserError, match=rf"^{name}: is cut off; replace the file"):
                decode_image(content[:length], name)
    assert capfd.readouterr().err == ""


def test_the_orientation_of_a_png_is_found_at_any_position():
    exif = Image.Exif()
    exif[0x0112] = 6
    early = encoded(RGB, "PNG", exif=exif)
    start = early.index(b"eXIf") - 4
    end = start + int.from_bytes(early[start : start + 4], "big") + 12
    late = early[:start] + early[end:-12] + early[start:end] + early[-12:]
    for content in (early, late):
        assert image_size(content, "a.png") == decode_image(content, "a.png").shape[:2] == (WIDTH, HEIGHT)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # reading it would hang
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    causes = {
        "pipe": "Not a regular file",
        "folder": "Is a directory",
        "loop": "Too many levels of symbolic links",
        "broken": "No such file or directory",
        "device": "Not a regular file",
        "x" * 300: "File name too long",
    }
    for name, cause in causes.items():
        assert f"{name}.png: cannot be read ({cause}); " in read(tmp_path / f"{name}.png")


def test_a_file_without_read_permission_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(ODD["png"])

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # root can read all files, whatever their permissions
    found = read(path)
    monkeypatch.undo()
    assert found == f"{path}: cannot be read (Permission denied); check the file"
