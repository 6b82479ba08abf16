import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.models.preprocess import normalize_images

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SIZES = np.array([[4, 6], [2, 3], [1, 1]], np.int32)


def random_images():
    """Images with pixels even beyond their sizes, because the padding must not depend on them."""
    return np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_images_are_normalized_and_then_padded_with_zeros(order):
    settings = config.Normalization(MEAN, STD, order)
    found = np.asarray(jax.jit(normalize_images, static_argnums=2)(random_images(), SIZES, settings))
    pixels = random_images() if order == "rgb" else random_images()[..., ::-1]
    expected = (pixels - np.array(MEAN)) / np.array(STD)
    assert found.dtype == np.float32
    for i, (height, width) in enumerate(SIZES):
        np.testing.assert_allclose(found[i, :height, :width], expected[i, :height, :width], rtol=1e-5)
        assert np.all(found[i, height:] == 0)
        assert np.all(found[i, :, width:] == 0)


def test_bfloat16_rounds_the_float32_result():
    exact = normalize_images(random_images(), SIZES, config.Normalization())
    found = normalize_images(random_images(), SIZES, config.Normalization(), jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


def test_float64_is_not_rounded_to_float32():
    with jax.enable_x64(True):
        found = normalize_images(random_images(), SIZES, config.Normalization(), jnp.float64)
    expected = (random_images()[0] - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(found[0], expected, rtol=1e-14)
