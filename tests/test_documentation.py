"""The documentation tells the truth: its commands and code blocks run, or at least parse."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image
from small_coco import write_coco

import gfl_jax
from gfl_jax.command_line.arguments import config_overrides
from gfl_jax.command_line.main import COMMANDS, main, make_parser
from gfl_jax.configuration.overrides import parse_overrides

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NOTEBOOK = ROOT / "examples" / "finetune.ipynb"
# What is shown, and what runs here in its place: the detector of the package, few steps, small canvases.
SUBSTITUTES = {
    "gfl_r50_fpn_1x_coco": "gfl_trees",
    '"schedule.steps": 3000': '"schedule.steps": 2',
    "steps=400": "steps=2",
    "canvas=(256, 256)": "canvas=(96, 128)",
    "canvas=(1056, 1280)": "canvas=(96, 128)",
    "--height=1056": "--height=96",
    "--width=1280": "--width=128",
    "../": "",
}
FEW_STEPS = ["--config.schedule.steps=2", "--config.loader.batch_size=8", "--config.run.evaluate_every=2"]


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages in these languages."""
    found = []
    for page in PAGES:
        for language, text in re.findall(
            r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            found.append(Block(page, language, text))
    return [block for block in found if block.language in languages]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def all_commands() -> list[list[str]]:
    """Those of all pages and of the notebook."""
    texts = [block.text for block in blocks("bash")]
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        source = "".join(cell["source"])
        texts += re.findall(r"^```bash\n(.*?)^```$", source, re.MULTILINE | re.DOTALL)
    return [words for text in texts for words in commands(text)]


def of_gfl_jax(words: list[str]) -> list[str] | None:
    """The arguments of gfl-jax or main.py in a command; None if it is another program."""
    words = words[1:] if words[0] == "srun" else words
    if words[0] == "gfl-jax":
        return words[1:]
    return words[2:] if words[:2] == ["python", "main.py"] else None


def test_every_block_says_its_language():
    assert blocks("") == []


def test_commands_parse():
    parser, count = make_parser(), 0
    for words in all_commands():
        arguments = of_gfl_jax(words)
        if arguments is None or "--help" in arguments or any("kind=poly" in word for word in arguments):
            continue  # poly is what a page adds
        args, rest = parser.parse_known_args(arguments)
        overrides = config_overrides(rest, parser)
        name = getattr(args, "config", None)
        if name and name != "CONFIG" and not name.startswith("finetune"):
            parse_overrides(gfl_jax.load_config(name), overrides)
        elif name and overrides:
            parse_overrides(gfl_jax.load_config("gfl_r50_fpn_1x_coco"), overrides)
        count += 1
    assert count > 40


def test_scripts_exist_and_know_the_flags():
    seen = set()
    for words in all_commands():
        script = next((word for word in words if word.startswith("scripts/")), None)
        if script is None:
            continue
        assert (ROOT / script).is_file(), words
        if script.endswith(".py"):
            seen.add(script)
            source = (ROOT / script).read_text()
            for flag in re.findall(r"--[a-z-]+", " ".join(words[2:])):
                name = flag.removeprefix("--")
                assert re.search(rf'"(--)?{name}"', source), f"{script} has no {flag}"
    assert len(seen) >= 4


def test_other_programs_are_known():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {"git", "pip", "python3", "export", "srun", "ls", "kubectl", "for"}
    for words in all_commands():
        if words[0] == "make":
            assert words[1] in targets
        elif of_gfl_jax(words) is None and words[0] != "python" and "=" not in words[0]:
            assert words[0] in known or (words[0] == "bash" and (ROOT / words[1]).is_file()), words


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {gfl_jax.__version__}\n" in citation
    assert f"\n## {gfl_jax.__version__} - " in (ROOT / "CHANGELOG.md").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"] == ["version"]
    pinned = (ROOT / "requirements.txt").read_text()
    for words in all_commands():
        if words[:2] == ["pip", "install"]:
            for wanted in re.findall(r"jax\[\w+\]==([\d.]+)", " ".join(words)):
                assert f"\njax=={wanted}\n" in pinned


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_links_and_images_exist():
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text):
            if not target.startswith("https://"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_lines_that_a_diff_removes_or_keeps_are_in_the_code():
    source = "\n".join(path.read_text() for path in (ROOT / "gfl_jax" / "axes").glob("*.py"))
    for block in blocks("diff"):
        for line in block.text.splitlines():
            # Up to a bracket, because who follows the page extends the list in it.
            assert line[:1] == "+" or line[1:].split("]")[0] in source, line


def test_every_field_of_a_config_is_documented(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import docs_pages

    for path, kind in docs_pages._dataclasses(gfl_jax.Config, ""):
        for name, comment in docs_pages.field_comments(kind).items():
            assert comment, f"{path}.{name} has no comment"
    page = docs_pages.on_page_markdown((ROOT / "docs" / "config.md").read_text())
    row = "| `learning_rate` | float, above 0 | `0.01` | "
    assert row in page
    page = docs_pages.on_page_markdown((ROOT / "docs" / "command_line.md").read_text())
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(COMMANDS)
    assert "| `--heartbeat-seconds S` | seconds without a heartbeat" in page


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with what the documentation names."""
    trees = ROOT / "tests" / "data" / "trees" / "trees.png"
    image = np.asarray(Image.open(trees).convert("RGB"))[:96, :128]
    for name in ("photo.jpg", "street.jpg", "photos/a.jpg", "photos/b.jpg", "day1/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    for place in ("DIR", "data/tree_tiles"):
        for split in ("train", "valid"):
            part = tmp_path / place / split
            names = [f"{split}_{i}.png" for i in range(2)]
            write_coco(part / "_annotations.coco.json", part, names, categories=("Tree",))
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (128, 96))
    for _ in range(2):
        video.write(image[..., ::-1])
    video.release()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def substituted(text: str) -> str:
    for shown, runs in SUBSTITUTES.items():
        text = text.replace(shown, runs)
    return text


def test_python_of_the_pages_runs(folder):
    gfl_jax.load("gfl_trees").export(
        "gfl_trees.jaxexport", canvas=(96, 128)
    )  # the page on it begins with one
    for name in ("README.md", "docs/python.md", "docs/export.md"):
        page, names = ROOT / name, dict[str, object]()
        for block in blocks("python"):
            if block.page == page:
                exec(compile(substituted(block.text), name, "exec"), names)
    found = names["detect"](np.asarray(Image.open("photo.jpg")))
    assert found["boxes"].shape[1:] == (4,)
    assert gfl_jax.load("runs/mine").classes == ("Tree",)


def test_commands_of_the_pages_run(folder, capsys):
    """Start, your own data: each command on the data of `folder`, with few steps."""
    done = list[str]()
    for words in all_commands():
        arguments = of_gfl_jax([substituted(word) for word in words])
        text = " ".join(arguments or [])
        here = {"predict", "inspect", "models", "export"} & set(text.split()) or "data=" in text
        if not here or "--workdir=runs/gfl_trees" in text or "buckets" in text or "large" in text:
            continue
        if " ".join(arguments) in done:
            continue
        few = FEW_STEPS if arguments[0] == "train" else []
        assert main([*arguments, *few]) == 0, (words, capsys.readouterr())
        done.append(" ".join(arguments))
        capsys.readouterr()
    assert {text.split()[0] for text in done} == {
        "inspect",
        "train",
        "predict",
        "evaluate",
        "models",
        "export",
    }
    assert len(done) >= 9


def test_the_notebook_runs(folder):
    names = dict[str, object]()
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile(substituted("".join(cell["source"])), NOTEBOOK.name, "exec"), names)
    assert set(names["metrics"]) >= {"AP", "AP50"}
