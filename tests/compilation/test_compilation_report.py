"""Reports about programs of known sizes, and the command that prints them."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gfl_jax import config
from gfl_jax.command_line.main import main
from gfl_jax.compilation import programs, topology
from gfl_jax.compilation.measures import TooLarge, compile_and_measure
from gfl_jax.compilation.report import make_report, to_fields
from gfl_jax.compilation.report_tables import verdict
from gfl_jax.data.buckets import parse_canvas
from gfl_jax.errors import UserError
from gfl_jax.models.network import build_detector
from gfl_jax.parallel.mesh import make_mesh
from gfl_jax.training.optimizer import make_optimizer
from gfl_jax.training.state import state_shapes


def size_of(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_memory_of_a_chip(report, experiment):
    training, inference = report.parts
    state = state_shapes(
        build_detector(experiment.detector),
        make_optimizer(experiment.optimizer, lambda _: 0.0, experiment.detector.backbone),
    )
    batch_row = size_of(programs.abstract_batch(make_mesh(), (64, 96), 8)) // 8
    assert training.result.memory.arguments == pytest.approx(size_of(state) + batch_row, rel=0.01)
    assert training.result.memory.aliased == size_of(state)  # the new state reuses the memory of the old one
    assert training.result.memory.temporaries > batch_row
    # Inference needs no boxes.
    pixels = 2 * 64 * 96 * 3
    assert inference.result.memory.arguments == pytest.approx(size_of(state.variables) + pixels, rel=0.01)


def test_parts_and_their_compilations(report):
    assert [(p.part, p.canvas, p.images_per_chip, p.compilations) for p in report.parts] == [
        ("train", (64, 96), 1, 2),
        ("inference", (64, 96), 2, 2),
    ]
    assert report.fits


def test_a_config_without_shapes_is_an_error_before_anything_is_compiled(experiment, local):
    """Training on crops has a shape; inference on whole images has none without the data."""
    crops = dataclasses.replace(
        experiment,
        crops=config.Crops(size=64),
        loader=dataclasses.replace(experiment.loader, buckets=None),
        resize=config.Resize(short_side=None),
    )
    said = []
    with pytest.raises(UserError, match=r"config\.loader\.buckets=None: .*; give --size"):
        make_report(crops, local, say=said.append)
    assert said == []


def test_a_chip_computes_and_sends_the_same_with_four_devices_and_with_eight(report, experiment, local):
    four = local._replace(devices=local.devices[:4])
    found = make_report(experiment, four, parts=("train",), images_per_chip=1).parts[0].result
    expected = report.parts[0].result
    assert found.flops == pytest.approx(expected.flops, rel=0.01)
    # A few numbers of tolerance: the normalizers of the losses may be summed in other groups.
    assert found.collectives[0].kind == "all-reduce"
    assert found.collectives[0].bytes == pytest.approx(expected.collectives[0].bytes, abs=16)


def test_flops_are_those_of_one_chip():
    mesh = make_mesh()
    rows, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec(("data", "fsdp")), PartitionSpec()))
    a = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=rows)
    b = jax.ShapeDtypeStruct((32, 16), jnp.float32, sharding=whole)
    found = compile_and_measure(jax.jit(lambda a, b: a @ b).lower(a, b))
    assert found.flops == 2 * (64 // 8) * 32 * 16
    assert found.memory.arguments == (64 // 8 * 32 + 32 * 16) * 4
    assert found.memory.outputs == 64 // 8 * 16 * 4


def test_the_largest_batch_that_fits(experiment, local):
    one = make_report(experiment, local, parts=("inference",), images_per_chip=2)
    tight = local._replace(capacity=one.parts[0].result.memory.total)
    said = []
    (found,) = make_report(experiment, tight, parts=("inference",), find_batch=True, say=said.append).parts
    assert found.images_per_chip == 2
    tries = [line for line in said if "fit" in line]
    assert tries == [
        "inference: batch of 1 at 64x96 per chip: fits",
        "inference: batch of 2 at 64x96 per chip: fits",
        "inference: batch of 4 at 64x96 per chip: does not fit",
        "inference: batch of 3 at 64x96 per chip: does not fit",
    ]


def test_a_program_that_the_compiler_refuses(report):
    class Refused:
        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: needs 16.00G of 15.75G\nmore")

    result = compile_and_measure(Refused())
    assert result == TooLarge("RESOURCE_EXHAUSTED: needs 16.00G of 15.75G")
    refused = dataclasses.replace(report, parts=[dataclasses.replace(report.parts[0], result=result)])
    assert not refused.fits
    assert "does not fit: RESOURCE_EXHAUSTED: needs 16.00G of 15.75G" in verdict(refused)
    assert to_fields(refused)["parts"][0]["too_large"] == result.reason


def test_other_errors_of_the_compiler_are_not_hidden():
    class Broken:
        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: broken"):
        compile_and_measure(Broken())


def test_compilations_of_views_and_crops(experiment):
    in_views = dataclasses.replace(
        experiment, inference=config.Inference(test_scales=(1.0, 1.5), test_flip=True)
    )
    # Mirrored views have the shapes of plain ones.
    assert programs.inference_canvases(in_views) == [(64, 64), (64, 96), (96, 96), (96, 160)]
    assert programs.training_canvases(in_views) == [(64, 64), (64, 96)]
    crops = dataclasses.replace(experiment, crops=config.Crops(size=128))
    assert programs.training_canvases(crops) == [(128, 128)]


def test_a_batch_that_the_chips_cannot_share(experiment, local):
    odd = dataclasses.replace(experiment, loader=dataclasses.replace(experiment.loader, batch_size=12))
    with pytest.raises(UserError, match=r"config.loader.batch_size=12: not divisible by the 8 .*--batch=N"):
        make_report(odd, local)


def test_micro_batches_that_do_not_divide_a_chips_share(experiment, local):
    optimizer = dataclasses.replace(experiment.optimizer, accumulate=2)
    with pytest.raises(UserError, match=r"config.optimizer.accumulate=2: does not divide the 3 images"):
        make_report(dataclasses.replace(experiment, optimizer=optimizer), local, images_per_chip=3)


def test_parse_canvas():
    assert parse_canvas("800x1344") == (800, 1344)
    for text in ("800", "800x1333", "0x32", "x", "32x32x3"):
        with pytest.raises(UserError, match=f"--size={text}: must be HEIGHTxWIDTH"):
            parse_canvas(text)


@pytest.fixture
def config_file(tmp_path, experiment):
    path = tmp_path / "small.py"
    path.write_text(f"from gfl_jax.config import *\n\n\ndef get_config():\n    return {experiment!r}\n")
    return path


def test_the_command(config_file, tmp_path, capsys):
    file = tmp_path / "report.json"
    arguments = [f"--config={config_file}", "--only=inference", "--batch=1", f"--json={file}"]
    assert main(["compile", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "memory: temporaries (GiB)" in printed
    assert "inference: batch of 1 at 64x96 per chip: fits, " in printed
    fields = json.loads(file.read_text())
    assert (fields["topology"], fields["chips"], fields["precision"]) == ("local", 8, "float32")
    (part,) = fields["parts"]
    assert part["fits"]
    assert part["compilations"] == 2
    memory = part["memory"]
    assert memory["total"] == sum(memory[kind] for kind in ("arguments", "outputs", "temporaries", "code"))
    assert part["flops"] > 1e6
    assert math.isfinite(part["bytes_accessed"])


def test_the_command_if_nothing_fits(config_file, capsys, local, monkeypatch):
    monkeypatch.setattr(topology, "find_target", lambda name: local._replace(capacity=1e5))
    arguments = [f"--config={config_file}", "--only=inference", "--find-batch"]
    assert main(["compile", *arguments]) == 1
    assert "inference: batch of 1 at 64x96 per chip: does not fit" in capsys.readouterr().out


def test_a_batch_must_be_positive(config_file, capsys):
    assert main(["compile", f"--config={config_file}", "--batch=0"]) == 2
    assert capsys.readouterr().err == "error: --batch=0: must be at least 1\n"
