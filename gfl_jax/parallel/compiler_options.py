"""Options of XLA's compilers for the programs of training and inference: one place, with the reasons."""

import jax
from jax.sharding import Mesh

from gfl_jax import config
from gfl_jax.errors import UserError
from gfl_jax.parallel.mesh import platform_of, replicated

Options = dict[str, str | bool]

# Below 8 images a chip XLA splits the width of every map into 8 parts that it treats as a batch ("space to
# batch"). Most of a program is then pads, slices and copies, and temporaries are three times as large. It
# takes all three options to switch it off. What pays of it is done in `gfl_jax/strips.py`.
_WHOLE_MAPS: Options = {
    "xla_tpu_run_space_to_batch": False,
    "xla_tpu_run_space_to_batch_after_spmd": False,
    "xla_tpu_run_space_to_batch_on_new_platforms": False,
}
# Sums by scattering, as in the gradients of a deformable convolution, else come in any order.
_DETERMINISTIC: Options = {"xla_gpu_deterministic_ops": True}
# Of programs that run once or a few times: optimizing them would take longer.
_QUICK: Options = {"xla_backend_optimization_level": "0"}


def compiler_options(mesh: Mesh, compiler: config.Compiler) -> Options | None:
    """The options for a program that runs on the devices of a mesh; None: there are none.

    Args:
      mesh: from `make_mesh`.
      compiler: what the config asks for; its options go before those here.

    Raises:
      UserError: XLA does not know an option of the config, or its value.
    """
    platform = platform_of(mesh)
    own: Options = {}
    if platform == "tpu":
        own = _WHOLE_MAPS
    elif platform == "gpu" and compiler.deterministic:
        own = _DETERMINISTIC
    asked = {name: _value(text) for name, text in (option.split("=", 1) for option in compiler.options)}
    options = {**own, **asked} or None
    if asked:
        x = jax.ShapeDtypeStruct((), float, sharding=replicated(mesh))
        try:
            jax.jit(lambda x: x, compiler_options=options).trace(x).lower().compile()
        except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"config.compiler.options: {reason}; give options of XLA for {platform}"
            ) from error
    return options


def quick_options(platform: str) -> Options | None:
    """The options for a program that runs once or a few times."""
    return _QUICK if platform == "cpu" else None


def _value(text: str) -> str | bool:
    return {"true": True, "false": False}.get(text.lower(), text)
