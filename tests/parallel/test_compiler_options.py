"""XLA compiler options: the options for each platform, and the errors about invalid ones."""

import types

import jax
import numpy as np
import pytest

from gfl_jax import config
from gfl_jax.errors import UserError
from gfl_jax.parallel.compiler_options import compiler_options, quick_options
from gfl_jax.parallel.mesh import make_mesh


def mesh_of(platform):
    device = types.SimpleNamespace(platform=platform)
    return types.SimpleNamespace(devices=np.array([[device]]))


def test_space_to_batch_is_off_on_tpus():
    options = compiler_options(mesh_of("tpu"), config.Compiler())
    assert options
    assert all("space_to_batch" in name and value is False for name, value in options.items())


def test_gpus_are_deterministic_on_demand():
    assert compiler_options(mesh_of("gpu"), config.Compiler()) is None
    asked = compiler_options(mesh_of("gpu"), config.Compiler(deterministic=True))
    assert asked == {"xla_gpu_deterministic_ops": True}


def test_options_of_the_config_reach_the_compiler():
    asked = config.Compiler(options=("xla_backend_optimization_level=0", "xla_cpu_enable_fast_math=false"))
    options = compiler_options(make_mesh(), asked)
    assert options == {"xla_backend_optimization_level": "0", "xla_cpu_enable_fast_math": False}
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
    assert compiler_options(make_mesh(), config.Compiler()) is None


@pytest.mark.parametrize(
    ("option", "words"),
    [("xla_cpu", "must be NAME=VALUE"), ("=1", "must be NAME=VALUE"), ("xla_a=", "must be NAME=VALUE")],
)
def test_a_malformed_option_is_an_error(option, words):
    with pytest.raises(UserError, match=rf"config\.compiler\.options: '{option}': {words}"):
        config.Compiler(options=(option,))


@pytest.mark.parametrize("option", ["xla_such_is_not_there=1", "xla_backend_optimization_level=much"])
def test_an_option_that_the_compiler_refuses_is_a_one_line_error(option):
    with pytest.raises(
        UserError, match=r"config\.compiler\.options: .*; give options of XLA for cpu"
    ) as caught:
        compiler_options(make_mesh(), config.Compiler(options=(option,)))
    assert option.split("=")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_programs_that_run_once_are_compiled_quickly():
    assert quick_options("cpu")
    assert quick_options("tpu") is None
