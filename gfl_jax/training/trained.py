"""A trained detector: what a run has made, or published weights by their name."""

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
    """All that one needs to detect with it."""

    name: str
    config: Config
    variables: Any  # of the network: {"params": ..., "batch_stats": ...}; None: it is not trained
    classes: Categories | None  # None: nothing names them

    def on(self, mesh: Mesh) -> tuple[Any, DetectInViews]:
        """Its variables, whole on each device of a mesh, and the compiled function that takes them."""
        model = build_detector(self.config.detector, self.config.precision)
        detect = make_detect_in_views(
            model, self.config.normalization, self.config.inference, mesh, self.config.compiler
        )
        return put_everywhere(self.variables, mesh), detect

    def named_classes(self) -> Categories:
        """Its classes.

        Raises:
          UserError: nothing names them.
        """
        if self.classes is None:
            raise UserError(f"{self.name}: has no categories.json; name a work directory of `train`")
        return self.classes


def trained_config(name: str) -> Config:
    """The config of a trained detector.

    Args:
      name: of published weights, or of a work directory of `train`.

    Raises:
      UserError: it is neither.
    """
    if published_classes(name):
        return load_config(name)
    file = as_path(name) / "config.json"
    if not file.is_file():
        raise UserError(
            f"{name}: is neither a work directory of `train` nor a published detector; "
            "`main.py models` lists these"
        )
    return config_from_json(file)


def load_run(workdir: Path, config: Config, checkpoint: Path | None = None) -> Trained:
    """The detector of a run.

    Args:
      workdir: of the run.
      config: of the run.
      checkpoint: None: the best one, or else the latest.

    Raises:
      UserError: there is no checkpoint, or it or its classes cannot be read.
    """
    place = checkpoint or workdir
    classes = read_categories(place) if has_categories(place) else None
    return Trained(str(place), config, load_variables(place), classes)


def load_published(name: str, config: Config) -> Trained:
    """A detector of `published.DETECTORS`, fetched if need be.

    Args:
      name: of the weights.
      config: of the detector, such as `config_files.load_config(name)`.

    Raises:
      UserError: there is no such name, the file cannot be fetched, or an entry of it does not fit the
        config.
    """
    file = fetch_published(name)
    matched = read_matched(file, detector_shapes(config.detector), config.detector)
    if matched.differences:
        raise UserError(
            f"{file}: {len(matched.differences)} entries do not fit config {config.name}, such as "
            f"{matched.differences[0].name}; leave the detector of {name} as it is"
        )
    return Trained(name, config, unflatten_dict(matched.arrays, sep="/"), DETECTORS[name].classes)


def load_trained(name: str, config: Config) -> Trained:
    """The detector of a name that `trained_config` takes.

    Raises:
      UserError: see `load_published` and `load_run`.
    """
    return load_published(name, config) if published_classes(name) else load_run(as_path(name), config)
