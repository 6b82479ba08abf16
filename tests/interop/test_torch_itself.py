"""Reading and writing of PyTorch files, compared with PyTorch itself."""

import collections
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gfl_jax.errors import UserError
from gfl_jax.interop.state_dicts import read_state_dict, write_state_dict

torch = pytest.importorskip(
    "torch", reason="the optional PyTorch is not installed: pip install torch==2.13.0", exc_type=ImportError
)
import safetensors.torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "backbone.conv1.weight": torch.randn(4, 3, 7, 7, generator=generator),
        "backbone.bn1.weight": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "backbone.bn1.num_batches_tracked": torch.tensor(7),
        "bbox_head.scales.0.scale": torch.tensor(1.5),
    }


def same_bits(found, tensors):
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        expected = tensor.numpy()
        assert (found[name].shape, found[name].dtype) == (expected.shape, expected.dtype)
        assert found[name].tobytes() == expected.tobytes()


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"meta": {"epoch": 12}, "state_dict": x}])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_pytorch_are_read_bit_identically(tensors, tmp_path, wrap, zipped):
    ordered = collections.OrderedDict(tensors)
    torch.save(wrap(ordered), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    same_bits(read_state_dict(tmp_path / "x.pth"), tensors)


@pytest.mark.parametrize("name", ["zip.pth", "older.pth"])
def test_pytorch_reads_the_files_in_tests_data_bit_identically(name):
    file = ROOT / "tests" / "data" / "torch" / name
    found = torch.load(file, weights_only=False)[
        "state_dict"
    ]  # our own file; it also contains a numpy scalar
    same_bits(
        read_state_dict(file),
        {key: x.detach().float() if "half" in key else x.detach() for key, x in found.items()},
    )


def test_files_of_detectron2_contain_the_model_and_more(tensors, tmp_path):
    torch.save({"model": tensors, "iteration": 90000}, tmp_path / "x.pth")
    same_bits(read_state_dict(tmp_path / "x.pth"), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    halves = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.save({"x": halves}, tmp_path / "x.pt")
    safetensors.torch.save_file({"x": halves}, tmp_path / "x.safetensors")
    for name in ("x.pt", "x.safetensors"):
        found = read_state_dict(tmp_path / name)["x"]
        np.testing.assert_array_equal(found, halves.float().numpy(), strict=True)


def test_pytorch_reads_what_we_write(tensors, tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    for name in ("x.pth", "x.safetensors"):
        write_state_dict(tmp_path / name, arrays)
        same_bits(read_state_dict(tmp_path / name), tensors)
    for found in (
        torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"],
        safetensors.torch.load_file(tmp_path / "x.safetensors"),
    ):
        same_bits({name: tensor.numpy() for name, tensor in found.items()}, tensors)


def test_a_module_of_pytorch_loads_our_file_strictly(tmp_path):
    module = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(3, 4, 3), "bn": torch.nn.BatchNorm2d(4)})
    arrays = {name: tensor.numpy() + 1 for name, tensor in module.state_dict().items()}
    write_state_dict(tmp_path / "x.pth", arrays)
    module.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"], strict=True)
    same_bits(arrays, module.state_dict())


def test_logs_in_files_of_mmdetection_3_are_ignored(tensors, tmp_path, monkeypatch):
    """mmengine saves its logs with the weights, as objects that weights_only=True refuses."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self):
            self._log_history = np.array([1.0, 2.0])

        def current(self):
            return self._log_history[-1]

        def __getstate__(self):
            return self.__dict__ | {"statistics_methods": {"current": HistoryBuffer.current}}

        def __setstate__(self, state):
            raise AssertionError("no object of the file may be built")

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.current.__module__ = module.__name__
    HistoryBuffer.current.__qualname__ = "HistoryBuffer.current"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    logs = {"loss": HistoryBuffer(), "lr": np.float64(0.01)}
    torch.save({"message_hub": logs, "state_dict": tensors}, tmp_path / "x.pth")
    monkeypatch.delitem(sys.modules, module.__name__)
    asked = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "x.pth")
    assert {name.rpartition(".")[2] for name in asked} == {
        "HistoryBuffer", "getattr", "_reconstruct", "ndarray", "dtype", "scalar"
    }  # fmt: skip
    same_bits(read_state_dict(tmp_path / "x.pth"), tensors)


class Malicious:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["zipped", "legacy", "bare pickle"])
def test_a_malicious_pickle_does_not_run(tensors, tmp_path, kind):
    path, victim = tmp_path / "x.pth", tmp_path / "owned"
    content = {"state_dict": tensors, "meta": Malicious(victim)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps({"meta": Malicious(victim)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zipped")
    if kind == "bare pickle":
        assert refusal(path).startswith("is not a readable PyTorch file")
    else:
        same_bits(read_state_dict(path), tensors)
    assert not victim.exists()
    torch.load(path, weights_only=False) if kind != "bare pickle" else pickle.loads(path.read_bytes())
    assert victim.exists()  # PyTorch runs it


def test_getattr_in_a_pickle_reaches_nothing(tensors, tmp_path):
    """Logs of mmengine use `getattr`, so a file may name it, but it has no effect."""

    class Reaching:
        def __reduce__(self):
            return getattr, (torch.Tensor, "numpy")

    torch.save({"state_dict": tensors | {"x": Reaching()}}, tmp_path / "x.pth")
    assert "x is not a plain array (__builtin__.getattr)" in refusal(tmp_path / "x.pth")


def test_truncated_files_and_files_of_other_formats_are_errors(tensors, tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save(tensors, whole)
    content = whole.read_bytes()
    path = tmp_path / "x.pth"
    for part in (content[:-1], content[: len(content) // 2], content[:10], b"", b"<html>not found</html>"):
        path.write_bytes(part)
        assert refusal(path).startswith("is not a readable ")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.txt", "no weights")
    assert refusal(path).startswith("is not a readable ")


def test_the_script_writes_nothing_for_a_file_that_it_refuses(script, tensors, tmp_path, capsys):
    torch.save(tensors, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-100])
    torch.save({"state_dict": tensors, "meta": Malicious(tmp_path / "owned")}, tmp_path / "malicious.pth")
    files = sorted(tmp_path.iterdir())
    config = f"--config={ROOT / 'configs' / 'gfl_r50_fpn_1x_coco.py'}"
    for name, words in (
        ("half.pth", "is not a readable PyTorch file"),
        ("malicious.pth", "313 entries do not fit config gfl_r50_fpn_1x_coco"),
        ("whole.pth", "313 entries do not fit config gfl_r50_fpn_1x_coco"),
    ):
        assert script.main(["to-jax", str(tmp_path / name), config, f"--output={tmp_path / 'run'}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path / name}: {words}")
        assert sorted(tmp_path.iterdir()) == files


def test_files_without_a_state_dict_are_errors(tensors, tmp_path):
    path = tmp_path / "x.pth"
    for content, words in (
        (torch.zeros(3), "contains no state dict (ndarray)"),
        ({}, "contains no state dict"),
        ({"state_dict": {"x": 3}}, "entry 'x' is not a tensor"),
        ({1: torch.zeros(3)}, "entry 1 is not a tensor"),
        ({"x": torch.eye(3).to_sparse()}, "x is not a plain array (torch._utils._rebuild_sparse_tensor)"),
        (tensors | {"optimizer": {"lr": 1}}, "entry 'optimizer' is not a tensor"),
    ):
        torch.save(content, path)
        assert words in refusal(path)
    torch.save(torch.nn.Linear(2, 2), path)
    assert "torch.nn.modules.linear.Linear" in refusal(path)
