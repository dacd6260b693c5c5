import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import COLOURS, encoded, picture, tiny_config, write_folders
from PIL import EpsImagePlugin, Image

from attnzoo.tools.data import Draw, open_classification, train_transform, val_transform
from attnzoo.tools.images import UnreadableImageError, apply_transform, read_image
from attnzoo.tools.predict import predict
from attnzoo.tools.train import train
from attnzoo.tools.training.loop import TrainingError

HEIGHT, WIDTH = 12, 20


def gradient(dtype=np.uint8, most=255):
    """A gradient from dark on the left to light on the right."""
    return np.tile(np.linspace(0, most, WIDTH), (HEIGHT, 1)).astype(dtype)


def with_gaps(values):
    """A value that is no number where it is dark, and infinity where it is light."""
    values[0, 0], values[1, 0], values[0, -1] = np.nan, -np.inf, np.inf
    return values


def stored(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    file.seek(0)
    return file


def pixels(file, channels=3):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(file, channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    return np.asarray(image).astype(int)


GREY = {
    "8 bits": lambda: stored(Image.fromarray(gradient()), "png"),
    "16 bits, PNG": lambda: stored(Image.fromarray(gradient(np.uint16, 65535)), "png"),
    "16 bits, TIFF": lambda: stored(Image.fromarray(gradient(np.uint16, 65535)), "tiff"),
    "16 bits, big end first": lambda: stored(
        Image.frombytes("I;16B", (WIDTH, HEIGHT), gradient(">u2", 65535).tobytes()), "tiff"
    ),
    "32 bits of 16": lambda: stored(Image.fromarray(gradient(np.int32, 65535)), "tiff"),
    "16 bits, PGM": lambda: stored(Image.fromarray(gradient(np.uint16, 65535)), "ppm"),
    "32 bits of 8": lambda: stored(Image.fromarray(gradient(np.int32, 255)), "tiff"),
    "32 bits of 24": lambda: stored(Image.fromarray(gradient(np.int32, 2**24 - 1)), "tiff"),
    "floats up to 65535": lambda: stored(Image.fromarray(gradient(np.float32, 65535)), "tiff"),
    "floats with NaN": lambda: stored(Image.fromarray(with_gaps(gradient(np.float32, 1))), "tiff"),
    "floats up to 1": lambda: stored(Image.fromarray(gradient(np.float32, 1)), "tiff"),
    "floats up to 255": lambda: stored(Image.fromarray(gradient(np.float32, 255)), "tiff"),
    "RGB": lambda: stored(Image.fromarray(gradient()).convert("RGB"), "png"),
    "a palette": lambda: stored(Image.fromarray(gradient()).convert("RGB").quantize(WIDTH), "png"),
    "opaque": lambda: stored(Image.fromarray(gradient()).convert("RGBA"), "png"),
    "YCbCr": lambda: stored(Image.fromarray(gradient()).convert("RGB"), "jpeg", quality=100),
    "CMYK": lambda: stored(Image.fromarray(gradient()).convert("RGB").convert("CMYK"), "jpeg", quality=100),
    "an animation": lambda: stored(
        Image.fromarray(gradient()), "gif", save_all=True, append_images=[Image.new("L", (WIDTH, HEIGHT), 7)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", GREY)
def test_a_picture_is_the_same_in_every_form(form, channels):
    seen = pixels(GREY[form](), channels)
    wanted = gradient().astype(int) if channels == 1 else np.repeat(gradient()[..., None], 3, 2).astype(int)
    # JPEG and palettes are lossy
    worst = np.abs(seen - wanted)
    assert worst.max() <= (3 if form in ("YCbCr", "CMYK", "a palette") else 1), np.unravel_index(
        worst.argmax(), worst.shape
    )


def test_dark_sixteen_bits_stay_dark():
    for form in ("png", "ppm", "tiff"):
        assert pixels(stored(Image.fromarray(gradient(np.uint16, 255)), form)).max() == 1, form


def test_one_bit_is_black_and_white():
    seen = pixels(stored(Image.fromarray(gradient() > 127), "png"))
    assert (seen[:, :8] == 0).all()
    assert (seen[:, 12:] == 255).all()


def sixteen_bit_rgb_tiff(values):
    """An uncompressed TIFF of 16 bits per channel, which Pillow reads and does not write."""
    height, width, _ = values.shape
    data = values.astype("<u2").tobytes()
    bits = 8 + len(data)
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8),
        (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    directory = len(entries).to_bytes(2, "little") + b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + count.to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, count, value in entries
    )
    header = b"II*\0" + (bits + 6).to_bytes(4, "little")
    return io.BytesIO(header + data + (16).to_bytes(2, "little") * 3 + directory + bytes(4))


def sixteen_bit_rgb_png(values):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("make", [sixteen_bit_rgb_png, sixteen_bit_rgb_tiff])
def test_sixteen_bits_of_colour_are_scaled_by_their_range(make):
    seen = pixels(make(np.repeat(gradient(np.uint16, 65535)[..., None], 3, 2)))
    assert np.abs(seen - gradient()[..., None]).max() <= 1


def test_inverted_cmyk_of_adobe_has_its_colours(tmp_path):
    # with Adobe's marker Pillow writes and reads CMYK inverted, as Photoshop does
    red = Image.new("RGB", (16, 16), (200, 40, 30)).convert("CMYK")
    file = stored(red, "jpeg", quality=95)
    assert b"Adobe" in file.getvalue()
    assert np.abs(pixels(file) - (200, 40, 30)).max() <= 6


def test_ycck_of_photoshop_has_its_colours():
    # Pillow writes CMYK only: its four planes are filled with Y, Cb, Cr and K, and Adobe's marker is changed to say so
    cyan_magenta_yellow = Image.new("RGB", (16, 16), (255 - 200, 255 - 40, 255 - 30))
    planes = [*cyan_magenta_yellow.convert("YCbCr").split(), Image.new("L", (16, 16), 255)]
    # it writes them inverted
    inverted = [plane.point(lambda value: 255 - value) for plane in planes]
    content = bytearray(stored(Image.merge("CMYK", inverted), "jpeg", quality=95, subsampling=0).getvalue())
    transform = content.index(b"Adobe") + len(b"Adobe") + 6
    assert content[transform] == 0
    content[transform] = 2
    assert np.abs(pixels(io.BytesIO(content)) - (200, 40, 30)).max() <= 6


TRANSPARENT = {
    "RGBA": lambda: Image.new("RGBA", (8, 8), (255, 0, 0, 0)),
    "half": lambda: Image.new("RGBA", (8, 8), (0, 0, 0, 128)),
    "LA": lambda: Image.new("LA", (8, 8), (0, 0)),
    "palette": lambda: Image.new("RGBA", (8, 8), (0, 0, 0, 0)).quantize(4),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_is_white(kind):
    image = TRANSPARENT[kind]()
    seen = pixels(stored(image, "png"))
    assert np.abs(seen - (127 if kind == "half" else 255)).max() <= 1


def test_a_transparent_colour_of_a_palette_is_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 2), 1)
    seen = pixels(stored(image, "gif", transparency=0))
    assert (seen[2, 3] == (200, 100, 50)).all()
    assert (seen[0, 0] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation):
    upright = Image.fromarray(gradient())
    # how a camera stores the pixels for each orientation
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    upright.putpixel((1, 0), 255)
    image = upright if orientation == 1 else upright.transpose(turned[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("png", "tiff"):
        assert (pixels(stored(image, form, exif=exif), 1) == np.asarray(upright)).all(), form


def bomb():
    """The header of an image of 20000 x 20000 pixels, without its data."""
    content = bytearray(encoded(Image.new("L", (1, 1))))
    content[16:24] = (20000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


DAMAGED = {
    "empty.jpg": lambda: b"",
    "text.jpg": lambda: b"this is not a picture\n" * 20,
    "truncated.png": lambda: encoded(picture("red", size=(64, 64)))[:2000],
    "truncated.jpg": lambda: encoded(picture("red", size=(64, 64)), "jpeg")[:500],
    "header.jpg": lambda: encoded(picture("red"), "jpeg")[:30],
    "corrupt.png": lambda: encoded(picture("red"))[:60] + b"\xff" * 40 + encoded(picture("red"))[100:],
    "bomb.png": bomb,
    # Pillow would start Ghostscript
    "postscript.jpg": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
    "photoshop.png": lambda: b"8BPS\0\1" + bytes(6) + b"\0\3" + bytes(200),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_picture_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(DAMAGED[name]())
    messages = []
    for _ in range(2):
        with pytest.raises(UnreadableImageError, match=f"{name} cannot be read as an image: .+") as told:
            read_image(tmp_path / name)
        messages.append(str(told.value))
    # the message is the same each time, so that each file is listed once
    assert messages[0] == messages[1]
    assert "object at" not in messages[0]


def test_no_other_program_is_started(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **_: started.append(arguments))
    (tmp_path / "x.jpg").write_bytes(DAMAGED["postscript.jpg"]())
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "b").mkdir()
    (tmp_path / "train" / "a" / "x.jpg").write_bytes(DAMAGED["postscript.jpg"]())
    (tmp_path / "val" / "b").mkdir(parents=True)
    for split in ("train", "val"):
        Image.new("RGB", (8, 8)).save(tmp_path / split / "b" / "y.png")
    data = {"name": "imagefolder", "root": str(tmp_path), "input_size": (3, 8, 8)}
    assert "is not in one of the formats" in open_classification(data, "train")[Draw(0)]["unreadable"][0]
    assert "is not in one of the formats" in predict("test_resnet", [tmp_path / "x.jpg"])[0]["error"]
    assert not started


def test_the_limit_of_pixels_can_be_raised(tmp_path, monkeypatch):
    Image.new("1", (200, 100)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8000)
    with pytest.raises(UnreadableImageError, match=r"has more than 16000 pixels, at most 8000 .*ATTNZOO_MAX_PIXELS"):
        read_image(tmp_path / "x.png")
    monkeypatch.setenv("ATTNZOO_MAX_PIXELS", "19999")
    with pytest.raises(UnreadableImageError, match=r"has 200 x 100 pixels, at most 19999 .*ATTNZOO_MAX_PIXELS"):
        read_image(tmp_path / "x.png")
    monkeypatch.setenv("ATTNZOO_MAX_PIXELS", "20000")
    assert read_image(tmp_path / "x.png").size == (200, 100)
    monkeypatch.setenv("ATTNZOO_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="ATTNZOO_MAX_PIXELS must be a positive integer, got 'many'"):
        read_image(tmp_path / "x.png")


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path(os.devnull), tmp_path):
        with pytest.raises(UnreadableImageError, match="it is not a regular file"):
            read_image(path)


THIN = [(1, 30_000), (1, 100_000), (9_000_000, 1)]


@pytest.mark.parametrize("size", THIN, ids=str)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, "pixels after resizing, at most", id="center"),
        pytest.param({"input_size": (3, 224, 192)}, "pixels after resizing, at most", id="not square"),
        pytest.param({"crop_mode": "border"}, "256 x 0|0 x 256", id="border"),
    ],
)
def test_a_thin_picture_is_refused_before_it_is_resized(monkeypatch, size, options, message):
    monkeypatch.setattr(Image.Image, "resize", lambda *_, **__: pytest.fail("it was resized"))
    image = Image.new("1", size)
    for transform in (val_transform(options), train_transform(options, [{"type": "RandomRotation", "degrees": 9}])):
        with pytest.raises(UnreadableImageError, match=f"thin.png cannot be transformed: .*({message})"):
            apply_transform(transform, "thin.png", image)


def test_a_thin_picture_is_handled_like_one_that_cannot_be_read(tmp_path):
    root = write_folders(tmp_path / "data", train=4, val=2)
    for split in ("train", "val"):
        Image.new("1", (1, 1_000_000)).save(root / split / "red" / "thin.png")
    data = {"name": "imagefolder", "root": str(root)}
    train(tiny_config(data, epochs=1, unreadable="skip"), tmp_path / "run")
    unreadable = torch.load(tmp_path / "run" / "last.pth", weights_only=True)["record"]["unreadable"]
    assert {message.partition(" cannot be transformed")[0] for message in unreadable} == {
        str(root / split / "red" / "thin.png") for split in ("train", "val")
    }
    found = predict("test_resnet", [root / "val" / "red" / name for name in ("thin.png", "0.png")])
    assert "thin.png cannot be transformed" in found[0]["error"]
    assert len(found[1]["scores"]) == 5


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"nowhere\.png cannot be read"):
        read_image(tmp_path / "nowhere.png")


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
        read_image(Image.new("RGB", (4, 4)), 4)


@pytest.fixture
def odd_folders(tmp_path):
    """Folders in which every class has images of all formats."""
    root = write_folders(tmp_path / "data", train=4, val=2)
    forms = {
        "cmyk.jpg": ("CMYK", "jpeg"),
        "palette.gif": ("P", "gif"),
        "alpha.png": ("RGBA", "png"),
        "grey.tif": ("L", "tiff"),
    }
    for colour in COLOURS:
        for name, (mode, form) in forms.items():
            for split in ("train", "val"):
                (root / split / colour / name).write_bytes(encoded(picture(colour).convert(mode), form))
        deep = Image.fromarray(gradient(np.uint16, 65535))
        (root / "train" / colour / "deep.png").write_bytes(encoded(deep))
    return root


def damage(root):
    for name in ("empty.jpg", "text.jpg", "truncated.png"):
        (root / "train" / "red" / name).write_bytes(DAMAGED[name]())
    (root / "val" / "blue" / "corrupt.png").write_bytes(DAMAGED["corrupt.png"]())


def test_pictures_of_all_forms_train(odd_folders, tmp_path):
    train(tiny_config({"name": "imagefolder", "root": str(odd_folders)}, workers=2), tmp_path / "run")
    record = torch.load(tmp_path / "run" / "last.pth", weights_only=True)["record"]
    assert record["unreadable"] == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_stops_with_its_name(odd_folders, tmp_path, workers):
    damage(odd_folders)
    config = tiny_config({"name": "imagefolder", "root": str(odd_folders)}, workers=workers)
    with pytest.raises(TrainingError, match=r"(empty|text)\.jpg|(truncated|corrupt)\.png") as told:
        train(config, tmp_path / "run")
    assert "unreadable=skip" in str(told.value)
    assert "Traceback" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_pictures_are_skipped_and_listed(odd_folders, tmp_path, capsys, workers):
    damage(odd_folders)
    config = tiny_config({"name": "imagefolder", "root": str(odd_folders)}, workers=workers, unreadable="skip")
    train(config, tmp_path / "run")
    output = capsys.readouterr().out
    assert "skipped 4 files that could not be read:" in output
    for name in ("red/empty.jpg", "red/text.jpg", "red/truncated.png", "blue/corrupt.png"):
        assert output.count(name) == 1


def test_validation_leaves_out_what_cannot_be_read(odd_folders, tmp_path):
    data = {"name": "imagefolder", "root": str(odd_folders)}
    best = []
    for name in ("whole", "damaged"):
        # the training is the same in both cases
        train(tiny_config(data, epochs=1, unreadable="skip"), tmp_path / name)
        best.append(torch.load(tmp_path / name / "last.pth", weights_only=True)["record"]["best"])
        (odd_folders / "val" / "blue" / "corrupt.png").write_bytes(DAMAGED["corrupt.png"]())
    # batches begin at other images, and round differently
    assert best[0] == pytest.approx(best[1], rel=1e-6)


def test_a_set_without_a_readable_picture_says_so(odd_folders, tmp_path):
    for path in odd_folders.rglob("*.*"):
        path.write_bytes(b"x")
    config = tiny_config({"name": "imagefolder", "root": str(odd_folders)}, unreadable="skip")
    with pytest.raises(ValueError, match=r"none of 27 images can be read; the first: .*0\.png cannot be read"):
        train(config, tmp_path / "run")
