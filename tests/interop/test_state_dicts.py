import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from gfl_jax.errors import UserError
from gfl_jax.interop.state_dicts import is_state_dict_file, read_state_dict, write_state_dict


def entries():
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 3, 2, 4), np.float32).transpose(3, 2, 0, 1)  # not contiguous
    special = np.array([np.nan, np.inf, -0.0, 1e-45], np.float32)
    return {"b.kernel": kernel, "a.special": special, "a.count": np.zeros((), np.int64)}


def refusal(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_safetensors_are_read_back_bit_identically(tmp_path):
    write_state_dict(tmp_path / "there" / "x.safetensors", entries())
    back = read_state_dict(tmp_path / "there" / "x.safetensors")
    assert set(back) == set(entries())
    for name, x in entries().items():
        assert (back[name].shape, back[name].dtype) == (x.shape, x.dtype)
        assert back[name].tobytes() == x.tobytes()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["x.safetensors"]


def test_half_precision_becomes_float32_with_the_same_values(tmp_path):
    values = np.array([[1.5, -2.25], [0.0078125, 100]], np.float32)  # exact in both types
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.numpy.save({"x": values.astype(np.float16)}))
    np.testing.assert_array_equal(read_state_dict(path)["x"], values, strict=True)
    data = values.astype(jnp.bfloat16)
    spec = safetensors.TensorSpec(
        dtype="bfloat16", shape=data.shape, data_ptr=data.ctypes.data, data_len=data.nbytes
    )
    path.write_bytes(safetensors.serialize({"x": spec}))
    np.testing.assert_array_equal(read_state_dict(path)["x"], values, strict=True)


def test_unreadable_safetensors_are_errors(tmp_path):
    whole = safetensors.numpy.save(entries() | {"b.kernel": np.zeros(5)})
    path = tmp_path / "x.safetensors"
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:3], b"", b"something else entirely"):
        path.write_bytes(content)
        assert f"{path}: is not a readable safetensors file" in refusal(read_state_dict, path)


def test_names_that_are_not_files_of_weights_are_errors(tmp_path):
    assert is_state_dict_file("x.pth")
    assert is_state_dict_file(tmp_path / "x.safetensors")
    assert not is_state_dict_file(tmp_path)
    assert "x.pkl: the name of a file of weights must end in one of .safetensors, .pth" in refusal(
        read_state_dict, tmp_path / "x.pkl"
    )
    assert "must end in" in refusal(write_state_dict, tmp_path / "x.npz", entries())
    assert "there is no such file" in refusal(read_state_dict, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
