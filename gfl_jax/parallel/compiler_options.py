"""XLA compiler options for the programs of training and inference, with the reason for each."""

import jax
from jax.sharding import Mesh

from gfl_jax import config
from gfl_jax.errors import UserError
from gfl_jax.parallel.mesh import platform_of, replicated

Options = dict[str, str | bool]

# With fewer than 8 images on a chip, XLA splits the width of every feature map into 8 parts that it treats
# as a batch ("space to batch"). Most of a program is then pads, slices and copies, and temporaries are three
# times as large. All three options are needed to switch this off. `gfl_jax/strips.py` does the useful part.
_WHOLE_MAPS: Options = {
    "xla_tpu_run_space_to_batch": False,
    "xla_tpu_run_space_to_batch_after_spmd": False,
    "xla_tpu_run_space_to_batch_on_new_platforms": False,
}
# Otherwise sums by scattering, as in the gradients of a deformable convolution, run in any order.
_DETERMINISTIC: Options = {"xla_gpu_deterministic_ops": True}
# For programs that run once or a few times: optimizing them takes longer than it saves.
_QUICK: Options = {"xla_backend_optimization_level": "0"}


def compiler_options(mesh: Mesh, compiler: config.Compiler) -> Options | None:
    """Returns the options for a program that runs on the devices of a mesh. None: there are no options.

    Args:
      mesh: from `make_mesh`.
      compiler: from the config. Its options override those of this module.

    Raises:
      UserError: XLA does not accept an option of the config, or its value.
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
    """Returns the options for a program that runs once or a few times. None: there are no options."""
    return _QUICK if platform == "cpu" else None


def _value(text: str) -> str | bool:
    return {"true": True, "false": False}.get(text.lower(), text)
