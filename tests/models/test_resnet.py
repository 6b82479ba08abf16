import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.models.resnet import ResidualBlock, ResNet

# Most of the work is in the first stage, to make it visible if its backward pass is skipped.
SMALL = config.Backbone(
    block="basic", stage_sizes=(2, 1), widths=(8, 8), stem="patch4", norm="frozen", frozen_stages=0
)


def random_images(height, width):
    return np.random.default_rng(0).normal(size=(1, height, width, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=[0, 1, 2])
def gradient(request, random_variables):
    """The number of frozen stages, the gradient, and its cost in units of the forward pass."""
    model = ResNet(dataclasses.replace(SMALL, frozen_stages=request.param))
    x = random_images(64, 64)
    variables = random_variables(model, x)

    def loss(params):
        features = model.apply({**variables, "params": params}, x, False)
        return jnp.mean(features[-1])

    forward = jax.jit(loss).lower(variables["params"]).compile()
    whole = jax.jit(jax.grad(loss)).lower(variables["params"]).compile()
    cost = whole.cost_analysis().get("flops", 0) / forward.cost_analysis()["flops"]
    return request.param, whole(variables["params"]), cost


def test_frozen_stages_have_no_gradient_and_the_others_do(gradient):
    frozen_stages, found, _ = gradient
    stem = ("conv1", "bn1") if frozen_stages else ()
    frozen = (*stem, *(f"layer{k}_" for k in range(1, frozen_stages + 1)))
    for name, part in found.items():
        for leaf in jax.tree.leaves(part):
            assert bool(jnp.all(leaf == 0)) == name.startswith(frozen), name


def test_the_backward_pass_of_frozen_stages_is_not_computed(gradient):
    """XLA counts about 2.5 forward passes without frozen stages, and 1 with a frozen stem and stage 1."""
    frozen_stages, _, cost = gradient
    least, most = [(2.0, 3.5), (0.5, 1.5), (0.0, 0.0)][frozen_stages]
    assert least <= cost <= most


@pytest.mark.parametrize("stem", ["conv7", "patch4"])
@pytest.mark.parametrize(("block", "factor"), [("basic", 1), ("bottleneck", 4)])
def test_strides_and_channels_of_the_stages(block, factor, stem):
    backbone = config.Backbone(block, (1, 1, 1), (4, 8, 16), stem)
    model = ResNet(backbone)
    features, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), random_images(64, 96))
    shapes = [feature.shape[1:] for feature in features]
    assert shapes == [(16, 24, 4 * factor), (8, 12, 8 * factor), (4, 6, 16 * factor)]


@pytest.mark.parametrize(("style", "changes"), [("caffe", False), ("pytorch", True)])
def test_the_stride_of_a_caffe_bottleneck_is_in_its_1x1_convolution(style, changes, random_variables):
    """A 1x1 convolution of stride 2 reads only every second pixel, so the others have no influence."""
    block = ResidualBlock(dataclasses.replace(SMALL, block="bottleneck", style=style), 4, 2, jnp.float32)
    x = np.random.default_rng(1).normal(size=(1, 6, 6, 4)).astype(np.float32)
    other = x.copy()
    other[:, 1::2] += 1
    variables = random_variables(block, x)
    apply = jax.jit(lambda x: block.apply(variables, x, False))
    assert bool(jnp.any(apply(x) != apply(other))) == changes
