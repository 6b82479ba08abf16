"""The config of an experiment: frozen dataclasses, whose fields `override` changes.

The type of a field, with its range, says which values it may have. Every new object is checked against it.
The comment of a field, at the end of its line or above it, is its text in the documentation.
"""

import dataclasses
import re
from typing import Annotated, Literal

from gfl_jax.axes.assigner import Assigner
from gfl_jax.axes.box_representation import BoxRepresentation
from gfl_jax.axes.classification import ClassificationLoss
from gfl_jax.axes.quality import Quality
from gfl_jax.configuration.fields import Count, Natural, NotNegative, Positive, Range, Share, check_fields
from gfl_jax.errors import UserError

Channels = Annotated[int, Range(least=1, most=2**16)]
BatchSize = Annotated[int, Range(least=1, most=2**16)]
Pixels = Annotated[int, Range(least=1, most=2**15)]  # the length of a side after resizing
Seed = Annotated[int, Range(least=0, most=2**32 - 1)]
Stage = Annotated[int, Range(least=1, most=8)]
Scale = Annotated[float, Range(least=0.01, most=100)]
Color = Annotated[float, Range(least=-1e3, most=1e3)]


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A residual network. Stage k, counted from 1, has `stage_sizes[k - 1]` blocks and stride 2 * 2^k."""

    # Residual block: two 3x3 convolutions (basic), or 1x1, 3x3 and 1x1 (bottleneck)
    block: Literal["basic", "bottleneck"] = "bottleneck"
    stage_sizes: tuple[Annotated[int, Range(least=1, most=100)], ...] = (3, 4, 6, 3)  # Blocks of each stage
    # Width of each stage in channels; a stage of bottleneck blocks outputs four times as many
    widths: tuple[Channels, ...] = (64, 128, 256, 512)
    # First layers: a 7x7 convolution with stride 2 and max pooling (conv7), or 4x4 space-to-depth and a 3x3
    # convolution (patch4)
    stem: Literal["conv7", "patch4"] = "conv7"
    # Which convolution of a bottleneck block has its stride: the 3x3 (pytorch) or the first 1x1 (caffe)
    style: Literal["pytorch", "caffe"] = "pytorch"
    # Statistics of the batch norms in training: the running ones, unchanged (frozen), or the batch's (batch)
    norm: Literal["frozen", "batch"] = "frozen"
    train_norm: bool = True  # Whether the scales and biases of the batch norms are trained
    # Which stages stay untrained: none (0), the stem and stage 1 (1), stage 2 as well (2), and so on
    frozen_stages: Annotated[int, Range(least=0, most=8)] = 1
    groups: Channels = 1  # ResNeXt: groups of the 3x3 convolution of a bottleneck block; ResNet has 1
    # ResNeXt: channels of each group in a stage of width 64; 32x4d means 32 groups of 4 channels
    group_width: Channels = 64
    # Stages whose bottleneck blocks have deformable 3x3 convolutions; C3 is stage 2
    deform_stages: tuple[Stage, ...] = ()
    deform_version: Literal[1, 2] = 1  # Version of the deformable convolutions; 2 adds a mask
    # Groups of channels in a deformable convolution; the channels of a group share their offsets
    deform_groups: Channels = 1

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Pyramid:
    """The feature pyramid network (FPN) on the last `num_laterals` backbone stages."""

    channels: Channels = 256  # Channels of each level
    num_laterals: Stage = 3  # Backbone stages that the pyramid uses, counted from the last one
    # Levels of the pyramid; those beyond the laterals come from stride-2 convolutions on the level before
    num_levels: Annotated[int, Range(least=1, most=16)] = 5
    # Whether a ReLU comes before the stride-2 convolution of each additional level but the first
    relu_on_top: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Head:
    """The dense head: two towers of convolutions with group norm, shared by all levels."""

    channels: Channels = 256  # Channels of the convolutions in the towers
    num_convs: Annotated[int, Range(least=0, most=100)] = 4  # Convolutions in each tower
    num_groups: Channels = 32  # Groups of the group norms
    tower_bias: bool = False  # Whether the tower convolutions have a bias, although a norm follows them
    quality_tower: Literal["box", "class"] = "box"  # Tower that the quality branch, if any, starts from

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Detector:
    """A detector: a point on four axes (assigner, quality, classification loss, box), and its network."""

    num_classes: Annotated[int, Range(least=1, most=10**5)] = 80  # Number of object classes
    strides: tuple[Pixels, ...] = (8, 16, 32, 64, 128)  # Stride of each pyramid level, in pixels
    assigner: Assigner = Assigner()  # Which locations are positive, and for which box
    # How localization quality is predicted: merged into the class score (joint), the same and also read from
    # the distributions of the box sides (distribution, GFLv2), by a branch (centerness, iou), or not (none)
    quality: Quality = "joint"
    classification: ClassificationLoss = ClassificationLoss()  # Loss on the class scores
    box: BoxRepresentation = BoxRepresentation()  # What the head predicts for a box side, and its losses
    backbone: Backbone = Backbone()  # Network that computes features from images
    pyramid: Pyramid = Pyramid()  # Network that combines backbone features into levels
    head: Head = Head()  # Network that predicts classes, boxes and quality on each level

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Localization distillation (LD, Zheng et al. 2022): positives also learn box sides from a teacher."""

    # Teacher: a work directory of `train`, or the name of published weights; empty: no distillation
    teacher: str = ""
    temperature: Positive = 10.0  # Divisor of the logits of teacher and student before the softmax
    weight: NotNegative = 0.25  # Weight of the distillation loss

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How pixels become network inputs, on the device: (value - mean) / std for each channel."""

    # Mean of each channel, on the scale 0 to 255, in the order of `channel_order`
    mean: tuple[Color, Color, Color] = (123.675, 116.28, 103.53)
    # Standard deviation of each channel, on the scale 0 to 255, in the order of `channel_order`
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    channel_order: Literal["rgb", "bgr"] = "rgb"  # Order of the channels of the network input

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resize that keeps the aspect ratio.

    The short side gets a given length, or less where the long side would otherwise exceed `long_side`.
    """

    # Short side in evaluation and prediction, in pixels; None: images keep their size, in training too
    short_side: Pixels | None = 800
    long_side: Pixels = 1333  # Upper limit of the long side, in pixels
    # Smallest and largest short side in training, in pixels; drawn uniformly, both included.
    # None: `short_side`
    train_short_sides: tuple[Pixels, Pixels] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)

    @property
    def short_sides_in_training(self) -> tuple[int, int] | tuple[None, None]:
        """The range from which training draws the short side; (None, None) if images keep their size."""
        if self.short_side is None:
            return None, None
        return self.train_short_sides or (self.short_side, self.short_side)


@dataclasses.dataclass(frozen=True)
class Crops:
    """Random crops and colors for small data sets. In training they replace the resize."""

    size: Pixels = 256  # Side of the square crop, in pixels
    scale: tuple[Scale, Scale] = (0.75, 1.35)  # Range of the scale of the image; drawn log-uniformly
    quarter_turns: bool = True  # Whether crops are turned by a random multiple of 90 degrees
    color_jitter: Share = 0.2  # Strength of random changes of brightness, contrast, saturation and tint
    stripes: Share = 0.0  # Probability that stripes of one color are painted on a crop, behind the boxes
    min_visible: Share = 0.4  # Boxes with a smaller share of their area inside the crop are dropped

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Where images and annotations come from: a tfds directory, or COCO JSON files with image folders."""

    tfds_dir: str = ""  # Directory .../NAME/VERSION that tfds prepared in the array_record format
    train_split: str = "train"  # Split of tfds_dir for training
    eval_split: str = "validation"  # Split of tfds_dir for evaluation; empty: no evaluation
    train_json: str = ""  # COCO JSON file with the annotations for training
    train_images: str = ""  # Folder of the images of train_json
    # COCO JSON file with the annotations for evaluation; with tfds_dir it is optional: the original JSON file
    # of eval_split, for the official AP. Without tfds_dir, eval_json and holdout there is no evaluation.
    eval_json: str = ""
    eval_images: str = ""  # Folder of the images of eval_json; not needed with tfds_dir
    # Share of the images of train_json that is kept from training for evaluation; it has an effect only if
    # tfds_dir, eval_json and eval_images are empty
    holdout: Annotated[float, Range(least=0, below=1)] = 0.0
    repeats: Annotated[int, Range(least=1, most=10**5)] = 1  # Times that an epoch shows each training image
    # Whether training leaves out images without any annotation, as mmdetection does on COCO; crowds count as
    # annotations
    filter_empty: bool = False
    min_size: Natural = 0  # Training leaves out images with a side of fewer pixels
    # How boxes were drawn on images with an EXIF orientation: on the displayed image (display) or on the raw
    # pixels (raw). auto: as the image sizes in the annotations show, and display where both ways fit.
    orientation: Literal["auto", "display", "raw"] = "auto"

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Loader:
    """How examples become batches of few shapes."""

    batch_size: BatchSize = 16  # Images in a training batch, over all devices and hosts
    # Images in an evaluation batch, over all devices and hosts; rounded up to a multiple of the number of
    # devices
    eval_batch_size: BatchSize = 8
    # (height, width) of the padded batches, in pixels; None: a few shapes, chosen from the image sizes.
    # Images that fit in no bucket get canvases of their own.
    buckets: tuple[tuple[Pixels, Pixels], ...] | None = None
    flip: bool = True  # Whether each training image is mirrored left to right with probability 1/2
    # Grain worker processes of each process of the run; 0: a thread reads. None: the number of cores that the
    # process may use, minus 1, but from 1 to 16. The content of batches does not depend on it.
    workers: Annotated[int, Range(least=0, most=1000)] | None = None
    # Whether each worker keeps the decoded training images in memory; an error if they need too much of it
    cache_images: bool = False
    # Whether workers deliver images in blocks of 8x4 pixels, which TPUs read faster; None: only on TPUs. This
    # affects results only by rounding.
    blocks: bool | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How a run is spread over `data` times `fsdp` devices. This affects results only by rounding."""

    data: Count | None = None  # Replicas of the training state; None: the number of devices divided by `fsdp`
    fsdp: Count = 1  # Devices over which the parameters and the optimizer state of a replica are divided

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """SGD with momentum, or AdamW."""

    kind: Literal["sgd", "adamw"] = "sgd"  # Update rule
    learning_rate: Positive = 0.01  # Learning rate for a global batch of `reference_batch_size` images
    # Batch size that `learning_rate` is for; the rate is proportional to the actual batch size. None: it does
    # not depend on the batch size.
    reference_batch_size: Count | None = 16
    momentum: Annotated[float, Range(least=0, below=1)] = 0.9  # Momentum of SGD, or beta1 of AdamW
    weight_decay: NotNegative = 1e-4  # Weight decay; AdamW applies it only to arrays of two or more axes
    clip_norm: Positive | None = None  # Upper limit of the global gradient norm; None: no clipping
    bias_rate: NotNegative = 1.0  # SGD: factor on the learning rate of the biases of convolutions
    decay_biases: bool = True  # SGD: whether weight decay applies to the biases of convolutions
    # Micro-batches that a step computes one after the other; more need less memory for the same global batch
    accumulate: Count = 1
    # Decay of a moving average of the parameters. The average is then evaluated and kept as `best`. None: no
    # moving average.
    ema_decay: Annotated[float, Range(least=0, below=1)] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long to train, and how the learning rate changes."""

    epochs: Count = 12  # Length of the run in epochs, if `steps` is None
    steps: Count | None = None  # Length of the run in steps; None: `epochs` gives the length
    warmup_steps: Natural = 500  # Steps of the linear warm-up; 0: no warm-up
    warmup_factor: Share = 0.001  # Factor on the learning rate at the start of the warm-up
    # How the learning rate decays: in drops at `milestones` (steps), or along half a cosine to zero (cosine)
    decay: Literal["steps", "cosine"] = "steps"
    # decay=steps: when the learning rate drops, as shares of the length of the run
    milestones: tuple[Share, ...] = (8 / 12, 11 / 12)
    decay_factor: Share = 0.1  # decay=steps: factor on the learning rate at each milestone

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Inference:
    """How head outputs become detections."""

    score_threshold: Share = 0.05  # Candidates need a class score above this
    # Candidates with the best class scores that are kept on each level, before suppression
    candidates_per_level: Annotated[int, Range(least=1, most=10**6)] = 1000
    iou_threshold: Share = 0.6  # Boxes whose IoU with a kept box of their class is above this are suppressed
    max_detections: Annotated[int, Range(least=1, most=10**5)] = 100  # Most detections in an image
    # sigma_t of variance voting, in which a kept box becomes the mean of its neighbors, weighted by overlap
    # (exp(-(1 - IoU)^2 / sigma_t)) and by the inverse variance of each side; None: no voting
    voting_sigma_t: Positive | None = None
    # Multi-scale testing in `evaluate`, `predict` and the evaluations of `train`: the scales at which each
    # image is shown, relative to its size after `resize`. The candidates of all views go through one
    # suppression.
    test_scales: tuple[Scale, ...] = (1.0,)
    test_flip: bool = False  # Whether testing also shows each image mirrored left to right, at each scale

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Compiler:
    """Options of XLA, in addition to those in `parallel/compiler_options.py`."""

    # On GPUs: sums in a fixed order, so a run that was killed and resumed ends bit-identically; slower. CPUs
    # and TPUs always sum in a fixed order.
    deterministic: bool = False
    options: tuple[str, ...] = ()  # Options of XLA as NAME=VALUE, such as xla_gpu_enable_triton_gemm=false

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)
        for option in self.options:
            if not re.fullmatch(r"\w+=\S+", option):
                raise UserError(f"config.compiler.options: {option!r}: must be NAME=VALUE, an option of XLA")


@dataclasses.dataclass(frozen=True)
class Run:
    """What happens between training steps: logs, checkpoints and evaluations."""

    log_every: Count = 50  # Steps between log entries
    checkpoint_every: Count = 1000  # Steps between checkpoints; evaluations and the end write one as well
    evaluate_every: Count | None = None  # Steps between evaluations; None: one after each epoch
    # An evaluation draws images and curves if its step is a multiple of this; None: every evaluation does
    pictures_every: Count | None = None
    # Number of latest checkpoints that are kept; the one with the best AP is kept as well
    keep_checkpoints: Annotated[int, Range(least=1, most=10**6)] = 3

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment."""

    name: str  # Name of the experiment
    seed: Seed = 0  # Seed of everything random: initial weights, order of images and augmentations
    # Type of the network's arithmetic; parameters and losses are in float32. fp32 and bf16 are short names.
    # Accelerators multiply float32 in TF32 or bfloat16 unless JAX_DEFAULT_MATMUL_PRECISION=highest is set.
    # float64, for comparisons, needs the environment variable JAX_ENABLE_X64=1 and applies to everything.
    precision: Literal["float32", "bfloat16", "float64", "fp32", "bf16"] = "float32"
    # Weights to start from: a work directory or checkpoint, a file of weights, or a name that
    # `main.py models` lists; empty: random weights
    init_from: str = ""
    detector: Detector = Detector()  # Network, targets and losses
    distillation: Distillation = Distillation()  # What the detector learns from a teacher
    normalization: Normalization = Normalization()  # How pixels become network inputs
    resize: Resize = Resize()  # How images are resized
    crops: Crops | None = None  # Random crops in training; None: images are resized as `resize` says
    dataset: Dataset = Dataset()  # Where images and annotations come from
    loader: Loader = Loader()  # How examples become batches
    mesh: Mesh = Mesh()  # How the run is spread over devices
    compiler: Compiler = Compiler()  # Options of XLA
    optimizer: Optimizer = Optimizer()  # How gradients update the parameters
    schedule: Schedule = Schedule()  # How long to train, and how the learning rate changes
    inference: Inference = Inference()  # How head outputs become detections
    run: Run = Run()  # When the run logs, saves and evaluates

    def __post_init__(self) -> None:
        """Replaces a short name of the precision by its full name, so both make the same config."""
        names = {"fp32": "float32", "bf16": "bfloat16"}
        check_fields(self)
        object.__setattr__(self, "precision", names.get(self.precision, self.precision))
