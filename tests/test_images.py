"""The one reader: pixels, errors, lists of images, and what X may be."""

import contextlib
import io
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image

from imgembed import ImageReadError, list_images, read_image
from imgembed.images import check_images, is_one_image

Pixels = NDArray[np.uint8]


def encode(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@given(npst.arrays(np.uint8, npst.array_shapes(min_dims=3, max_dims=3, max_side=9).map(
    lambda shape: (*shape[:2], 3)
)))  # fmt: skip
def test_lossless_files_give_the_array_that_was_written(pixels: Pixels) -> None:
    for kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(read_image(encode(Image.fromarray(pixels), kind)), pixels)
    assert np.array_equal(read_image(pixels), pixels)


@given(st.integers(0, 65535))
def test_16_bit_is_scaled_by_257_and_rounded(value: int) -> None:
    wanted = round(value / 257)
    pixels = np.full((2, 2), value, dtype=np.uint16)
    assert (read_image(pixels) == wanted).all()
    assert (read_image(encode(Image.fromarray(pixels))) == wanted).all()
    assert (read_image(np.dstack([pixels] * 3)) == wanted).all()


@given(st.integers(0, 255), st.integers(0, 255))
def test_alpha_is_laid_over_white(value: int, alpha: int) -> None:
    rgba = np.full((1, 1, 4), value, dtype=np.uint8)
    rgba[..., 3] = alpha
    wanted = (value * alpha + 255 * (255 - alpha)) / 255
    assert np.abs(read_image(rgba) - wanted).max() <= 1
    assert np.array_equal(read_image(encode(Image.fromarray(rgba))), read_image(rgba))


def test_grey_bool_and_single_channel_arrays_become_rgb() -> None:
    grey = np.array([[0, 100]], dtype=np.uint8)
    for pixels in (grey, grey[..., np.newaxis]):
        assert np.array_equal(read_image(pixels)[..., 2], grey)
    assert np.array_equal(read_image(grey > 0)[..., 0], [[0, 255]])


def test_non_contiguous_arrays_are_read_as_they_look(make_noise: Callable[..., Pixels]) -> None:
    image = make_noise()
    assert np.array_equal(read_image(image[::-1, ::2]), image[::-1, ::2].copy())


def test_the_result_is_a_new_array(make_noise: Callable[..., Pixels]) -> None:
    image = make_noise()
    read_image(image)[:] = 0
    assert image.any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    stored = {  # how the camera stores the upright picture under each tag
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(read_image(encoded), upright)
    with Image.open(io.BytesIO(encoded)) as picture:
        assert np.array_equal(read_image(picture), upright)


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    encoded = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_image(encoded) == (255, 0, 0)).all()


def test_a_pil_image_stays_open_and_as_it_was(tmp_path: Path) -> None:
    Image.new("L", (5, 4), 7).save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as picture:
        read_image(picture)
        assert picture.mode == "L"
        assert read_image(picture).shape == (4, 5, 3)


def test_one_pil_image_may_be_read_by_many_threads(photographs: list[Path]) -> None:
    with Image.open(photographs[0]) as picture, ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(read_image, [picture] * 8)
    assert all(np.array_equal(first, other) for other in others)


def test_reduced_decoding_keeps_at_least_the_edge(photographs: list[Path]) -> None:
    picture = Image.fromarray(read_image(photographs[0])).resize((1600, 1000))
    encoded = encode(picture, "JPEG", quality=90)
    for edge, shape in (
        (1001, (1000, 1600)),
        (500, (500, 800)),
        (300, (500, 800)),
        (125, (125, 200)),
    ):
        assert read_image(encoded, shortest_edge=edge).shape[:2] == shape
    assert read_image(encoded).shape[:2] == (1000, 1600)
    assert read_image(encode(picture), shortest_edge=100).shape[:2] == (1000, 1600)


def test_max_pixels_is_checked_before_decoding() -> None:
    encoded = encode(Image.new("1", (3000, 3000)))
    with pytest.raises(ImageReadError, match=r"9,000,000 pixels, more than max_pixels=1,000,000"):
        read_image(encoded[:60], max_pixels=1_000_000)  # only the header is there
    assert read_image(encoded, max_pixels=9_000_000).shape == (3000, 3000, 3)
    with pytest.raises(ImageReadError, match="max_pixels"):
        read_image(np.zeros((20, 20), dtype=np.uint8), max_pixels=399)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_errors(kind: str, share: float, photographs: list[Path]) -> None:
    encoded = encode(Image.fromarray(read_image(photographs[0])[:200, :200]), kind)
    with pytest.raises(ImageReadError) as caught:
        read_image(encoded[: int(len(encoded) * share)])
    assert "bytes)" in str(caught.value)


@given(st.binary(max_size=200))
def test_random_bytes_are_an_error_and_nothing_else(content: bytes) -> None:
    with pytest.raises(ImageReadError):
        read_image(content)


@given(position=st.integers(0, 5000), value=st.integers(0, 255))
def test_a_damaged_byte_gives_a_picture_or_an_error(position: int, value: int) -> None:
    rng = np.random.default_rng(0)
    damaged = bytearray(encode(Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))))
    damaged[position % len(damaged)] = value
    with contextlib.suppress(ImageReadError):
        assert read_image(damaged).dtype == np.uint8


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("no/such/file.jpg", "no such file"),
        ("", "path is empty"),
        (Path(__file__).parent, "folder"),
        (b"", "no bytes"),
        (b"hello", "no image format"),
        ("https://example.org/a.jpg", "download"),
        (None, "missing value"),
        (float("nan"), "missing value"),
        (3, "got int"),
        ({"bytes": None, "path": None}, "missing value"),
        ({}, "missing value"),
        (np.zeros((2, 2, 3)), "floating point"),
        (np.zeros((2, 2), dtype=np.int64), "int64"),
        (np.zeros((3, 20, 20), dtype=np.uint8), "transpose"),
        (np.zeros((2, 2, 2, 2), dtype=np.uint8), r"\(2, 2, 2, 2\)"),
        (np.zeros((0, 5), dtype=np.uint8), "no pixels"),
        (Image.new("F", (2, 2)), "floating point"),
        (Image.new("RGB", (0, 2)), "no pixels"),
        (__file__, "no image format"),
    ],
)
def test_what_is_no_image_is_an_error_with_a_reason(image: object, reason: str) -> None:
    with pytest.raises(ImageReadError, match=reason):
        read_image(image)


def test_the_error_keeps_its_cause_and_survives_pickling() -> None:
    import pickle

    with pytest.raises(ImageReadError) as caught:
        read_image("no/such/file.jpg")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    again = pickle.loads(pickle.dumps(caught.value.with_row(3)))
    assert (again.source, again.row) == ("'no/such/file.jpg'", 3)
    assert str(again) == "cannot read image in row 3 ('no/such/file.jpg'): there is no such file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageReadError, match="regular file"):
        read_image(tmp_path / "pipe.jpg")


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageReadError, match=r"empty\.jpg.*0 bytes"):
        read_image(tmp_path / "empty.jpg")


@pytest.mark.skipif(sys.platform != "linux", reason="paths are bytes on Linux")
def test_paths_that_are_not_utf_8_are_read(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.png"
    with open(path, "wb") as file:
        file.write(encode(Image.new("RGB", (2, 2))))
    assert read_image(os.fsdecode(path)).shape == (2, 2, 3)
    assert len(list_images(tmp_path)) == 1


def test_list_images_is_sorted_and_leaves_out_the_rest(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/10.jpg", "a.webp", ".hidden.jpg", ".git/c.png", "notes.txt", "jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert listed == ["a.webp", "b/10.jpg", "b/2.JPG"]
    assert [path.name for path in list_images(str(tmp_path), recursive=False)] == ["a.webp"]


def test_list_images_of_a_wrong_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        list_images(tmp_path / "absent")
    with pytest.raises(NotADirectoryError, match="is a file"):
        list_images(__file__)


def test_a_series_goes_by_position_not_by_label() -> None:
    series = pandas.Series(["a.jpg", "b.jpg"], index=[1, 0])
    assert list(check_images(series)) == ["a.jpg", "b.jpg"]
    with pytest.raises(TypeError, match="2 columns"):
        check_images(pandas.DataFrame({"a": ["x"], "b": ["y"]}))


@pytest.mark.parametrize("X", [{"a.jpg"}, 5, iter([]), np.zeros((3, 4)), np.zeros((5, 5, 3))])
def test_what_has_no_rows_is_no_sequence(X: object) -> None:
    with pytest.raises(TypeError, match="sequence of images"):
        check_images(X)


def test_one_image_is_told_from_many(make_noise: Callable[..., Pixels]) -> None:
    image = make_noise()
    assert all(map(is_one_image, ["a", Path("a"), b"a", image, image[..., 0], {"path": "a"}]))
    assert not any(map(is_one_image, [["a"], image[np.newaxis], np.array(["a"])]))


def test_nothing_is_fetched_from_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(ImageReadError, match="address"):
        read_image("http://example.org/a.jpg")
