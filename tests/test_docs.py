"""README and docs: every link leads somewhere, every block of code runs, every flag exists."""

import dataclasses
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from PIL import Image

import effssl
from effssl.cli import expand_config
from effssl.cli._main import COMMANDS, parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks/README.md", ROOT / "model_cards/results.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
NOT_RUN = {
    "# needs the Hub": "there is no network in the tests",
    "# sketch of lightly 1.6.0; not run": "another library",
    "# sketch of stable-pretraining; not run": "another library",
}
OF_OTHERS = set(
    "num_processes nproc_per_node config-path config-name config scale help device moved".split()
)
"""Flags of accelerate, torchrun, solo-learn, examples and benchmarks that the text mentions."""
SMALL = 'backbone="test_resnet", img_size=32, views=2, batch_size=4, max_steps=1, cpu=True, '
ids = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


PYTHON = [(page, i, code) for page in PAGES for i, code in enumerate(blocks(page, "python"))]


@pytest.mark.parametrize(
    "code", [code for *_, code in PYTHON], ids=[f"{p.stem}-{i}" for p, i, _ in PYTHON]
)
def test_every_python_block_runs(code, tmp_path, monkeypatch, capsys):
    compile(code, "block", "exec")
    first = code.splitlines()[0].split(". make")[0]
    if first in NOT_RUN:
        return
    assert "hf-hub:" not in code and "cuda" not in code
    monkeypatch.chdir(tmp_path)
    if "path/to/images" in code:
        Path("path/to/images").mkdir(parents=True)
        for i in range(8):
            picture = Image.effect_noise((40, 40), 60 + i).convert("RGB")
            picture.save(f"path/to/images/{i}.png")
        code = code.replace("PretrainConfig(", f"PretrainConfig({SMALL}")
    if "runs/first" in code:
        size = {"in_chans": 1, "img_size": 32}
        effssl.save_pretrained(effssl.create_model("test_resnet", **size), "runs/first/model")
    exec(code, {"__name__": "__main__"})
    shown = capsys.readouterr().out.splitlines()
    expected = re.findall(r"^print\(.*\)  # (.+)$", code, re.M)
    assert shown[-len(expected) :] == expected or not expected


COMMAND_LINES = [
    (page, line) for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()
]


def test_every_command_of_bash_blocks_parses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    effssl.PretrainConfig(epochs=3).save(Path("runs/mine/config.json"))
    parsed = 0
    for page, line in COMMAND_LINES:
        words = shlex.split(line, comments=True)
        if "examples/pretrain.py" in words:
            tyro.cli(effssl.PretrainConfig, args=words[words.index("examples/pretrain.py") + 1 :])
        elif "effssl" in words[:1] or "effssl.cli" in words:
            words = words[words.index("effssl.cli" if "effssl.cli" in words else "effssl") + 1 :]
            if words[0] == "pretrain":
                words[1:] = expand_config(words[1:])
            parse(words)
        else:
            assert words[0] == "pip", f"{page}: {line}"
            continue
        parsed += 1
    assert parsed >= 20


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_flag_and_name_exists(page):
    text = page.read_text()
    fields = {field.name for field in dataclasses.fields(effssl.PretrainConfig)}
    for command in COMMANDS.values():
        fields |= {field.name for field in dataclasses.fields(command)}
    flags = set(
        re.findall(r"`[^`\n]*?--([a-z][a-z_-]*)", re.sub(r"```.*?```", "", text, flags=re.S))
    )
    unknown = {flag for flag in flags if flag.replace("-", "_") not in fields}
    assert unknown <= OF_OTHERS
    for name in set(re.findall(r"\beffssl((?:\.[A-Za-z]\w+)+)\b", text)):
        value, path = effssl, "effssl"
        for part in name.split(".")[1:]:
            path = f"{path}.{part}"
            if not hasattr(value, part):
                importlib.import_module(path)
            value = getattr(value, part)


def test_the_pages_are_in_the_site_and_readme_is_one_page():
    site = (ROOT / "mkdocs.yml").read_text()
    assert all(f"- {page.name}\n" in site for page in (ROOT / "docs").glob("*.md"))
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_help_is_quick_because_it_imports_no_torch():
    """It takes a third of a second; a test of time would fail on a busy machine."""
    code = (
        "import sys\nfrom effssl.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(', '.join({'torch', 'timm', 'datasets', 'numpy'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "recommend" in result.stdout
