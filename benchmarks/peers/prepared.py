"""What contenders load, made once of one checkpoint and kept."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.peers.contenders import ENTRIES
from benchmarks.peers.environments import fresh, interpreter, requirements, run
from benchmarks.peers.rounds import Ready, Row


def checkpoint(cache: Path, config: dict[str, Any]) -> Path:
    """The random checkpoint of `config`, written where there is none."""
    folder, stamp = cache / "checkpoint", cache / "checkpoint.txt"
    wanted = json.dumps({**config, "architectures": ["Qwen2ForCausalLM"], "dtype": "float16"})
    if not fresh(stamp, wanted):
        from benchmarks.checkpoints import write_checkpoint

        shutil.rmtree(folder, ignore_errors=True)
        write_checkpoint(folder, json.loads(wanted))
        stamp.write_text(wanted)
    return folder


def prepare(name: str, source: Path, cache: Path, row: Row) -> Ready:
    """Environment and bundle of a contender; PeerError where they cannot be made."""
    entry = ENTRIES[name]
    python = interpreter(entry.module, cache)
    command = [str(python), "-m", f"benchmarks.peers.{entry.module}"]
    folder, log = cache / "bundles" / name, cache / f"{name}.log"
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    wanted = f"{digest}\n{requirements(entry.module)}"
    stamp = cache / "bundles" / f"{name}.txt"
    if not fresh(stamp, wanted):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with log.open("wb") as file:
            run([*command, "prepare", str(source), str(folder), entry.format], file)
        stamp.write_text(wanted)
    row.size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Ready([*command, "serve"], folder, entry.format, log)
