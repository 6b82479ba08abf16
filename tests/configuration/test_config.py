import dataclasses
import json
import types
import typing
from inspect import signature
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl_jax.config import Config, Crops, Loader, Optimizer
from gfl_jax.configuration.config_files import config_from_json, load_config, load_module, to_json
from gfl_jax.configuration.fields import Range, checked, field_types
from gfl_jax.configuration.overrides import differences, override, parse_overrides
from gfl_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# finetune.py needs an argument; tests/data_pipeline/test_layouts.py tests it.
OTHERS = ("__init__.py", "finetune.py")
CONFIG_FILES = sorted(path for path in (ROOT / "configs").glob("*.py") if path.name not in OTHERS)


def fields_of(config, prefix=""):
    """Dotted names, types and values of all fields that are not dataclasses."""
    for name, hint in field_types(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{prefix}{name}.")
        elif not any(dataclasses.is_dataclass(option) for option in typing.get_args(hint)):
            yield prefix + name, hint, value


def another_value(hint, value):
    """A value that a field may have; it differs from `value` if there is a choice."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return another_value(next(option for option in args if option is not type(None)), value)
    if origin is typing.Literal:
        return next((option for option in args if option != value), value)
    if origin is tuple and args[0] is str:
        return (*value, "xla_other=1")  # compiler.options is the only such field
    if origin is tuple and args[-1] is Ellipsis:
        return (*(value or ()), another_value(args[0], value[-1] if value else None))
    if origin is tuple:
        return tuple(
            another_value(item, v) for item, v in zip(args, value or [None] * len(args), strict=True)
        )
    if hint is bool:
        return not value
    if hint is str:
        return value + "other"
    (range_,) = args[1:]
    tried = [7, 64, 96] if args[0] is int else [7.5, 0.5, 0.25]
    return next(number for number in tried if number != value and range_.has(number))


WHOLE = Config(name="whole", crops=Crops())
FIELDS = list(fields_of(WHOLE))


def value_at(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(("name", "hint", "value"), FIELDS, ids=[field[0] for field in FIELDS])
def test_every_field_is_read_from_text(name, hint, value):
    wanted = another_value(hint, value)
    changed = parse_overrides(WHOLE, {name: str(wanted)})
    found = value_at(changed, name)
    assert found == wanted
    assert type(found) is type(wanted)
    several = typing.get_origin(hint) is not typing.Literal or len(typing.get_args(hint)) > 1
    expected = [f"config.{name}"] if several else []
    assert differences(json.loads(to_json(WHOLE)), json.loads(to_json(changed))) == expected


def numbers_in(hint):
    """The types of all numbers in the type of a field, each with its ranges."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return [(args[0], args[1:])]
    return [found for arg in args for found in numbers_in(arg)] or [(hint, ())]


@pytest.mark.parametrize(("name", "hint", "value"), FIELDS, ids=[field[0] for field in FIELDS])
def test_every_number_has_a_range(name, hint, value):
    for kind, ranges in numbers_in(hint):
        assert kind not in (int, float) or isinstance(ranges[0], Range), name
    assert checked(value, hint, name) == value


BAD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [0, -1, -3, 10**12, 10**400, 1e308, 5e-324, float("nan"), float("inf"), "²³", "\0", "None"]
    ),
    st.lists(st.one_of(st.integers(), st.floats(), st.none(), st.text(max_size=2)), max_size=4),
    st.tuples(st.tuples(st.integers(), st.integers())),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@given(st.sampled_from([field[0] for field in FIELDS]), BAD, st.booleans())
@settings(max_examples=1500)
def test_any_value_gives_a_valid_config_or_a_one_line_error_that_names_the_field(name, value, as_text):
    try:
        text = str(value)
    except ValueError:  # an integer with more digits than Python prints
        text = "9" * 9999
    try:
        changed = parse_overrides(WHOLE, {name: text}) if as_text else override(WHOLE, {name: value})
    except UserError as caught:
        line = str(caught)
    else:
        field = dict((name, hint) for name, hint, _ in FIELDS)[name]
        assert checked(value_at(changed, name), field, name) == value_at(changed, name)
        assert json.loads(to_json(changed)) is not None
        return
    assert line.startswith(f"config.{name}")
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Loader(batch_size=0), "Loader.batch_size=0: must be from 1 to 65536"),
        (lambda: Loader(workers=-1), "Loader.workers=-1: must be from 0 to 1000"),
        (
            lambda: Optimizer(learning_rate=float("nan")),
            "Optimizer.learning_rate=nan: must be a finite number",
        ),
        (lambda: Optimizer(momentum=1), "Optimizer.momentum=1: must be from 0 to below 1"),
        (lambda: Config(name="x", seed=-1), "Config.seed=-1: must be from 0 to 4294967295"),
        (lambda: dataclasses.replace(Crops(), scale=(0, 1)), "Crops.scale[0]=0: must be from 0.01 to 100"),
        (
            lambda: Config(name="x", loader={"batch_size": 4}),
            "Config.loader={'batch_size': 4}: must be Loader",
        ),
    ],
)
def test_constructors_check_their_fields(make, words):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value).startswith(words)


def test_values_are_converted_to_the_type_of_their_field():
    assert Optimizer(learning_rate=1).learning_rate == 1.0
    assert type(Optimizer(learning_rate=1).learning_rate) is float
    assert Loader(buckets=[[32, 64]]).buckets == ((32, 64),)
    assert hash(Config(name="x", loader=Loader(buckets=[[32, 64]]))) is not None


@pytest.mark.parametrize(
    "text", ["2024", "None", "1e3", "True", "(1, 2)", "a b", "[1]", "~/x", "0x10", "x'y"]
)
def test_texts_stay_texts(text):
    config = parse_overrides(Config(name="x"), {"dataset.tfds_dir": text, "name": text})
    assert (config.dataset.tfds_dir, config.name) == (text, text)


def test_quotes_around_texts_are_removed():
    config = parse_overrides(Config(name="x"), {"dataset.tfds_dir": "''", "name": '"2024"'})
    assert (config.dataset.tfds_dir, config.name) == ("", "2024")


def test_an_unknown_field_gets_a_suggestion():
    with pytest.raises(UserError, match=r"config\.loader\.batchsize: .*; did you mean batch_size\?"):
        override(Config(name="x"), {"loader.batchsize": 4})


def test_ranges_as_text():
    ranges = (Range(least=1), Range(above=0), Range(0, 1), Range(least=0, below=1), Range(above=0, most=9))
    words = ["at least 1", "above 0", "from 0 to 1", "from 0 to below 1", "above 0 to 9"]
    assert list(map(str, ranges)) == words


def test_texts_are_parsed_by_the_type_of_the_field():
    changed = parse_overrides(
        Config(name="x"),
        {
            "optimizer.learning_rate": "1e-3",
            "optimizer.weight_decay": "1",
            "optimizer.clip_norm": "10",
            "optimizer.reference_batch_size": "none",
            "optimizer.kind": "adamw",
            "loader.flip": "false",
            "loader.buckets": "[[32, 64]]",
            "detector.strides": "8, 16",
            "detector.quality": "none",
            "dataset.tfds_dir": "data/coco/2017/1.1.0",
        },
    )
    assert changed.optimizer == Optimizer("adamw", 1e-3, None, weight_decay=1.0, clip_norm=10.0)
    assert type(changed.optimizer.weight_decay) is float
    assert changed.loader.flip is False
    assert changed.loader.buckets == ((32, 64),)
    assert changed.detector.strides == (8, 16)
    assert changed.detector.quality == "none"
    assert changed.dataset.tfds_dir == "data/coco/2017/1.1.0"


@pytest.mark.parametrize(("value", "found"), [("slow", "slow"), ("none", "none"), (None, None)])
def test_an_optional_choice_with_the_word_none(value, found):
    """If `none` is one of the choices, the text means that choice."""
    assert checked(value, typing.Literal["slow", "none"] | None, "speed") == found
    if value is None:
        assert checked(value, typing.Literal["slow", "none"], "speed") == "none"


def test_setting_a_field_of_an_optional_part_creates_the_part():
    assert Config(name="x").crops is None
    changed = parse_overrides(Config(name="x"), {"crops.size": "128"})
    assert changed.crops == Crops(size=128)
    assert parse_overrides(changed, {"crops": "None"}).crops is None


def test_overrides_keep_the_original_and_the_last_one_wins():
    config = Config(name="x")
    assert override(config, {"seed": 3, "detector.head.num_convs": 2}).detector.head.num_convs == 2
    assert config == Config(name="x")
    assert parse_overrides(config, {"crops": "None", "crops.size": "64"}).crops == Crops(size=64)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sede", "1", "config.sede: there is no such field; the fields of config are: name, seed, "),
        ("optimizer.lr", "1", "config.optimizer.lr: there is no such field; the fields of"),
        ("optimizer.lr.x", "1", "config.optimizer.lr: there is no such field"),
        ("seed.x", "1", "config.seed.x: there is no such field; the fields of config.seed are: none"),
        ("optimizer.clip_norm.x", "1", "config.optimizer.clip_norm.x: there is no such field"),
        ("", "1", "config.: there is no such field"),
        ("seed", "1.0", "config.seed=1.0: must be int, not float"),
        ("seed", "True", "config.seed=True: must be int, not bool"),
        ("seed", "None", "config.seed=None: must be int, not NoneType"),
        ("optimizer.learning_rate", "fast", "config.optimizer.learning_rate='fast': must be float"),
        ("optimizer.learning_rate", "True", "config.optimizer.learning_rate=True: must be float"),
        ("loader.flip", "1", "config.loader.flip=1: must be bool, not int"),
        ("optimizer.clip_norm", "much", "config.optimizer.clip_norm='much': must be float"),
        ("optimizer.kind", "adam", "config.optimizer.kind='adam': must be one of 'sgd', 'adamw'"),
        (
            "optimizer",
            "sgd",
            "config.optimizer='sgd': must be Optimizer, not str; set its fields instead, such as "
            "config.optimizer.kind",
        ),
        ("crops", "1", "config.crops=1: must be Crops, not int"),
        ("normalization.mean", "(1, 2)", "config.normalization.mean=(1, 2): must be tuple["),
        ("normalization.mean", "5", "config.normalization.mean=5: must be tuple[float, float, float]"),
        ("detector.strides", "(8, 1.5)", "config.detector.strides[1]=1.5: must be int, not float"),
        ("loader.buckets", "(8, 8)", "config.loader.buckets[0]=8: must be tuple[int, int], not int"),
        ("loader.buckets", "((8, 8, 8),)", "config.loader.buckets[0]=(8, 8, 8): must be tuple["),
    ],
)
def test_a_bad_override_gives_a_one_line_error_that_names_the_field(name, text, message):
    with pytest.raises(UserError) as caught:
        parse_overrides(Config(name="x"), {name: text})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_none_is_a_word_for_fields_that_have_it_as_a_choice():
    config = parse_overrides(Config(name="x"), {"detector.quality": "none", "crops": "none"})
    assert (config.detector.quality, config.crops) == ("none", None)


def test_short_names_of_a_precision_give_the_same_config(tmp_path):
    for word, name in (("bf16", "bfloat16"), ("fp32", "float32")):
        short, long = (parse_overrides(Config(name="a"), {"precision": text}) for text in (word, name))
        assert short == long
        assert short.precision == Config(name="a", precision=word).precision == name
        (tmp_path / "config.json").write_text(to_json(short).replace(f'"{name}"', f'"{word}"'))
        assert config_from_json(tmp_path / "config.json") == long


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_config_files_load_have_the_name_of_the_file_and_survive_json(path, tmp_path):
    config = load_config(path)
    takes_arguments = "dataset" in signature(load_module(path).get_config).parameters
    assert config.name == path.stem or (takes_arguments and config.name.startswith(path.stem))
    file = tmp_path / "config.json"
    file.write_text(to_json(config))
    assert config_from_json(file) == config
    file.write_text(to_json(dataclasses.replace(config, crops=Crops(size=77))))
    assert config_from_json(file).crops == Crops(size=77)


def test_there_are_config_files():
    assert {"gfl_r50_fpn_1x_coco", "gfl_trees"} <= {path.stem for path in CONFIG_FILES}


def test_differences_name_the_fields():
    config = Config(name="x")
    other = parse_overrides(config, {"seed": "1", "detector.strides": "(4, 8)", "crops.size": "64"})
    ours, theirs = json.loads(to_json(config)), json.loads(to_json(other))
    assert differences(ours, ours) == []
    assert differences(ours, theirs) == ["config.seed", "config.detector.strides", "config.crops"]
    assert differences({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}) == ["config.a.c", "config.d"]


HEAD = "from gfl_jax.config import *\ndef get_config():\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:", r"cannot be run: SyntaxError: invalid syntax \(bad\.py, line 1\)"),
        ("\nimport gfl_jax.no_such_module", r"bad\.py, line 2: cannot be run: .* 'gfl_jax\.no_such_module'"),
        ("x = 1 / 0", r"bad\.py, line 1: cannot be run: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", r"bad\.py, line 2: cannot be run: SystemExit: 3"),
        (
            f"{HEAD}    return Loader(batchsize=4)",
            "line 3: cannot be run: TypeError: .*unexpected keyword .*'batchsize'",
        ),
        (f"{HEAD}    return Loader(batch_size='4')", "line 3: Loader.batch_size='4': must be int, not str"),
        (f"{HEAD}    return Loader(batch_size=0)", "line 3: Loader.batch_size=0: must be from 1 to 65536"),
        (f"{HEAD}    return Schedule(steps=-3)", "line 3: Schedule.steps=-3: must be from 1 to 2147483647"),
        (f"{HEAD}    return nothing", "line 3: cannot be run: NameError: name 'nothing' is not defined"),
        ("def get_config(size):\n    return size", r"needs a value for size; write .*bad\.py:size=VALUE"),
        ("get_config = dict", r"get_config\(\) returned dict|cannot be run: ValueError"),
        ("def get_config(*a, **b):\n    return 1", r"get_config\(\) returned int"),
        ("get_config = 5", r"has no function get_config\(\)"),
        ("x = '\0'", "cannot be run: SyntaxError"),
        ("config = 1", r"has no function get_config\(\)"),
        ("def get_config():\n    return 1", r"get_config\(\) returned int, not a gfl_jax Config"),
    ],
)
def test_a_bad_config_file_gives_a_one_line_error_that_names_it(content, message, tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_config(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_file_that_is_missing_or_not_python(tmp_path):
    with pytest.raises(UserError, match=r"--config=nowhere\.py: there is no such file; see configs/"):
        load_config("nowhere.py")
    with pytest.raises(UserError, match="there is no such file"):
        load_config(tmp_path)
    text = tmp_path / "config.txt"
    text.write_text("name: x")
    with pytest.raises(UserError, match="not a Python file"):
        load_config(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a readable config"),
        ("[]", "is not a readable config"),
        ('{"seed": 1}', "is not a readable config"),
        ('{"name": "x", "sede": 1}', r"config\.json\.sede: there is no such field"),
        ('{"name": "x", "crops": {"size": "big"}}', r"config\.json\.crops\.size='big': must be int, not str"),
        ('{"name": 5}', r"config\.json\.name=5: must be str, not int"),
        ('{"name": null}', r"config\.json\.name=None: must be str, not NoneType"),
        ('{"name": {"a": 1}}', r"config\.json\.name\.a: there is no such field"),
        ('{"name": "x", "crops": {}}', r"config\.json\.crops=\{\}: must be Crops, not dict"),
        ('{"name": "x", "seed": {"a": 1}}', r"config\.json\.seed\.a: there is no such field"),
        ('{"name": "x", "seed": 1e400}', r"config\.json\.seed=inf: must be int, not float"),
        ('{"name": "x", "seed": [1]}', r"config\.json\.seed=\[1\]: must be int, not list"),
        ('{"name": "x", "optimizer": {"learning_rate": NaN}}', "learning_rate=nan: must be a finite number"),
        ("[" * 100_000, "is not a readable config"),
        ("3", "is not a readable config"),
        ('{"name": "x", "detector": 5}', r"config\.json\.detector=5: must be Detector, not int"),
    ],
)
def test_a_bad_config_json_gives_a_one_line_error_that_names_it(content, message, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        config_from_json(file)
    assert "\n" not in str(caught.value)


def test_a_missing_config_json(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: cannot be read \(No such file or directory\)"):
        config_from_json(tmp_path / "config.json")
