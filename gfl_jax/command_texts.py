"""What `--help` says of each command: its first line is also in the list of commands."""

CONFIG_HELP = """\
Fields of the config are changed with dots: --config.optimizer.learning_rate=0.02
--config.loader.batch_size=32 --config.crops=None. gfl_jax/config.py (and gfl_jax/axes/ for the
four axes of a detector) lists them with their meaning; configs/ holds the experiments."""

PROCESSES = """\
A run on several hosts is this command on each of them. Under Slurm (srun), Open MPI and on TPUs of GKE the
processes find one another. Elsewhere, as in other Jobs of Kubernetes, each gets the first three of these,
or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. If one is lost, the others name it and
end with status 3; the same commands go on from the last checkpoint. If one meets bad input, all end with
its line and status 2."""

TRAIN = """\
Trains a detector, and goes on where it stopped if the work directory holds checkpoints.
Ctrl-C and SIGTERM save the state and stop, with exit status 130 and 143, in all processes of the run at
the same step (then always with 143); the same command goes on, to the same bits. An evaluation stops
after its batch, and begins again at the next start.

  python main.py train --config=gfl_r50_fpn_1x_coco --workdir=runs/gfl_r50

The work directory may be in a bucket (gs://BUCKET/...), as data, weights and outputs may be. It gets
config.json, categories.json (the classes), data.npz (what the data were), lease.json (which run writes
here), checkpoints/ (the last ones), best/ (the best by AP), metrics.jsonl, tensorboard/ and pictures/. A
run goes on with the same data wherever they lie and in whatever order they are listed; other data are
refused with what differs. Data, boxes, classes and settings are checked before the first step, and a
checkpoint is saved before each evaluation.

The log says which share of the time the device was idle for want of a batch ("input 3%"), and
metrics.jsonl and TensorBoard how the time since the row before divides: time/input, time/step,
time/checkpoint, time/evaluation. --profile=20:25 writes a trace of the steps 20 to 24 into
profile/, for TensorBoard (with the package xprof) and for ui.perfetto.dev."""

MODELS = """\
Lists published weights: detectors of COCO for --model of `predict`, `evaluate`, `export` and `analyze`,
and, as backbones trained on ImageNet too, for --config.init_from of `train`.

  python main.py models
  python main.py predict --model=gfl_r50_fpn_1x_coco street.jpg
  python main.py train --config=my_config.py --workdir=runs/mine --config.init_from=gfl_r50_fpn_1x_coco

They are fetched once, checked, and kept in $GFL_JAX_CACHE (else in ~/.cache/gfl_jax), and can be used
without a network from then on."""

EVALUATE = """\
Computes the COCO metrics of a trained detector on its evaluation split.

  python main.py evaluate --workdir=runs/gfl_r50
  python main.py evaluate --workdir=runs/gfl_trees --config.dataset.eval_split=far
  python main.py evaluate --workdir=runs/gfl_r50 \\
      --config.inference.test_scales="(0.8,1.0,1.25)" --config.inference.test_flip=True

Prints the twelve numbers and the AP of each class, and writes the detections as a COCO
results JSON. Without --config, the config is the one that the work directory holds.

Classes are matched by name, in whatever order the data list them. Classes that the data or the detector do
not have are told and do not count. Data without annotations, such as COCO's image_info_test-dev2017.json,
give results.json for the server, and no metrics."""

PREDICT = """\
Detects in images and videos: draws the boxes and writes them as a COCO results JSON.

  python main.py predict --workdir=runs/gfl_trees photo1.jpg photo2.png --output=predictions
  python main.py predict --workdir=runs/gfl_trees photos 'day*/*.jpg' clip.mp4 --output=predictions

A folder stands for all images and videos in it and below it, hidden ones left out. Drawn images are PNG
files, drawn videos MP4 files. They keep the folders below the one that all inputs have in common, and
their names; where two would get one name, the old ending stays (a.jpg.png). Nothing takes the place of an
input, or of a file that is not of an earlier `predict`.

results.json has all detections, whatever their score. In each, file_name is the path below the folder
that all inputs have in common, and image_id the number in the file name, if each input is an image named
by a number of its own (0001.jpg); otherwise all images and frames are counted from 1. A detection in a
video has the number of its frame too, from 0 on.

An input that cannot be used is named at the end, and all others are done: then the exit status is 1, or 2
if no input could be used."""

ANALYZE = """\
Looks into trained detectors on their evaluation split: three figures, each with a table and a CSV.

  python main.py analyze --workdir=runs/gfl_trees
  python main.py analyze --workdir=runs/gfl runs/atss --only correlation
  python main.py analyze --workdir=runs/gfl_trees --only distributions --boxes 0 17
  python main.py analyze --config=configs/gfl_trees.py --only labels

correlation: predicted against actual IoU, over positives and detections, with Pearson's r.
labels: IoU and centerness of the positives, and the best ones of each true box; without a
work directory centerness alone.
distributions: of the sides of chosen boxes, beside the picture (detectors with general boxes)."""

EXPORT = """\
Writes a trained detector into one file that runs with jax alone, on several platforms.

  python main.py export --workdir=runs/gfl_trees --output=gfl_trees.jaxexport
  python main.py export --workdir=runs/gfl_r50 --output=gfl.jaxexport --height=800 --width=1344 --batch=1

It takes uint8 pictures on a canvas of this size with their heights and widths, and gives boxes,
scores, labels and a mask. FILE.json beside it has the names of the classes and the resize.
Test scales and flips are not exported."""

VERIFY = """\
Recomputes figures of an independent PyTorch implementation (mmdetection) on this machine:
features, outputs, targets, losses, gradients, detections and a few steps of training.
Exit status 1 if any deviates by more than its tolerance.

  python main.py verify --dtype=float64
  python main.py verify --dtype=float64 --detector=all
  python main.py verify --reference=FILE.npz --config=configs/gfl_r50_fpn_1x_coco.py"""

COMPILE = """\
Compiles the train step and the inference for chips that need not be there, and says what they cost:
memory per chip by kind, FLOPs, what is sent between chips, and whether it fits. No weights are made.
Exit status 1 if it does not fit.

  python main.py compile --config=configs/gfl_r50_fpn_1x_coco.py --config.precision=bfloat16 \\
      --topology=v5e:4x4 --batch=4 --json=report.json
  python main.py compile --config=configs/gfl_trees.py --find-batch --only=train

TPU slices (v5e, v5p, v6e) are compiled for by libtpu, without a TPU: pip install "libtpu==0.0.42.*".
A train step of GFL-R50 at 800x1344 takes three to five minutes on 2 cores. What a loop
does is counted once. With several test scales or flips, inference is compiled for a single view, on the
largest canvas."""

COMPARE = """\
Trains and evaluates the rows of a table of the paper, each with several seeds, and prints the
table with mean and spread, beside the paper's figures. The same command goes on where it stopped.

  python main.py compare --table=1 --dataset=trees --seeds=3
  python main.py compare --table=boxes --dataset=trees --rows general,general_dfl

The tables are the files configs/table_*.py. The work directory gets a run for each row and seed,
and the table as table.md, table.txt and results.csv."""
