"""Opening pictures of every sort, and refusing what is none."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vledit.errors import PictureError
from vledit.vlm.pictures import open_picture, picture_key

RED = (200, 30, 40)


def saved(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


class Lazy:
    def __init__(self, picture, key="lazy-1"):
        self.picture, self._key = picture, key

    @property
    def key(self):
        return self._key

    def open(self):
        return self.picture


class TestConversion:
    def test_sources_agree(self, tmp_path):
        picture = Image.new("RGB", (6, 4), RED)
        path = tmp_path / "a.png"
        picture.save(path)
        for source in (picture, path, str(path), path.read_bytes(), Lazy(picture), Lazy(Image.open(path))):
            opened = open_picture(source)
            assert (opened.mode, opened.size, opened.getpixel((5, 3))) == ("RGB", (6, 4), RED)
        assert open_picture(picture) is picture

    @pytest.mark.parametrize(
        ("mode", "value", "expected"),
        [
            ("L", 77, (77, 77, 77)),
            ("1", 1, (255, 255, 255)),
            ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
            ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
            ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
            ("LA", (0, 51), (204, 204, 204)),
            ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
            ("F", 0.5, (128, 128, 128)),
            ("F", 200.0, (200, 200, 200)),
            ("I", 130, (130, 130, 130)),
            ("I", 65535, (255, 255, 255)),
            ("I;16", 257 * 90, (90, 90, 90)),
            ("I;16", 0, (0, 0, 0)),
            ("YCbCr", (255, 128, 128), (255, 255, 255)),
        ],
    )
    def test_modes(self, mode, value, expected):
        picture = Image.new(mode, (3, 2), value)
        assert open_picture(picture).getpixel((1, 1)) == expected

    def test_sixteen_bit_png(self):
        values = np.array([[0, 257 * 10], [257 * 200, 65535]], dtype=np.uint16)
        opened = open_picture(saved(Image.fromarray(values)))
        assert [opened.getpixel(xy)[0] for xy in ((0, 0), (1, 0), (0, 1), (1, 1))] == [0, 10, 200, 255]

    def test_palette_with_transparency_is_laid_on_white(self):
        picture = Image.new("P", (2, 1))
        picture.putpalette([0, 0, 0, *RED])
        picture.putpixel((1, 0), 1)
        opened = open_picture(saved(picture, transparency=0))
        assert (opened.getpixel((0, 0)), opened.getpixel((1, 0))) == ((255, 255, 255), RED)

    def test_colour_key_transparency_is_laid_on_white(self):
        picture = Image.new("RGB", (2, 1), RED)
        picture.putpixel((0, 0), (1, 2, 3))
        opened = open_picture(saved(picture, transparency=(1, 2, 3)))
        assert (opened.getpixel((0, 0)), opened.getpixel((1, 0))) == ((255, 255, 255), RED)

    def test_exif_turns_the_picture_upright(self):
        picture = Image.new("RGB", (8, 4))
        picture.paste(RED, (0, 0, 4, 4))
        exif = Image.Exif()
        exif[0x0112] = 6  # "rotate by 90° clockwise to see it upright"
        opened = open_picture(saved(picture, exif=exif))
        assert opened.size == (4, 8)
        assert (opened.getpixel((1, 1)), opened.getpixel((1, 6))) == (RED, (0, 0, 0))

    def test_first_frame_of_an_animation(self):
        frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
        data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
        assert open_picture(data).getpixel((1, 1)) == RED

    def test_the_given_picture_is_left_alone(self):
        picture = Image.new("RGBA", (4, 4), (1, 2, 3, 4))
        open_picture(picture)
        assert (picture.mode, picture.getpixel((0, 0))) == ("RGBA", (1, 2, 3, 4))


def bomb(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


class TestRefusals:
    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("/no/such/file.png", "there is no file '/no/such/file.png'"),
            ("https://example.org/a.png", "web address"),
            (b"hello, I am a text", "not a picture"),
            (b"", "not a picture"),
            (42, "cannot make a picture of a int"),
            (None, "cannot make a picture of a NoneType"),
            (np.zeros((5, 5, 7)), "has the shape"),
            (bomb(9000, 9000), "81 megapixels"),
            (bomb(60000, 60000), "too large|megapixels"),
            (bomb(2**31 - 1, 2**31 - 1), "too large"),
            (bomb(200, 200), "damaged or cut short"),
            (bomb(0, 5), "no pixels|not a picture|damaged"),
            (Image.new("RGB", (0, 3)), "no pixels"),
        ],
        ids=[
            "missing",
            "url",
            "text",
            "no bytes",
            "int",
            "none",
            "array",
            "81MP",
            "3.6GP",
            "4EP",
            "short data",
            "0 px",
            "0 wide",
        ],
    )
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_unfit(self, source, words):
        with pytest.raises(PictureError, match=words) as caught:
            open_picture(source)
        assert str(caught.value).startswith("image: ")
        assert caught.value.exit_code == 2

    def test_folder_empty_and_text_files(self, tmp_path):
        (tmp_path / "empty.png").write_bytes(b"")
        (tmp_path / "text.png").write_text("no picture")
        for path, words in (
            (tmp_path, "folder"),
            (tmp_path / "empty.png", "empty file"),
            (tmp_path / "text.png", "not a picture"),
        ):
            with pytest.raises(PictureError, match=words):
                open_picture(path)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_truncated_files(self, kind):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        data = saved(Image.fromarray(noise), kind)
        for share in (0.1, 0.5, 0.9):
            with pytest.raises(PictureError):
                open_picture(data[: int(len(data) * share)])

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_flipped_bytes_never_raise_anything_else(self):
        random = np.random.default_rng(1)
        data = {kind: saved(Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)), kind) for kind in
                ("PNG", "JPEG", "GIF", "WEBP", "TIFF")}  # fmt: skip
        for content in data.values():
            for _ in range(40):
                broken = bytearray(content)
                for position in random.integers(0, min(len(broken), 200), 4):
                    broken[position] = random.integers(0, 256)
                with contextlib.suppress(PictureError):
                    assert open_picture(bytes(broken)).mode == "RGB"

    def test_limit_can_be_set(self):
        with pytest.raises(PictureError, match=r"at most 0\.001"):
            open_picture(Image.new("RGB", (100, 100)), max_megapixels=0.001)


class TestKeys:
    def test_equal_pixels_give_equal_keys(self, tmp_path):
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
        picture.save(tmp_path / "a.png")
        picture.save(tmp_path / "b.bmp")
        assert picture_key(picture) == picture_key(tmp_path / "a.png") == picture_key(tmp_path / "b.bmp")
        assert picture_key(picture) != picture_key(picture.rotate(180))

    def test_shape_counts(self):
        assert picture_key(Image.new("RGB", (2, 6))) != picture_key(Image.new("RGB", (6, 2)))

    def test_lazy_and_none(self):
        assert picture_key(Lazy(None, key="thing/7")) == "thing/7"
        assert picture_key(None) == "none"


class TestWhatPillowTakes:
    """Files as they are open, addresses of local files, the home folder."""

    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "a picture #1.png"
        path.write_bytes(saved(Image.new("RGB", (3, 2), RED)))
        return path

    def test_an_open_file_can_be_given_again(self, file):
        with file.open("rb") as stream:
            for _ in range(2):
                assert open_picture(stream).getpixel((0, 0)) == RED
            assert not stream.closed
        assert open_picture(io.BytesIO(file.read_bytes())).size == (3, 2)

    def test_a_stream_that_cannot_go_back_is_read_once(self, file):
        class Stream(io.RawIOBase):
            def __init__(self):
                self.left = file.read_bytes()

            def read(self, size=-1):
                found, self.left = self.left, b""
                return found

        assert open_picture(Stream()).getpixel((0, 0)) == RED

    def test_addresses_and_home(self, file, monkeypatch):
        monkeypatch.setenv("HOME", str(file.parent))
        for given in (file.as_uri(), f"file://localhost{file.as_uri()[7:]}", f"~/{file.name}"):
            assert open_picture(given).getpixel((0, 0)) == RED

    def test_any_path_like(self, file):
        class Where:
            def __fspath__(self):
                return str(file)

        assert open_picture(Where()).getpixel((0, 0)) == RED

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ("https://example.org/a.png", "is a web address"),
            ("HTTP://example.org/a.png", "is a web address"),
            ("s3://bucket/a.png", "is an address that is not read"),
            ("ftp://example.org/a.png", "is an address that is not read"),
            ("data:image/png;base64,AAAA", "is an address that is not read"),
            ("file://elsewhere/a.png", "names the computer 'elsewhere'"),
            ("file:///no/such.png", "there is no file"),
            ("a\0b", "NUL"),
            (io.StringIO("text"), "binary mode"),
            (io.BytesIO(), "gives no bytes"),
            (io.BytesIO(b"no picture"), "not a picture in a known format"),
        ],
    )
    def test_refusals(self, given, says):
        with pytest.raises(PictureError, match=says):
            open_picture(given)

    def test_a_closed_file(self, file):
        with file.open("rb") as stream:
            pass
        with pytest.raises(PictureError, match="cannot be read"):
            open_picture(stream)
