"""What an experiment is made of: frozen dataclasses, whose fields `override` changes.

The type of each field says what it may be, its range included, and is checked whenever one is made.
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
Pixels = Annotated[int, Range(least=1, most=2**15)]  # of a side, after resizing
Seed = Annotated[int, Range(least=0, most=2**32 - 1)]
Stage = Annotated[int, Range(least=1, most=8)]
Scale = Annotated[float, Range(least=0.01, most=100)]
Color = Annotated[float, Range(least=-1e3, most=1e3)]


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A residual network. Stage k, from 1 on, has `stage_sizes[k - 1]` blocks and output stride 2 * 2^k."""

    block: Literal["basic", "bottleneck"] = "bottleneck"
    stage_sizes: tuple[Annotated[int, Range(least=1, most=100)], ...] = (3, 4, 6, 3)
    widths: tuple[Channels, ...] = (64, 128, 256, 512)  # bottlenecks put out four times as many
    stem: Literal["conv7", "patch4"] = "conv7"  # 7x7 and max pooling, or 4x4 space-to-depth
    style: Literal["pytorch", "caffe"] = "pytorch"  # a bottleneck's stride: in its 3x3 or 1x1
    norm: Literal["frozen", "batch"] = "frozen"  # running statistics, or those of the batch
    train_norm: bool = True  # whether the norms' scales and biases are trained
    frozen_stages: Annotated[int, Range(least=0, most=8)] = (
        1  # 0: nothing, 1: stem and first stage, 2: the second as well, ...
    )
    groups: Channels = 1  # ResNeXt: of a bottleneck's 3x3 convolution
    group_width: Channels = 64  # ResNeXt: channels of each group in the first stage; 32x4d is 32 groups of 4
    deform_stages: tuple[Stage, ...] = ()  # whose bottlenecks' 3x3 convolutions are deformable; C3 is stage 2
    deform_version: Literal[1, 2] = 1  # 2 has a mask
    deform_groups: Channels = 1  # of channels with the same offsets

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Pyramid:
    """The feature pyramid network (FPN) on the last `num_laterals` backbone stages."""

    channels: Channels = 256
    num_laterals: Stage = 3
    num_levels: Annotated[int, Range(least=1, most=16)] = (
        5  # more levels than laterals: stride-2 convolutions on the last one
    )
    relu_on_top: bool = False  # before each of them but the first

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Head:
    """The dense head: two towers of convolutions with group norm, shared by all levels."""

    channels: Channels = 256
    num_convs: Annotated[int, Range(least=0, most=100)] = 4
    num_groups: Channels = 32
    tower_bias: bool = False  # a bias in the towers' convolutions, although a norm follows
    quality_tower: Literal["box", "class"] = "box"  # where a quality branch starts

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Detector:
    """A point of the grid: assigner x quality x classification loss x box representation."""

    num_classes: Annotated[int, Range(least=1, most=10**5)] = 80
    strides: tuple[Pixels, ...] = (8, 16, 32, 64, 128)
    assigner: Assigner = Assigner()
    quality: Quality = "joint"
    classification: ClassificationLoss = ClassificationLoss()
    box: BoxRepresentation = BoxRepresentation()
    backbone: Backbone = Backbone()
    pyramid: Pyramid = Pyramid()
    head: Head = Head()

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Localization distillation (LD, Zheng et al. 2022): positives learn box sides from a teacher too."""

    teacher: str = ""  # a work directory of `train`, or published weights by name; empty: there is none
    temperature: Positive = 10.0
    weight: NotNegative = 0.25

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Pixels to network inputs, on the device: (value - mean) / std, channels as stated."""

    mean: tuple[Color, Color, Color] = (123.675, 116.28, 103.53)
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    channel_order: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Resize:
    """Keep-ratio resize: the short side to `short_side`, the long one to at most `long_side`.

    In training the short side is drawn evenly from `train_short_sides` (both included).
    """

    short_side: Pixels | None = 800  # None: pictures keep their size, in training too
    long_side: Pixels = 1333
    train_short_sides: tuple[Pixels, Pixels] = (800, 800)

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Crops:
    """Random crops and colours for small data sets, in place of the keep-ratio resize."""

    size: Pixels = 256  # side of the square crop, in pixels
    scale: tuple[Scale, Scale] = (0.75, 1.35)  # drawn log-evenly
    quarter_turns: bool = True
    color_jitter: Share = 0.2  # strength of brightness, contrast and saturation changes
    stripes: Share = 0.0  # chance of a crop with flat stripes painted behind the boxes
    min_visible: Share = 0.4  # boxes with less of their area inside the crop are dropped

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Where examples come from: a tfds directory, or a COCO JSON with its image folder."""

    tfds_dir: str = ""  # .../NAME/VERSION, prepared as array_record
    train_split: str = "train"
    eval_split: str = "validation"
    train_json: str = ""
    train_images: str = ""
    eval_json: str = ""  # with tfds_dir: the original JSON, for the official AP
    eval_images: str = ""
    # Without eval_json and eval_images (with tfds_dir: with an empty eval_split) there is no evaluation,
    # unless this share of the images of train_json is kept from training for it.
    holdout: Annotated[float, Range(least=0, below=1)] = 0.0
    repeats: Annotated[int, Range(least=1, most=10**5)] = (
        1  # an epoch shows each training image this many times
    )
    # Of training, as mmdetection leaves them out of COCO: images without any annotation, crowds counted,
    # and those with a side of fewer pixels.
    filter_empty: bool = False
    min_size: Natural = 0
    # How boxes were drawn on images with an EXIF orientation: as they are displayed, or on the raw pixels;
    # auto: as the sizes in the annotations say, and displayed where they fit both.
    orientation: Literal["auto", "display", "raw"] = "auto"

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Loader:
    """How examples become batches of few shapes."""

    batch_size: BatchSize = 16  # global: over all devices and hosts
    eval_batch_size: BatchSize = 8  # likewise; rounded up where the devices do not divide it
    # (height, width) of the padded batches; None: a few, chosen from the sizes of the data. Images that fit
    # in none get canvases of their own.
    buckets: tuple[tuple[Pixels, Pixels], ...] | None = None
    flip: bool = True  # horizontal, for every second example
    # Grain processes of each process of the run; 0 reads in a thread. None: one less than the cores that it
    # may run on, from 1 to 16. What batches hold does not depend on it.
    workers: Annotated[int, Range(least=0, most=1000)] | None = None
    # Each worker keeps the decoded training images in its memory; refused if that is more than there is.
    cache_images: bool = False
    # Whether workers hand over images in blocks of 4x4 pixels, which TPUs read faster, to the same numbers
    # but for rounding; None: on TPUs.
    blocks: bool | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How a run is spread over its devices, `data` times `fsdp` of them; moves no number but by rounding."""

    data: Count | None = None  # None: as many as there are devices for
    fsdp: Count = 1  # over so many devices parameters and optimizer state are divided

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """SGD with momentum, or AdamW."""

    kind: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.01  # for a global batch of `reference_batch_size`
    reference_batch_size: Count | None = 16  # None: do not scale with the batch
    momentum: Annotated[float, Range(least=0, below=1)] = 0.9
    weight_decay: NotNegative = 1e-4
    clip_norm: Positive | None = None  # of the global gradient norm
    bias_rate: NotNegative = 1.0  # sgd: factor of the learning rate of convolutions' biases
    decay_biases: bool = True  # sgd: whether these decay too
    accumulate: Count = 1  # micro-batches of a step, one after the other: less memory, the same global batch
    # Of a moving average of the parameters, which is then evaluated and kept as `best`; None: there is none.
    ema_decay: Annotated[float, Range(least=0, below=1)] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long to train, and the learning rate on the way."""

    epochs: Count = 12
    steps: Count | None = None  # if given, the length of the run instead of `epochs`
    warmup_steps: Natural = 500
    warmup_factor: Share = 0.001  # of the learning rate, at step 0
    decay: Literal["steps", "cosine"] = "steps"
    milestones: tuple[Share, ...] = (8 / 12, 11 / 12)  # shares of the run
    decay_factor: Share = 0.1  # at each milestone

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Inference:
    """From head outputs to detections."""

    score_threshold: Share = 0.05
    candidates_per_level: Annotated[int, Range(least=1, most=10**6)] = 1000
    iou_threshold: Share = 0.6
    max_detections: Annotated[int, Range(least=1, most=10**5)] = 100
    # Variance voting: a kept box becomes the mean of its neighbors, weighted by their overlap
    # (exp(-(1 - IoU)^2 / sigma_t)) and by the inverse variance of each of their sides. None: off.
    voting_sigma_t: Positive | None = None
    # Multi-scale testing, in `evaluate`, `predict` and the evaluations of `train`: a picture is seen in
    # all of these scales of its size after `resize`, and mirrored in each if `test_flip`; the candidates
    # of all views go through one suppression.
    test_scales: tuple[Scale, ...] = (1.0,)
    test_flip: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Compiler:
    """What XLA is asked for beside what `parallel/compiler_options.py` asks of it."""

    # On GPUs the same sums in the same order, so that a run that was killed ends with the same bits; slower.
    # CPUs and TPUs do so anyway.
    deterministic: bool = False
    options: tuple[str, ...] = ()  # XLA's own, such as xla_gpu_enable_triton_gemm=false

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)
        for option in self.options:
            if not re.fullmatch(r"\w+=\S+", option):
                raise UserError(f"config.compiler.options: {option!r}: must be NAME=VALUE, an option of XLA")


@dataclasses.dataclass(frozen=True)
class Run:
    """What happens around the training steps."""

    log_every: Count = 50  # steps
    checkpoint_every: Count = 1000
    evaluate_every: Count | None = None  # steps; None: after each epoch
    pictures_every: Count | None = None  # steps; of these, the ones with an evaluation; None: all
    keep_checkpoints: Annotated[int, Range(least=1, most=10**6)] = 3  # the best by AP is kept beside them

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment."""

    name: str
    seed: Seed = 0
    # Of the network's arithmetic; parameters and losses are in float32. fp32 and bf16 are other words.
    # Accelerators multiply float32 in TF32 or bfloat16 unless JAX_DEFAULT_MATMUL_PRECISION=highest is set.
    # float64, for comparisons, needs the environment variable JAX_ENABLE_X64=1, and then holds for all.
    precision: Literal["float32", "bfloat16", "float64", "fp32", "bf16"] = "float32"
    init_from: str = ""  # what to start from: a checkpoint, a file of weights, or a name of `models`
    detector: Detector = Detector()
    distillation: Distillation = Distillation()
    normalization: Normalization = Normalization()
    resize: Resize = Resize()
    crops: Crops | None = None
    dataset: Dataset = Dataset()
    loader: Loader = Loader()
    mesh: Mesh = Mesh()
    compiler: Compiler = Compiler()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    inference: Inference = Inference()
    run: Run = Run()

    def __post_init__(self) -> None:
        """Gives the precision its one name, so that the other words for it make no other config."""
        names = {"fp32": "float32", "bf16": "bfloat16"}
        check_fields(self)
        object.__setattr__(self, "precision", names.get(self.precision, self.precision))
