"""Paths that cannot be written or read give a one-line error before any work is done."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gfl_jax import files
from gfl_jax.command_line import main as cli
from gfl_jax.errors import UserError, exit_status
from gfl_jax.files import require_writable, require_writable_file, write_file, write_files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import convert_checkpoint  # noqa: E402
import prepare_dataset  # noqa: E402
import scaling  # noqa: E402

TREES = f"--config={ROOT / 'configs' / 'gfl_trees.py'}"


@pytest.fixture
def bad_folder(request, tmp_path):
    """A path that cannot become a folder, for the reason in the parameter."""
    file = tmp_path / "file"
    file.write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    paths = {
        "file": file,
        "below a file": file / "run",
        "proc": Path("/proc/x"),
        "long": tmp_path / ("n" * 300),
        "link": tmp_path / "link",
        "zero byte": tmp_path / "a\0b",
    }
    yield paths[request.param]
    assert file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


KINDS = ["file", "below a file", "proc", "long", "link"]


def error_of(capsys, main, arguments):
    """The one line that a program prints on stderr before it exits with status 2."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert captured.out == ""
    return lines[0]


@pytest.mark.parametrize("bad_folder", [*KINDS, "zero byte"], indirect=True)
def test_a_folder_that_cannot_be_written(bad_folder):
    with pytest.raises(UserError) as caught:
        require_writable(bad_folder)
    assert repr(str(bad_folder))[1:-1] in str(caught.value)


@pytest.mark.parametrize("bad_folder", KINDS, indirect=True)
def test_each_command_checks_its_output_first(capsys, bad_folder, trained):
    below = bad_folder / "out"
    for main, arguments in (
        (cli.main, ["train", TREES, f"--workdir={bad_folder}"]),
        (cli.main, ["evaluate", f"--workdir={trained}", f"--output={bad_folder}"]),
        (cli.main, ["predict", f"--workdir={trained}", f"--output={bad_folder}", "x.png"]),
        (cli.main, ["analyze", f"--workdir={trained}", f"--output={bad_folder}"]),
        (cli.main, ["export", f"--workdir={trained}", f"--output={below}"]),
        (cli.main, ["compile", TREES, f"--json={below}"]),
        (convert_checkpoint.main, ["to-jax", "x.pth", TREES, f"--output={bad_folder}"]),
        (
            convert_checkpoint.main,
            ["to-torch", f"--workdir={trained}", f"--output={bad_folder}/x.safetensors"],
        ),
        (prepare_dataset.main, ["trees", f"--data-dir={bad_folder}"]),
        (prepare_dataset.main, ["coco2017", f"--data-dir={bad_folder}", "--coco-dir=nowhere"]),
        (scaling.main, [f"--document={below}"]),
    ):
        assert str(bad_folder) in error_of(capsys, main, arguments)


@pytest.mark.parametrize("bad_folder", ["file", "proc", "long"], indirect=True)
def test_compare_checks_its_folder_first(capsys, monkeypatch, bad_folder):
    monkeypatch.chdir(ROOT)
    line = error_of(capsys, cli.main, ["compare", "--table=1", f"--workdir={bad_folder}"])
    assert str(bad_folder) in line


def test_an_output_file_must_not_be_a_folder_or_a_device(capsys, tmp_path, trained):
    for option in ("export", "compile"):
        start = [option, *([f"--workdir={trained}"] if option == "export" else [TREES])]
        flag = "--output" if option == "export" else "--json"
        assert "is a folder; name a file" in error_of(capsys, cli.main, [*start, f"{flag}={tmp_path}"])
        assert "not a regular file" in error_of(capsys, cli.main, [*start, f"{flag}=/dev/null"])
    (tmp_path / "x.bin.json").mkdir()
    line = error_of(capsys, cli.main, ["export", f"--workdir={trained}", f"--output={tmp_path}/x.bin"])
    assert line == f"error: {tmp_path}/x.bin.json: is a folder; name a file"


def test_checks_leave_nothing_behind(tmp_path):
    require_writable(tmp_path / "a" / "b")
    require_writable_file(tmp_path / "a" / "b" / "file")
    assert list(tmp_path.iterdir()) == []
    old = tmp_path / "old"
    old.write_text("old")
    require_writable_file(old)
    assert old.read_text() == "old"


def test_names_of_the_maximum_length(tmp_path):
    path = tmp_path / ("n" * 255)
    write_file(path, "whole")
    assert path.read_text() == "whole"
    with pytest.raises(UserError, match=r"cannot be written \(File name too long"):
        write_file(tmp_path / ("n" * 256), "whole")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("failing", ["_write", "_rename"])
def test_files_that_belong_together_are_not_mixed(tmp_path, monkeypatch, failing):
    first, second = tmp_path / "first", tmp_path / "second"
    write_files({first: "1", second: "2"})
    real = getattr(files, failing)

    def fail(temporary, *rest):
        if "second" in temporary.name:
            raise PermissionError(13, "Permission denied")
        real(temporary, *rest)

    monkeypatch.setattr(files, failing, fail)
    with pytest.raises(UserError, match=r"second: cannot be written \(Permission denied"):
        write_files({first: "new", second: "new"})
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == ({"first": "1", "second": "2"} if failing == "_write" else {"first": "new"})


def break_config(workdir):
    (workdir / "config.json").unlink()
    (workdir / "config.json").mkdir()


def break_text(workdir):
    (workdir / "config.json").write_bytes(b"\xff\xfe\0\0{")


def break_list(workdir):
    (workdir / "config.json").write_text("[1]")


def break_categories(workdir):
    (workdir / "categories.json").write_text('{"a": 1}')


def break_categories_folder(workdir):
    (workdir / "categories.json").unlink()
    (workdir / "categories.json").mkdir()


def break_checkpoint(workdir):
    shutil.rmtree(next((workdir / "checkpoints").glob("*/variables")))


def break_checksums(workdir):
    next((workdir / "checkpoints").glob("*/checksums.json")).write_text("[]")


def break_checkpoints(workdir):
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").write_text("no folder")


@pytest.mark.parametrize(
    "spoil",
    [
        break_config,
        break_text,
        break_list,
        break_categories,
        break_categories_folder,
        break_checkpoint,
        break_checksums,
        break_checkpoints,
    ],
)
def test_a_damaged_work_directory_is_named(capsys, tmp_path, trained, spoil):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    spoil(workdir)
    line = error_of(capsys, cli.main, ["export", f"--workdir={workdir}", f"--output={tmp_path / 'x'}"])
    assert str(workdir) in line


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04broken", b"\x93NUMPY\x01\x00", "folder", "none"]
)
def test_a_damaged_reference_file_is_named(capsys, tmp_path, content):
    path = tmp_path / "reference.npz"
    if content == "folder":
        path.mkdir()
    elif content != "none":
        path.write_bytes(content)
    line = error_of(capsys, cli.main, ["verify", f"--reference={path}"])
    assert line.startswith(f"error: --reference={path}: ")


@pytest.mark.parametrize(
    "damage",
    [
        ("dataset_info.json", b""),
        ("dataset_info.json", b"{}"),
        ("dataset_info.json", b"[1]"),
        ("features.json", None),
        ("features.json", b"{"),
        ("features.json", b'{"type": "no.such.Feature"}'),
        ("*.array_record*", None),
        ("*.array_record*", b""),
        ("*.array_record*", b"\0" * 1000),
        ("*.array_record*", "half"),
    ],
)
def test_a_damaged_data_set_is_named(capsys, tmp_path, prepared_coco, trained, monkeypatch, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    pattern, content = damage
    data = tmp_path / "coco" / "2017" / "1.1.0"
    shutil.copytree(prepared_coco, data)
    for file in [*data.glob("gfl_jax_index*"), *data.glob(pattern)]:
        whole = file.read_bytes()
        file.unlink()
        if content is not None and "gfl_jax_index" not in file.name:
            file.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    arguments = ["evaluate", f"--workdir={trained}", f"--output={tmp_path / 'out'}"]
    arguments += [f"--config.dataset.tfds_dir={data}", "--config.dataset.eval_split=validation"]
    assert str(data) in error_of(capsys, cli.main, arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "--workdir=w", "--pictures=-1"], "--pictures=-1: must be at least 0"),
        (["evaluate", "--workdir=w", "--pictures", "-1"], "--pictures=-1: must be at least 0"),
        (["evaluate", "--workdir=w", "--heartbeat-seconds=1"], "--heartbeat-seconds=1: must be at least 2"),
        (["evaluate", "--workdir=w", "--num-processes=x"], "not given; several processes need all of"),
        (["predict", "--workdir=w", "x", "--min-score=nan"], "--min-score=nan: must be a number from 0 to 1"),
        (["predict", "--workdir=w", "x", "--min-score=7"], "--min-score=7: must be a number from 0 to 1"),
        (["predict", "--workdir=w", "x", "--min-score=half"], "--min-score=half: must be a number"),
        (["analyze", "--workdir=w", "--boxes", "-3"], "--boxes=-3: must be at least 0"),
        (["export", "--workdir=w", "--output=x", "--batch=few"], "--batch=few: must be a whole number"),
        (["export", "--workdir=w", "--output=x", "--width=1e3"], "--width=1e3: must be a whole number"),
        (["compile", TREES, "--batch=0"], "--batch=0: must be at least 1"),
        (["compare", "--table=1", "--seeds=0"], "--seeds=0: must be at least 1"),
        (["train", TREES, "--workdir="], "'': is not a valid path"),
        (["train", TREES, "--workdir=a\0b"], "is not a valid path"),
    ],
)
def test_flags_out_of_range(capsys, arguments, words):
    assert words in error_of(capsys, cli.main, arguments)


def test_a_tilde_expands_to_the_home_folder(capsys, tmp_path, monkeypatch, trained):
    monkeypatch.setenv("HOME", str(tmp_path))
    for arguments in (
        ["evaluate", "--workdir=~/run"],
        ["evaluate", f"--workdir={trained}", "--config=~/run/c.py"],
        ["export", f"--workdir={trained}", "--checkpoint=~/run", "--output=~/x"],
        [
            "evaluate",
            f"--workdir={trained}",
            f"--output={tmp_path}/o",
            "--config.dataset.tfds_dir=~/run/coco",
        ],
    ):
        line = error_of(capsys, cli.main, arguments)
        assert f"{tmp_path}/run" in line
        assert "~" not in line
    assert not list(tmp_path.glob("~*"))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_too_little_memory_is_a_one_line_error(capsys, error):
    def command():
        raise error

    assert exit_status(command) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: not enough memory; lower config.loader.batch_size")
    assert line.count("\n") == 1


def test_a_closed_pipe_ends_a_command_silently(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from gfl_jax.errors import exit_status\n"
        "def run():\n    for _ in range(10**6): print('line')\n    return 0\n"
        "sys.exit(exit_status(run))"
    )
    (tmp_path / "code.py").write_text(code)
    command = f"({sys.executable} code.py {ROOT}; echo $? > status) 2> err | head -1"
    found = subprocess.run(command, shell=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    assert found.stdout == "line\n"
    assert (tmp_path / "status").read_text() == "1\n"
    assert (tmp_path / "err").read_text() == ""


def test_bugs_keep_their_traceback():
    for error in (BrokenPipeError("of a worker"), RuntimeError("a bug"), ValueError("a bug")):

        def command(error=error):
            raise error

        with pytest.raises(type(error)):
            exit_status(command)
