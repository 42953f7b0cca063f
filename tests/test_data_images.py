"""Images as samples, against the same steps done by hand in numpy."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calibrant.core import DataError, SettingError
from calibrant.data import Preprocessing, Resize, open_samples
from calibrant.data.preprocessing import plan
from calibrant.engines.samples import InputSpec


def input_spec(name="x", shape=("N", 3, 16, 16), dtype=np.float32):
    return InputSpec(name, np.dtype(dtype), tuple(shape))


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(folder: Path, name: str, pixels, **options) -> Path:
    path = folder / name
    Image.fromarray(pixels).save(path, **options)
    return path


def read(data, target=None, **said):
    [sample] = open_samples(data, [target or input_spec()], preprocessing=Preprocessing(**said))
    return sample["x"]


def test_defaults_are_rgb_from_0_to_1_in_the_order_of_the_model(tmp_path):
    pixels = noise(16, 16)
    path = save(tmp_path, "a.png", pixels)
    by_hand = pixels.transpose(2, 0, 1)[np.newaxis].astype(np.float32) / np.float32(255)
    assert read(path).dtype == np.float32
    assert read(path).flags.c_contiguous
    np.testing.assert_array_equal(read(path), by_hand)
    np.testing.assert_array_equal(read(path, input_spec(shape=[1, 16, 16, 3])), by_hand.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(read(path, input_spec(shape=[3, 16, 16])), by_hand[0])


NORMALIZED = {
    "units of 0..1": ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, 255),
    "units of 0..255": ({"mean": (127.0,), "std": (128.0,)}, 1),
    "means of 0..255 alone": ({"mean": (104.0, 117.0, 123.0)}, 1),
    "said to be 0..255": ({"pixels": 255}, 1),
    "said to be 0..1": ({"mean": (1.5,), "std": (2.0,), "pixels": 1}, 255),
}


@pytest.mark.parametrize("case", NORMALIZED)
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_mean_and_std(tmp_path, case, color):
    said, unit = NORMALIZED[case]
    pixels = noise(16, 16)
    ordered = pixels[..., ::-1] if color == "bgr" else pixels  # the numbers are in the order of the colour
    by_hand = (ordered.astype(np.float64) / unit - said.get("mean", 0)) / said.get("std", 1)
    got = read(save(tmp_path, "a.png", pixels), color=color, **said)
    np.testing.assert_allclose(got, by_hand.transpose(2, 0, 1)[np.newaxis], rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    model=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    short=st.none() | st.integers(24, 40),
)
def test_every_image_fills_the_model(size, model, short):
    said = Preprocessing(resize=Resize("short", short) if short else None)
    recipe = plan(said, input_spec(shape=[1, 3, *model]))
    x = recipe.apply(Image.fromarray(np.full((*size, 3), 51, np.uint8)))
    assert x.shape == (1, 3, *model)
    np.testing.assert_array_equal(x, np.float32(51) / np.float32(255))  # resizing invents nothing


@settings(max_examples=40, deadline=None)
@given(height=st.integers(16, 60), width=st.integers(16, 60))
def test_crop_is_the_centre(height, width):
    pixels = noise(height, width)
    x = plan(Preprocessing(resize=Resize("original")), input_spec()).apply(Image.fromarray(pixels))
    top, left = (height - 16) // 2, (width - 16) // 2
    by_hand = pixels[top : top + 16, left : left + 16].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(x[0].transpose(1, 2, 0), by_hand)


def test_resizing_by_two_averages_neighbours(tmp_path):
    """Bilinear with antialiasing: the weights of a reduction by 2 are (1 3 3 1) / 8 in each direction."""
    ramp = np.linspace(0, 240, 32).astype(np.uint8)
    pixels = np.repeat(np.tile(ramp, (32, 1))[..., np.newaxis], 3, axis=2)
    x = read(save(tmp_path, "a.png", pixels), resize=Resize("exact", 16, 16), pixels=255)[0, 0, 0]
    padded = np.pad(ramp.astype(float), 1, mode="edge")
    by_hand = [np.dot(padded[2 * i : 2 * i + 4], [1, 3, 3, 1]) / 8 for i in range(16)]
    np.testing.assert_allclose(x[1:-1], by_hand[1:-1], atol=0.51)


def test_sizes_of_a_resize():
    assert Resize("short", 256).size(300, 600) == (256, 512)
    assert Resize("short", 256).size(600, 300) == (512, 256)
    assert Resize("exact", 10, 20).size(7, 7) == (10, 20)
    assert Resize("cover", 10, 40).size(20, 20) == (40, 40)
    assert Resize("height", 48).size(24, 100) == (48, 200)
    assert Resize("width", width=50).size(24, 100) == (12, 50)
    assert Resize("original").size(3, 4) == (3, 4)


def test_a_free_width_keeps_the_ratio(tmp_path):
    assert read(save(tmp_path, "a.png", noise(24, 100)), input_spec(shape=["N", 3, 48, "W"])).shape == (1, 3, 48, 200)


def test_exif_orientation_is_respected(tmp_path):
    pixels = noise(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    turned = read(save(tmp_path, "a.png", pixels, exif=exif), pixels=255)[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))


def test_transparency_becomes_white(tmp_path):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8, :, 3] = 255  # black above, transparent black below, one half-transparent row
    pixels[8, :, 3] = 128
    x = read(save(tmp_path, "a.png", pixels), pixels=255)[0, 0]
    assert (x[:8] == 0).all()
    assert (x[9:] == 255).all()
    assert x[8] == pytest.approx(127, abs=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    gray = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16), 1, axis=0)
    image = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(gray).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    x = read(path, pixels=255)[0, 0]
    if mode != "1":  # dithered
        np.testing.assert_allclose(x, gray, atol=2)
    assert x.shape == (16, 16)


def test_gray(tmp_path):
    path = save(tmp_path, "a.png", np.full((16, 16, 3), (10, 20, 30), np.uint8))
    x = read(path, input_spec(shape=[1, 1, 16, 16]), pixels=255)  # one channel: grey without being asked
    assert x.shape == (1, 1, 16, 16)
    np.testing.assert_allclose(x, 0.299 * 10 + 0.587 * 20 + 0.114 * 30, atol=0.51)  # ITU-R 601


def test_uint8_and_half_inputs(tmp_path):
    pixels = noise(16, 16)
    path = save(tmp_path, "a.png", pixels)
    np.testing.assert_array_equal(read(path, input_spec(dtype=np.uint8))[0].transpose(1, 2, 0), pixels)
    assert read(path, input_spec(dtype=np.float16)).dtype == np.float16


REFUSED = {
    "not so many channels": (input_spec(shape=[1, 4, 16, 16]), {}, DataError, "4 channels"),
    "not an image's rank": (input_spec(shape=[1, 128]), {}, DataError, "2 dimensions"),
    "integers": (input_spec(dtype=np.int64), {}, DataError, "takes int64"),
    "uint8 is not normalized": (input_spec(dtype=np.uint8), {"mean": (0.5,)}, SettingError, "leave --mean"),
    "any size": (input_spec(shape=[1, 3, "H", "W"]), {}, SettingError, "--resize"),
    "too small": (input_spec(), {"resize": Resize("short", 12)}, SettingError, "--resize 16 or more"),
    "exactly wrong": (input_spec(), {"resize": Resize("exact", 12, 16)}, SettingError, "smaller"),
    "wrong crop": (input_spec(), {"crop": (12, 16)}, SettingError, "height 16"),
    "free width, wrong height": (
        input_spec(shape=[1, 3, 48, "W"]),
        {"resize": Resize("exact", 32, 100)},
        SettingError,
        "height 48, the images would have 32",
    ),
    "two means": (input_spec(), {"mean": (0.5, 0.5)}, SettingError, "got 2"),
    "std 0": (input_spec(), {"std": (0.0,)}, SettingError, "positive"),
    "units mixed": (input_spec(), {"mean": (0.5,), "std": (128.0,)}, SettingError, r"0\.\.1 and 0\.\.255.*--pixels"),
    "units mixed the other way": (
        input_spec(),
        {"mean": (127.0,), "std": (0.5,)},
        SettingError,
        r"0\.\.255 and 0\.\.1\).*--pixels",
    ),
    "gray for three": (input_spec(), {"color": "gray"}, DataError, "images in gray have 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_an_image_is_read(case):
    target, said, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        plan(Preprocessing(**said), target)


def test_smaller_than_the_crop_names_the_image(tmp_path):
    path = save(tmp_path, "tiny.png", noise(8, 30))
    with pytest.raises(DataError, match=r"tiny\.png.* 8x30 .*smaller than the crop of 16x16"):
        read(path, resize=Resize("original"))


def damaged(folder):
    good = save(folder, "good.png", noise(16, 16))
    save(folder, "b_cut.jpg", noise(64, 64))
    (folder / "b_cut.jpg").write_bytes((folder / "b_cut.jpg").read_bytes()[:600])
    (folder / "c_text.png").write_text("this is no image")
    (folder / "d_empty.jpg").touch()
    return good


@pytest.mark.parametrize("name", ["b_cut.jpg", "c_text.png", "d_empty.jpg"])
def test_an_unreadable_image_is_named(tmp_path, name):
    damaged(tmp_path)
    with pytest.raises(DataError, match=rf"{name}' cannot be read: .*--skip-bad"):
        list(open_samples(tmp_path / name, [input_spec()]))


def test_skip_bad_leaves_out_the_unreadable_and_counts_them(tmp_path):
    damaged(tmp_path)
    samples = open_samples(tmp_path, [input_spec()], skip_bad=True)
    for _ in range(2):  # a second iteration counts anew
        assert len(list(samples)) == 1
        assert [s.split("/")[-1] for s in samples.skipped] == ["b_cut.jpg'", "c_text.png'", "d_empty.jpg'"]


def test_stopping_early_leaves_no_thread_reading(tmp_path):
    for i in range(20):
        save(tmp_path, f"{i:02}.png", noise(16, 16))
    samples = iter(open_samples(tmp_path, [input_spec()]))
    next(samples)
    samples.close()
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("calibrant-data") for thread in threading.enumerate()):
        assert time.monotonic() < deadline


def test_all_bad_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match="none of its 1 sample can be used"):
        list(open_samples(tmp_path, [input_spec()], skip_bad=True))


def test_a_folder_is_sorted_and_says_what_it_ignores(tmp_path):
    for i, name in enumerate(["c.jpg", "a.PNG", "b.webp"]):
        save(tmp_path, name, np.full((16, 16, 3), i * 100, np.uint8))
    (tmp_path / "labels.csv").touch()
    (tmp_path / ".hidden.jpg").touch()
    samples = open_samples(tmp_path, [input_spec()], preprocessing=Preprocessing(pixels=255))
    assert [round(float(s["x"].mean())) for s in samples] == pytest.approx([100, 200, 0], abs=3)
    assert samples.available == samples.steps == 3
    assert "1 file of another kind ignored" in samples.notes


def test_fewer_samples_are_evenly_spread(tmp_path):
    for i in range(10):
        save(tmp_path, f"{i}.png", np.full((16, 16, 3), i, np.uint8))
    samples = open_samples(tmp_path, [input_spec()], preprocessing=Preprocessing(pixels=255), samples=4)
    assert [int(s["x"][0, 0, 0, 0]) for s in samples] == [0, 2, 5, 7]
    assert (samples.taken, samples.available) == (4, 10)


def test_batches_hold_images_of_one_size(tmp_path):
    for i, width in enumerate([20, 20, 20, 30, 20]):
        save(tmp_path, f"{i}.png", noise(16, width))
    samples = open_samples(tmp_path, [input_spec(shape=["N", 3, 16, "W"])], batch_size=2)
    assert [s["x"].shape for s in samples] == [(2, 3, 16, 20), (1, 3, 16, 20), (1, 3, 16, 30), (1, 3, 16, 20)]


def test_a_fixed_batch_is_filled_and_the_rest_reported(tmp_path, caplog):
    for i in range(5):
        save(tmp_path, f"{i}.png", noise(16, 16))
    samples = open_samples(tmp_path, [input_spec(shape=[2, 3, 16, 16])])
    assert [s["x"].shape[0] for s in samples] == [2, 2]
    assert "1 sample left over" in caplog.text
    with pytest.raises(SettingError, match="exactly 2"):
        open_samples(tmp_path, [input_spec(shape=[2, 3, 16, 16])], batch_size=4)


def test_images_fill_one_input_only(tmp_path):
    save(tmp_path, "a.png", noise(16, 16))
    with pytest.raises(DataError, match=r"2 inputs \(x, y\)"):
        open_samples(tmp_path, [input_spec(), input_spec("y")])
