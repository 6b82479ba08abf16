"""Recomputes the reference values in float64, once, and checks that a wrong value is detected."""

import copy
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gfl_jax.command_line.main import main
from gfl_jax.interop.torch_names import to_torch
from gfl_jax.verification import verify
from gfl_jax.verification import whole_detector as detector
from gfl_jax.verification.reference import Reference
from gfl_jax.verification.verify import DEFAULT_CONFIG, load_config, verify_default, verify_file

CASES = ("a", "b_oneempty", "c_allempty", "d_unequal")
ROWS_OF_A_CASE = 15
ROWS_OF_UNITS = 27
ROWS_OF_DEFORMABLE = 9


@pytest.fixture(scope="module")
def verified():
    """All rows of the default set, and the arguments of the comparison of each case."""
    compared = {}

    def record(reference, case, batch, results, tolerances, experiment):
        compared[case] = SimpleNamespace(
            reference=reference, batch=batch, results=results, tolerances=tolerances, experiment=experiment
        )
        return compare(reference, case, batch, results, tolerances, experiment)

    compare = detector._compare_case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "_compare_case", record)
        rows = list(verify_default("float64"))
    return SimpleNamespace(rows=rows, compared=compared)


def test_every_row_passes_in_float64(verified):
    failed = [
        f"{row.part}: {row.deviation:.1e} > {row.tolerance:.1e}" for row in verified.rows if not row.passed
    ]
    assert failed == []


def test_no_row_is_missing(verified):
    parts = [row.part for row in verified.rows]
    assert (
        len(set(parts)) == len(parts) == ROWS_OF_UNITS + ROWS_OF_DEFORMABLE + len(CASES) * ROWS_OF_A_CASE + 2
    )
    for case in CASES:
        assert sum(part.startswith(f"{case}: ") for part in parts) == ROWS_OF_A_CASE
    assert sum(part.startswith("atss scene ") for part in parts) == 6
    assert sum(part.startswith("training: ") for part in parts) == 2
    assert sum("of 175 parameters" in part for part in parts) == 2 * len(CASES)


def test_tolerances_in_float64(verified):
    """1e-6, but 1e-12 for targets, and 0 for detections and for the parameters with a gradient.

    Targets have 1e-12 because FCOS computes distances; a wrong index or class exceeds it. GFL copies boxes,
    so its targets must be equal.
    """
    for row in verified.rows[ROWS_OF_UNITS + ROWS_OF_DEFORMABLE :]:
        if row.part.endswith(": targets"):
            assert (row.tolerance, row.deviation) == (1e-12, 0)
        else:
            exact = any(word in row.part for word in ("counterpart", "with a gradient"))
            assert row.tolerance == (0.0 if exact else 1e-6)


def test_losses_and_gradients_equal_the_reference_up_to_rounding(verified):
    """The recomputed losses include the epsilon of the reference."""
    losses = [row for row in verified.rows if ": loss_" in row.part]
    assert len(losses) == 3 * len(CASES)
    assert max(row.deviation for row in losses) < 1e-12
    norms = [row for row in verified.rows if "gradient norms" in row.part]
    assert len(norms) == len(CASES)
    assert max(row.deviation for row in norms) < 1e-9


def tampered(reference, keys):
    """A copy of a reference, with the largest value of each entry in `keys` changed by 1e-4 of it or by 1."""
    changed = copy.copy(reference)
    changed.arrays = dict(reference.arrays)
    for key in keys:
        array = np.array(reference.arrays[key])
        at = np.unravel_index(np.argmax(np.abs(array)), array.shape)
        array[at] += 1e-4 * abs(array[at]) if array.dtype.kind == "f" else 1
        changed.arrays[key] = array
    return changed


def failures(verified, case, keys):
    """The rows of a case that fail when entries of the reference are tampered with."""
    case_args = verified.compared[case]
    reference = tampered(case_args.reference, [f"{case}/{key}" for key in keys])
    rows = detector._compare_case(
        reference, case, case_args.batch, case_args.results, case_args.tolerances, case_args.experiment
    )
    return {part for part, deviation, tolerance in rows if not deviation <= tolerance}


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("batch_inputs_sub", "network inputs"),
        ("C4_sub", "features C2 to C5"),
        ("P7_sub", "features P3 to P7"),
        ("eval/cls_score4", "class scores"),
        ("eval/bbox_pred0", "box predictions"),
        ("assign/img1_gt_inds", "targets"),
        ("targets/labels2", "targets"),
        ("targets/label_weights4", "targets"),
        ("targets/bbox_targets1", "targets"),
        ("targets/avg_factor", "targets"),
        ("loss/loss_cls", "loss_cls"),
        ("loss/loss_bbox_per_level", "loss_bbox"),
        ("loss/loss_dfl_per_level", "loss_dfl"),
        ("pred_rescale0/img1_bboxes", "detections, share without a counterpart"),
        ("pred_rescale0/img0_scores", "detections, share without a counterpart"),
        ("pred_rescale0/img0_labels", "detections, share without a counterpart"),
        ("pred_rescale1/img0_bboxes", "detections in original pixels, share without a counterpart"),
    ],
)
def test_a_tampered_value_fails_its_row_and_no_other(verified, monkeypatch, key, row):
    monkeypatch.setattr(detector, "_compare_gradients", lambda *_: iter(()))  # slow, and tested below
    assert failures(verified, "d_unequal", []) == set()
    assert failures(verified, "d_unequal", [key]) == {row}


def test_tampered_gradients_fail_their_rows(verified):
    keys = ["gradnorm/neck.fpn_convs.4.conv.bias", "gradproj/backbone.layer2.0.bn1.weight"]
    elementwise = verified.compared["a"].reference.keys("a/grad/")[0]
    assert failures(verified, "a", [*keys, f"grad/{elementwise}"]) == {
        "gradient norms of 175 parameters",
        "gradient projections of 175 parameters",
        "gradients of 23 parameters, elementwise",
    }


def test_a_gradient_where_the_reference_has_none_fails(verified):
    case_args = verified.compared["a"]
    reference = copy.copy(case_args.reference)
    moved = {"a/grad_none_names": case_args.reference["a/grad_none_names"][1:]}
    reference.arrays = case_args.reference.arrays | moved
    gradients = to_torch(case_args.results.gradients, case_args.experiment.detector)
    rows = detector._compare_gradients(reference, "a", gradients, case_args.tolerances)
    part, deviation, _ = next(rows)
    assert part == "parameters with a gradient"
    assert deviation == np.inf


def write_tampered_units(reference_dir, path, keys):
    changed = tampered(Reference(reference_dir / "units.npz"), keys)
    np.savez(path, **changed.arrays)
    return path


def test_every_row_of_the_units_can_fail_and_the_command_with_it(
    reference_dir, tmp_path, monkeypatch, capsys
):
    """Except the row of encoded deltas: their boxes are not in the file, so it decodes and encodes them."""
    keys = ["qfl/loss_none", "focal/module_avg7", "dfl/loss_none", "giou/grad_weighted_sum", "iou/loss_none"]
    keys += ["bce/module_avg9", "integral/y", "lr/warmup600"]
    keys += [f"boxes/{name}" for name in ("iou_matrix", "iou_aligned", "giou_aligned", "iof_matrix")]
    keys += [f"dist/{name}" for name in ("enc_none", "enc16", "dec", "dec_clip_hw_30_25")]
    keys += ["delta/dec", "delta/dec_clip_hw_200_300", "nms/keep0.6", "nms/batched_keep0.6"]
    keys += [f"atss{scene}/gt_inds" for scene in range(6)]
    path = write_tampered_units(reference_dir, tmp_path / "units.npz", keys)
    monkeypatch.setattr(verify, "UNITS", path)
    for other in ("verify_file", "verify_deformable"):  # slow, and recomputed above
        monkeypatch.setattr(verify, other, lambda *_: iter(()))
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["verify", "--dtype=float64"]) == 1
    printed = capsys.readouterr().out
    failed = [line for line in printed.splitlines() if "FAILED" in line]
    assert len(failed) == len(keys) == ROWS_OF_UNITS - 1
    assert any("giou loss and gradient" in line for line in failed)
    assert not any("delta/enc" in line for line in failed)
    assert f"1 passed, {len(keys)} failed in float64" in printed


def test_matrix_products_are_in_full_float32(reference_dir, monkeypatch):
    found = []

    def record_precision(*_):
        found.append(jax.config.jax_default_matmul_precision)
        return iter(())

    for name in ("verify_units", "verify_deformable", "verify_detector"):
        monkeypatch.setattr(verify, name, record_precision)
    assert list(verify_default("float32")) == []
    assert list(verify_file(reference_dir / "gfl.npz", load_config(DEFAULT_CONFIG), "float32")) == []
    assert found == 5 * ["highest"]
    assert jax.config.jax_default_matmul_precision is None
