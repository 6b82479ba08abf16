"""Names of topologies, and the error messages about wrong names."""

import importlib.util

import jax
import pytest

from gfl_jax.compilation.topology import find_target, parse_topology
from gfl_jax.errors import UserError


def test_local_devices_share_the_memory_of_the_machine():
    target = find_target("local")
    assert target.devices == jax.devices()
    assert target.kind == "CPU"
    assert 2**27 < target.capacity * len(target.devices) < 2**45


@pytest.mark.parametrize(
    ("name", "expected"),
    [("v5e:4x4", ("v5e", (4, 4))), ("v5p:2x2x4", ("v5p", (2, 2, 4))), ("v6e:1x1", ("v6e", (1, 1)))],
)
def test_parse_topology(name, expected):
    assert parse_topology(name) == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v9:2x2", "there is no such topology"),
        ("v5e", "there is no such topology"),
        ("v5e:", "there is no such topology"),
        ("H100:8", "there is no such topology"),
        ("v5e:2x2x2", "a slice of v5e has 2 sides and at most 256 chips"),
        ("v5p:4x4", "a slice of v5p has 3 sides"),
        ("v6e:32x32", "at most 256 chips"),
        ("v6e:0x4", "at most 256 chips"),
    ],
)
def test_the_error_about_an_unknown_topology_has_examples(name, words):
    with pytest.raises(UserError) as caught:
        find_target(name)
    message = str(caught.value)
    assert message.startswith(f"--topology={name}: ")
    assert words in message
    assert "local, or a TPU slice such as v5e:2x2" in message
    assert "\n" not in message


def test_without_libtpu_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "libtpu" else found(name, *rest)
    )
    with pytest.raises(UserError, match=r'--topology=v5e:4x4: .* needs libtpu; pip install "libtpu=='):
        find_target("v5e:4x4")
