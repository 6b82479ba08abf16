"""Cycles by kind and part, in a text with known cycles and in the text of the TPU compiler."""

import re

import pytest

from gfl_jax import config
from gfl_jax.command_line.main import main
from gfl_jax.compilation import programs
from gfl_jax.compilation.cycles import MOVES, cycles_of
from gfl_jax.compilation.program_text import computations_of
from gfl_jax.compilation.topology import find_target, has_libtpu
from gfl_jax.parallel.mesh import make_mesh

NETWORK = "jit(step)/jvp(DetectorNetwork)"


def line(instruction, cycles=None, op_name=None):
    """An instruction with the metadata and the estimate of the TPU compiler."""
    metadata = f', metadata={{op_name="{op_name}"}}' if op_name else ""
    estimate = f', backend_config={{"estimated_cycles":"{cycles}"}}' if cycles else ""
    return f"  {instruction}{metadata}{estimate}"


TEXT = "\n".join(
    [
        "HloModule jit_step",
        "%fused_conv (p: bf16[8,64]) -> bf16[8,64] {",
        line("%p = bf16[8,64]{1,0} parameter(0)"),
        line("ROOT %c = bf16[8,64]{1,0} convolution(%p, %p), window={size=3x3}"),
        "}",
        "%fused_pad (p: bf16[8,64]) -> bf16[9,64] {",
        line("%p.1 = bf16[8,64]{1,0} parameter(0)"),
        line("ROOT %q = bf16[9,64]{1,0} pad(%p.1, %z), padding=1_0x0_0"),
        "}",
        "%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {",
        line("%t = (s32[], f32[8]{0}) parameter(0)"),
        line("%add.9 = f32[8]{0} add(%x, %x)", 5, "jit(step)/losses/add"),
        "}",
        "%condition (t: (s32[], f32[8])) -> pred[] {",
        line("%lt = pred[] compare(%i, %n)", 1),
        "}",
        "ENTRY %main (a: bf16[8,64]) -> f32[8] {",
        line("%a = bf16[8,64]{1,0} parameter(0)"),
        line(
            "%f.1 = bf16[8,64]{1,0} fusion(%a), kind=kOutput, calls=%fused_conv",
            *(1000, f"{NETWORK}/backbone/layer2_0/bn1/conv1/conv"),
        ),
        line("%f.2 = bf16[9,64]{1,0} fusion(%f.1), calls=%fused_pad", 300, f"{NETWORK}/head/pad"),
        line("%g = f32[8]{0} reduce(%f.2, %z), dimensions={1}", 40, f"{NETWORK}/head/box_tower_0_gn/reduce"),
        line("%r = f32[8]{0} all-reduce(%g), replica_groups=[1,8]<=[8], to_apply=%sum", 30),
        line("%s = f32[8]{0} gather(%r, %i)", 20, "jit(step)/losses/targets/gather"),
        line(
            # XLA writes comments between more than five values.
            "%w.1 = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}, s32[], s32[], /*index=5*/s32[]) while(%t0), "
            "condition=%condition, body=%body, "
            'backend_config={"known_trip_count":{"n":"10"}}'
        ),
        line("ROOT %w.2 = (s32[], f32[8]{0}) while(%t1), condition=%condition, body=%body"),
        "}",
    ]
)


def test_cycles_by_kind_and_part():
    found = cycles_of(TEXT)
    assert found.total == 1000 + 300 + 40 + 30 + 20 + 11 * 6
    assert found.in_loops == 11 * 6  # ten runs of the first loop, one of the second
    assert found.open_loops == 1
    assert found.by_kind == {
        "convolutions": 1000,
        MOVES: 300,
        "elementwise, sums": 66,
        "norms": 40,
        "collectives": 30,
        "gathers, scatters, sorts": 20,
    }
    assert found.by_part == {
        "backbone layer2": 1000,
        "head": 340,
        "losses": 55,
        "other": 30 + 11,
        "targets": 20,
    }
    assert found.moving == pytest.approx(300 / 1456)


def test_how_often_computations_run():
    found = computations_of(TEXT)
    assert (found["main"].runs, found["main"].in_loop) == (1, False)
    assert (found["body"].runs, found["body"].in_loop) == (11, True)


def test_other_compilers_make_no_estimates():
    assert cycles_of(re.sub(r'"estimated_cycles":"\d+"', "", TEXT)) is None
    largest = TEXT.replace('"estimated_cycles":"20"', f'"estimated_cycles":"{2**63 - 1}"')  # of the gather
    assert cycles_of(largest).total == cycles_of(TEXT).total - 20
    assert cycles_of("") is None


@pytest.fixture(scope="module")
def tpu():
    if not has_libtpu():
        pytest.skip("libtpu is not installed: make test-tpu")
    return find_target("v5e:1x1")


def test_a_tpu_program_splits_no_maps_and_moves_little_data(one_level, tpu):
    """For three images per chip, XLA would split the width of maps without our compiler options."""
    experiment = config.Config(name="small", detector=one_level, precision="bfloat16")
    mesh = make_mesh(config.Mesh(), tpu.devices)
    for lower in (programs.lower_training, programs.lower_inference):
        text = lower(experiment, mesh, (192, 320), 3).compile().as_text()
        found = cycles_of(text)
        assert found is not None
        assert found.by_kind["convolutions"] > 0
        assert found.by_part["head"] > 0
        # Maps have the three images, or the eight strips of one. XLA would split all three into 24.
        maps = {int(batch) for batch in re.findall(r"bf16\[(\d+),\d+,\d+,\d+\]\{3,0,2,1", text)}
        assert {3, 8} <= maps <= {1, 3, 8}, maps
        assert not re.search(r"bf16\[24,\d+,\d+,\d+\]", text)
        assert found.moving < 1 / 3


def test_the_command_prints_cycles(one_level, tpu, tmp_path, capsys):
    experiment = config.Config(
        name="small", detector=one_level, loader=config.Loader(buckets=((64, 64), (64, 96)))
    )
    file = tmp_path / "small.py"
    file.write_text(f"from gfl_jax.config import *\n\n\ndef get_config():\n    return {experiment!r}\n")
    arguments = [f"--config={file}", f"--topology={tpu.name}", "--only=inference", "--sweep=1,2"]
    assert main(["compile", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "million cycles per image" in printed
    assert "inference: batch of 2 at 64x96 per chip takes the fewest cycles per image" in printed


def test_batches_of_a_sweep_are_whole_numbers(capsys):
    assert main(["compile", "--config=gfl_r50_fpn_1x_coco", "--sweep=1,x"]) == 2
    assert capsys.readouterr().err == "error: --sweep=x: must be a whole number\n"
