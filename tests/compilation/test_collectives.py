"""The collectives of programs for eight devices, against known sizes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gfl_jax import config
from gfl_jax.compilation.collectives import Collectives, collectives_of
from gfl_jax.parallel.mesh import make_mesh

MESH = make_mesh(config.Mesh(fsdp=2))  # data 4 x fsdp 2
ROWS = PartitionSpec(("data", "fsdp"))


def compiled_text(function, *specs):
    """The compiled text of a function of float32 arrays of 16 x 6, sharded by `specs`."""
    shapes = [
        jax.ShapeDtypeStruct((16, 6), jnp.float32, sharding=NamedSharding(MESH, spec)) for spec in specs
    ]
    return jax.jit(function).lower(*shapes).compile().as_text()


def sharded(function):
    """A function of one array of 16 x 6; its body sees the 2 x 6 numbers of a device."""
    return jax.shard_map(function, mesh=MESH, in_specs=ROWS, out_specs=ROWS, check_vma=False)


@pytest.mark.parametrize(
    ("function", "kind", "size", "group"),
    [
        # Each device has 2 x 6 numbers of 4 bytes.
        (lambda x: jax.lax.psum(x, "data"), "all-reduce", 48, 4),
        (lambda x: jax.lax.psum(x, ("data", "fsdp")), "all-reduce", 48, 8),
        (lambda x: jax.lax.all_gather(x, "fsdp", tiled=True), "all-gather", 96, 2),
        (lambda x: jax.lax.psum_scatter(x, "fsdp", tiled=True), "reduce-scatter", 48, 2),
        (lambda x: jax.lax.all_to_all(x, "fsdp", 0, 0), "all-to-all", 48, 2),
        (lambda x: jax.lax.ppermute(x, "data", [(0, 1), (1, 2), (2, 3)]), "collective-permute", 48, 6),
    ],
)
def test_each_kind_of_collective(function, kind, size, group):
    (found,) = collectives_of(compiled_text(sharded(function), ROWS))
    assert found == Collectives(kind, 1, size, {"f32": size}, in_loops=0, largest_group=group)


def test_collectives_that_the_compiler_inserts():
    total = collectives_of(compiled_text(lambda x: x.sum(axis=0), ROWS))
    assert total == [Collectives("all-reduce", 1, 24, {"f32": 24}, 0, 8)]
    whole = NamedSharding(MESH, PartitionSpec())
    gathered = collectives_of(compiled_text(lambda x: jax.lax.with_sharding_constraint(x, whole), ROWS))
    assert [(c.kind, c.bytes) for c in gathered] == [("all-gather", 16 * 6 * 4)]
    assert collectives_of(compiled_text(lambda x: x * 2, ROWS)) == []


def test_collectives_in_loops_are_counted():
    def function(x):
        return jax.lax.psum(jax.lax.fori_loop(0, 3, lambda _, y: jax.lax.psum(y, "data") * 0.5, x), "fsdp")

    (found,) = collectives_of(compiled_text(sharded(function), ROWS))
    assert (found.instructions, found.in_loops) == (2, 1)


def test_a_train_step_sends_only_the_gradients_of_all_trained_parameters(report):
    (reduced,) = report.parts[0].result.collectives
    assert reduced.kind == "all-reduce"
    # The three norms of the trained stage use running statistics. The gradients of their 8 scales come from
    # the summed gradients of the kernels. The normalizers of the losses are summed too.
    sent = report.gradient_bytes - 3 * 8 * 4
    assert sent <= reduced.dtypes["f32"] <= sent + 100
    assert (reduced.in_loops, reduced.largest_group) == (0, 8)


def test_an_asynchronous_pair_counts_once_with_the_result_of_its_end():
    text = """HloModule jit_step

ENTRY %main.1 (a: bf16[8,128]) -> bf16[64,128] {
  %a = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %s.1 = (bf16[8,128]{1,0:T(8,128)}, bf16[64,128]{1,0}) all-gather-start(%a), replica_groups=[2,4]<=[8]
  ROOT %d.1 = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} all-gather-done(%s.1)
}
"""
    size = 64 * 128 * 2
    assert collectives_of(text) == [Collectives("all-gather", 1, size, {"bf16": size}, 0, 4)]


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2},{3,4,5}}", 3),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", 2),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}", 8),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", 4),
    ],
)
def test_notations_of_groups(groups, size):
    line = f"  %r = f32[] all-reduce(%a), channel_id=1, replica_groups={groups}, to_apply=%sum"
    (found,) = collectives_of(f"ENTRY %main (a: f32[]) -> f32[] {{\n{line}\n}}\n")
    assert found.largest_group == size
