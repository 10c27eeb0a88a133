"""What is shipped, and what importing it may bring along."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUP = PROJECT["tool"]["setuptools"]
ROOMS = ("models", "compress", "export", "runtime", "devices")
HEAVY = {"torch", "onnx", "onnx_ir", "onnxscript", "optimum", "transformers", "coremltools", "safetensors", "scipy"}
OPTIONAL = {"soxr", "tokenizers", "rich", "coreai"}


def run_side_modules():
    """Every module of the rooms that run on a device, and the command table."""
    files = [path for room in ("runtime", "devices") for path in sorted((ROOT / room).rglob("*.py"))]
    names = [".".join(("sottovoce", *path.relative_to(ROOT).with_suffix("").parts)) for path in files]
    return [name.removesuffix(".__init__") for name in names] + ["sottovoce.__main__"]


def test_every_package_is_listed():
    found = {"sottovoce"}
    for room in ROOMS:
        found |= {
            f"sottovoce.{p.parent.relative_to(ROOT)}".replace("/", ".") for p in ROOT.glob(f"{room}/**/__init__.py")
        }
    assert found == set(SETUP["packages"])
    assert {name: SETUP["package-dir"][f"sottovoce.{name}"] for name in ROOMS} == dict(zip(ROOMS, ROOMS, strict=True))


def test_every_folder_with_code_is_a_package():
    for room in ROOMS:
        folders = {path.parent for path in ROOT.glob(f"{room}/**/*.py")}
        assert all((folder / "__init__.py").is_file() for folder in folders)


@pytest.mark.parametrize("blocked", [HEAVY, HEAVY | OPTIONAL], ids=["heavy", "heavy and optional"])
def test_the_run_side_imports_without(blocked):
    """In a fresh process where importing any of `blocked` fails."""
    lines = ["import importlib, sys", f"blocked = {sorted(blocked)!r}", "sys.modules.update(dict.fromkeys(blocked))"]
    lines.append(f"for name in {run_side_modules()!r}: importlib.import_module(name)")
    lines.append("assert not [m for m in blocked if sys.modules.get(m)]")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_run_side_needs_three_distributions():
    names = {requirement.split(">")[0] for requirement in PROJECT["project"]["dependencies"]}
    assert names == {"numpy", "onnxruntime", "soundfile"}
    allowed = {*sys.stdlib_module_names, *names, "sottovoce"}
    for room in ("runtime", "devices"):
        for path in (ROOT / room).rglob("*.py"):
            assert top_level_imports(path) <= allowed, path


def top_level_imports(path):
    """Modules that importing the file at `path` brings."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_arrows_point_one_way():
    """runtime imports none of our other rooms, devices and models only runtime, compress and export models too."""
    for room, others in {
        "runtime": (),
        "devices": (),
        "models": (),
        "compress": ("models",),
        "export": ("models",),
    }.items():
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                parts = module.split(".")
                known = {room, "runtime", "errors", *others}
                assert parts[0] != "sottovoce" or len(parts) < 2 or parts[1] in known, (path, module)


def test_files_stay_readable():
    """House limits: no file over 400 lines, no function over 60."""
    for folder in (*ROOMS, "src/sottovoce", "tests"):
        for path in (p for p in (ROOT / folder).glob("**/*.py") if "src" not in folder or p.parent.name == "sottovoce"):
            text = path.read_text()
            assert text.count("\n") <= 400, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    assert (node.end_lineno or 0) - node.lineno < 60, (path, node.name)
