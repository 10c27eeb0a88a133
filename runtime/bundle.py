"""Opening a bundle: a folder nobody vouches for becomes an immutable object that threads share."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from sottovoce.errors import BundleError
from sottovoce.runtime import apple
from sottovoce.runtime.contract import check_codec, check_decoder, check_supported, check_voice, token_ids
from sottovoce.runtime.coreai import AIEngine
from sottovoce.runtime.coreml import CoremlCodec, CoremlDecoder, OpenEngine
from sottovoce.runtime.manifest import MANIFEST, CodecSpec, Manifest, PromptSpec, SamplingSpec, read_manifest
from sottovoce.runtime.memory import keep_apart
from sottovoce.runtime.pages import gather
from sottovoce.runtime.paths import inside
from sottovoce.runtime.portable_contract import check_decode, check_prefill
from sottovoce.runtime.session import Ints, NoGraph, Session, check_onnxruntime, open_session, thread_count
from sottovoce.runtime.text.frontend import Frontend, load_frontend
from sottovoce.runtime.utterance import Source


@dataclass(frozen=True)
class Voice:
    """What a bundle needs beyond its decoder to speak."""

    prompt: PromptSpec
    sampling: SamplingSpec
    codec: CodecSpec
    frontend: Frontend
    codec_session: Session


@dataclass(frozen=True)
class Bundle:
    """An open bundle; nothing in it changes, so one serves any number of streams and threads."""

    folder: Path
    manifest: Manifest
    threads: int
    decoder: Session
    token_ids: Ints
    """Token id of each logit, [V'] int64."""
    speaking: Voice | None
    """None for a decoder-only bundle."""
    load_seconds: Mapping[str, float]
    """Stages of the load: `hashes`, `decoder`, `codec`, `text`."""
    source: Callable[[], Source] | None = None
    """Opens what says its tokens where that is no graph (None: `decoder`)."""
    coreml: CoremlDecoder | None = None
    """What decodes in `decoder`'s place where that is a Core ML package."""
    prefill: Session | None = None
    """What reads a prefix, where `decoder` takes one token at a time."""

    @property
    def voice(self) -> Voice:
        """What is needed to speak; raises BundleError for a decoder-only bundle."""
        if self.speaking is None:
            raise BundleError(f"{self.folder} holds a decoder only, without codec and prompt layout: it cannot speak")
        return self.speaking


def load_bundle(
    folder: str | Path,
    threads: int | None = None,
    verify_hashes: bool = True,
    open_graph: Callable[[Path, int], Session] | None = None,
    open_engine: OpenEngine | None = None,
) -> Bundle:
    """Open the bundle in `folder` with `threads` threads per graph (None: the usable processors, at most 4).

    Raises BundleError for a missing, truncated or altered file or a newer schema, ContractError for a graph that
    contradicts the manifest, OptionError for a bad thread count. Without `verify_hashes` only names and sizes are
    checked; `open_graph` opens each graph, for callers that measure; `open_engine` Core ML packages (None: Apple's own
    does, on macOS) and Core AI assets (None: coreai-core). The portable flavour has glibc keep large pieces of memory
    apart from then on (`memory.keep_apart`).
    """
    root = Path(folder)
    count = thread_count(threads)
    seconds: dict[str, float] = {}
    manifest = read_manifest(root)
    by_default = AIEngine if manifest.flavour == "coreai" else apple.opener()
    opened, engine = open_graph or open_session, open_engine or by_default
    check_onnxruntime(manifest.min_onnxruntime)
    check_supported(manifest)
    with _timed(seconds, "hashes"):
        check_files(root, manifest, verify_hashes)
    if manifest.prefill is not None:
        keep_apart()
    with _timed(seconds, "decoder"):
        decoder, core = _open_decoder(root, manifest, count, opened, engine)
        prefill = None if manifest.prefill is None else opened(inside(root, manifest.prefill.file), count)
        if prefill is not None:
            check_prefill(manifest, prefill)
        gather()
    open_codec = partial(_open_codec, root, manifest, count, opened, engine)
    voice = _open_voice(root, manifest, seconds, open_codec)
    ids = token_ids(manifest.head)
    ids.flags.writeable = False
    return Bundle(root, manifest, count, decoder, ids, voice, MappingProxyType(seconds), coreml=core, prefill=prefill)


def _open_decoder(
    root: Path, manifest: Manifest, threads: int, open_graph: Callable[[Path, int], Session], open_engine: OpenEngine
) -> tuple[Session, CoremlDecoder | None]:
    """The decoder's graph, checked; or a Core ML package, which has none."""
    if manifest.coreml is not None:
        return NoGraph(), CoremlDecoder(root, manifest, open_engine)
    decoder = open_graph(inside(root, manifest.decoder), threads)
    check = check_decoder if manifest.prefill is None else check_decode
    check(manifest, decoder)
    return decoder, None


def _open_codec(
    root: Path,
    manifest: Manifest,
    threads: int,
    open_graph: Callable[[Path, int], Session],
    open_engine: OpenEngine,
    codec: CodecSpec,
) -> Session:
    """What decodes codes, checked."""
    if manifest.coreml is not None:
        return CoremlCodec(root, codec, manifest.coreml, open_engine)
    session = open_graph(inside(root, codec.decoder), threads)
    check_codec(codec, session)
    return session


def _open_voice(
    root: Path, manifest: Manifest, seconds: dict[str, float], open_codec: Callable[[CodecSpec], Session]
) -> Voice | None:
    """The codec and the text front end; None where the manifest has neither."""
    prompt, text, sampling, codec = manifest.prompt, manifest.text, manifest.sampling, manifest.codec
    if prompt is None and text is None and sampling is None and codec is None:
        return None
    if prompt is None or text is None or sampling is None or codec is None:
        parts = {"prompt": prompt, "text": text, "sampling": sampling, "codec": codec}
        absent = next(name for name, part in parts.items() if part is None)
        raise BundleError(f"{root / 'manifest.json'}: {absent} is missing, and a voice needs it to speak")
    check_voice(prompt, sampling, codec, manifest.head)
    with _timed(seconds, "codec"):
        session = open_codec(codec)
    with _timed(seconds, "text"):
        frontend = load_frontend(root, text)
    return Voice(prompt, sampling, codec, frontend, session)


def check_files(folder: Path, manifest: Manifest, verify_hashes: bool = True) -> None:
    """Raise BundleError, naming the file, where one is missing, truncated, altered or not listed in the manifest."""
    for name in [*_needed(manifest), *_present(folder)]:
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST}: files has no entry for {name}, so it cannot be trusted")
    for name, entry in manifest.files.items():
        path = inside(folder, name)
        if not path.is_file():
            raise BundleError(f"{path} is missing: copy the bundle again")
        if (size := path.stat().st_size) != entry.size:
            what = "truncated" if size < entry.size else "altered"
            raise BundleError(f"{path} is {what}: {size} bytes, manifest says {entry.size}; copy the bundle again")
        if verify_hashes and sha256(path) != entry.sha256:
            raise BundleError(f"{path} is altered: its SHA-256 is not the manifest's; copy the bundle again")


def _needed(manifest: Manifest) -> Iterator[str]:
    """Files the runtime opens by a name in the manifest."""
    yield _file_of(manifest.decoder)
    if manifest.prefill:
        yield manifest.prefill.file
    if manifest.text:
        yield manifest.text.file
    if manifest.codec:
        yield _file_of(manifest.codec.decoder)
        if manifest.codec.encoder:
            yield manifest.codec.encoder


def _file_of(name: str) -> str:
    """The file that makes `name` what it is: Core ML packages and Core AI assets are folders."""
    main = {".mlpackage": "Manifest.json", ".aimodel": "main.mlirb"}.get(PurePosixPath(name).suffix)
    return f"{name}/{main}" if main else name


def _present(folder: Path) -> Iterator[str]:
    """Files that lie in the bundle, for a graph or text.json may name them: not prompts a user saved, nor dotfiles."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        saved = name.parent == Path("prompts") and name.suffix == ".json"
        if path.is_file() and name != Path(MANIFEST) and not saved and not name.name.startswith("."):
            yield name.as_posix()


def sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Record how long the body takes as `seconds[stage]`."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
