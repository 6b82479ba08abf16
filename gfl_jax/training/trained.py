"""A trained detector: the result of a run, or published weights by name."""

from typing import Any, NamedTuple

from etils.epath import Path
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from gfl_jax.config import Config
from gfl_jax.configuration.config_files import config_from_json, load_config
from gfl_jax.data.categories import Categories, has_categories, read_categories
from gfl_jax.errors import UserError
from gfl_jax.inference.test_time_augmentation import DetectInViews, make_detect_in_views
from gfl_jax.interop.foreign import detector_shapes, read_matched
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.mesh import put_everywhere
from gfl_jax.paths import as_path
from gfl_jax.pretrained.published import DETECTORS, fetch_published, published_classes
from gfl_jax.training.checkpoint import load_variables


class Trained(NamedTuple):
    """A trained detector, with all that detection needs."""

    name: str
    config: Config
    variables: Any  # of the network: {"params": ..., "batch_stats": ...}; None: not trained
    classes: Categories | None  # None: their names are unknown

    def on(self, mesh: Mesh) -> tuple[Any, DetectInViews]:
        """Returns the variables, whole on each device of a mesh, and the compiled detection function."""
        model = build_detector(self.config.detector, self.config.precision)
        detect = make_detect_in_views(
            model, self.config.normalization, self.config.inference, mesh, self.config.compiler
        )
        return put_everywhere(self.variables, mesh), detect

    def named_classes(self) -> Categories:
        """Returns the classes.

        Raises:
          UserError: their names are unknown.
        """
        if self.classes is None:
            raise UserError(f"{self.name}: has no categories.json; name a work directory of `train`")
        return self.classes


def trained_config(name: str) -> Config:
    """Loads the config of a trained detector.

    Args:
      name: the name of published weights, or a work directory of `train`.

    Raises:
      UserError: the name is neither.
    """
    if published_classes(name):
        return load_config(name)
    file = as_path(name) / "config.json"
    if not file.is_file():
        raise UserError(
            f"{name}: is neither a work directory of `train` nor a published detector, and no such file "
            "exists; check the path, or choose a name that `main.py models` lists"
        )
    return config_from_json(file)


def load_run(workdir: Path, config: Config, checkpoint: Path | None = None) -> Trained:
    """Loads the detector of a run.

    Args:
      workdir: the work directory of the run.
      config: the config of the run.
      checkpoint: the checkpoint to load; None: the best one, else the latest.

    Raises:
      UserError: there is no checkpoint, or it or its classes cannot be read.
    """
    path = checkpoint or workdir
    classes = read_categories(path) if has_categories(path) else None
    return Trained(str(path), config, load_variables(path), classes)


def load_published(name: str, config: Config) -> Trained:
    """Loads a detector of `published.DETECTORS`. Downloads it if needed.

    Args:
      name: the name of the weights.
      config: the config of the detector, such as `config_files.load_config(name)`.

    Raises:
      UserError: there is no such name, the file cannot be downloaded, or an entry of it does not fit the
        config.
    """
    file = fetch_published(name)
    matched = read_matched(file, detector_shapes(config.detector), config.detector)
    if matched.differences:
        raise UserError(
            f"{file}: {len(matched.differences)} entries do not fit config {config.name}, such as "
            f"{matched.differences[0].name}; do not change config.detector of {name}"
        )
    return Trained(name, config, unflatten_dict(matched.arrays, sep="/"), DETECTORS[name].classes)


def load_trained(name: str, config: Config) -> Trained:
    """Loads the detector of a name that `trained_config` accepts.

    Raises:
      UserError: see `load_published` and `load_run`.
    """
    return load_published(name, config) if published_classes(name) else load_run(as_path(name), config)
