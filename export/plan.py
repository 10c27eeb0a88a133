"""What an export would write: a user's request and a voice → decoder options, warnings and sizes. Writes nothing."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from sottovoce.errors import OptionError, VoiceError
from sottovoce.export.cache_scales import random_utterances
from sottovoce.export.codec_graph import codec_graphs
from sottovoce.export.decoder import DecoderOptions, DecoderParts, plan_decoder
from sottovoce.export.head import check_ranges, ids_of, speech_ranges
from sottovoce.export.heard import heard
from sottovoce.export.patch_graph import PatchOptions, plan_patches
from sottovoce.export.weight_recipe import WeightRecipe, recipe_of
from sottovoce.models.checkpoint import read_json
from sottovoce.models.codec import Codec
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import CacheFormat, CodecFormat, Flavour, WeightFormat

Window = int | Literal["full"]
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Request:
    """What a user asks of an export; None leaves the choice to the voice. `head_ids` serves `decoder_only` alone."""

    weights: WeightFormat | WeightRecipe = "int8"
    window: Window | None = None
    prefix: int | None = None
    decoder_only: bool = False
    head_ids: Ranges | None = None
    cache: CacheFormat = "fp32"
    flavour: Flavour = "ort"
    codec: CodecFormat = "fp32"


@dataclass(frozen=True)
class Plan:
    """A request that can be honoured: `sizes` maps file name → bytes, without parity.json and the manifest."""

    options: DecoderOptions | PatchOptions
    parts: DecoderParts
    codec: dict[str, onnx.ModelProto]
    codec_weights: CodecFormat
    copies: dict[str, Path]
    warnings: tuple[str, ...]
    sizes: dict[str, int]


def plan_export(voice: Voice, request: Request) -> Plan:
    """Check `request` against `voice`; raises OptionError or VoiceError where it cannot be honoured."""
    if request.codec != "fp32" and (request.decoder_only or request.flavour != "ort"):
        raise OptionError(f"--codec {request.codec} goes with a whole voice for ONNX Runtime's own operators")
    if request.decoder_only:
        voice.refuse_patches("--decoder-only takes a decoder of tokens, export the voice whole")
    options = _decoder_only(voice, request) if request.decoder_only else _speaking(voice, request)
    if isinstance(options, PatchOptions):
        parts = plan_patches(voice.patches(), voice.complete().prompt, options)
    else:
        parts = plan_decoder(voice.checkpoint, options)
    codec = {} if request.decoder_only else codec_graphs(_codec(voice), request.codec)
    copies = {} if request.decoder_only else _copies(voice)
    sizes = parts.sizes | {name: graph.ByteSize() for name, graph in codec.items()}
    sizes |= {name: path.stat().st_size for name, path in copies.items()}
    return Plan(options, parts, codec, request.codec, copies, tuple(_warnings(voice, options, parts)), sizes)


def _decoder_only(voice: Voice, request: Request) -> DecoderOptions:
    """Options for a bare checkpoint: it records neither prefix nor window, and positions end where its config says."""
    if recipe_of(request.weights).calibrate:
        raise OptionError("--calibrate listens to what a voice says: a decoder alone says nothing")
    if request.prefix is None or request.window is None:
        raise OptionError("--decoder-only needs --prefix and --window: a bare checkpoint records neither")
    longest = voice.checkpoint.config.max_position
    window = longest - request.prefix if request.window == "full" else request.window
    _check_slots(request.prefix, window)
    if request.prefix + window > longest:
        raise OptionError(f"--prefix {request.prefix} and --window {window} pass the checkpoint's {longest} positions")
    options = DecoderOptions(
        request.weights, request.prefix, window, longest, request.head_ids, request.cache, flavour=request.flavour
    )
    if request.cache != "int8":
        return options
    ids = ids_of(check_ranges(request.head_ids, voice.checkpoint.config.vocab_size))
    return replace(options, heard=random_utterances(ids, request.prefix, window))


def _speaking(voice: Voice, request: Request) -> DecoderOptions | PatchOptions:
    """Options for a whole voice: the ring of a full window holds the longest utterance and never wraps.

    A patch voice counts its window in patches.
    """
    spec = voice.complete()
    if request.head_ids is not None:
        raise OptionError("--head-ids goes with --decoder-only: a voice keeps its codes and stop ids")
    prefix = spec.slots if request.prefix is None else request.prefix
    asked = spec.cached if request.window is None else request.window
    window = spec.steps + 1 if asked == "full" else asked
    _check_slots(prefix, window)
    fixed = sum(isinstance(item, int) for item in spec.prompt.layout)
    if prefix <= fixed:
        raise OptionError(f"--prefix {prefix}: the layout alone takes {fixed} slots, at least {fixed + 1} are needed")
    positions = spec.reach(prefix, window)
    if spec.patch is not None:
        if request.cache != "fp32":
            raise OptionError(f"--cache {request.cache}: the caches of a patch voice are fp32 so far")
        if request.flavour != "ort":
            raise OptionError(f"--flavour {request.flavour}: a patch voice draws its tokens in the graph, in ort alone")
        return PatchOptions(request.weights, prefix, window, spec.prompt.max_prompt_codes, positions)
    return DecoderOptions(
        weights=request.weights,
        prefix=prefix,
        window=window,
        max_position=positions,
        head_ranges=speech_ranges(spec.prompt),
        cache=request.cache,
        heard=heard(voice, prefix) if request.cache == "int8" else (),
        flavour=request.flavour,
    )


def _codec(voice: Voice) -> Codec:
    """The voice's codec; VoiceError where the prompt counts other codes than it has."""
    codec = Codec.load(voice.codec_folder)
    assert voice.spec is not None
    if (count := voice.spec.prompt.code_count) != codec.codebook_size:
        raise VoiceError(f"{voice.folder}: prompt.code_count is {count}, its codec has {codec.codebook_size} codes")
    return codec


def _check_slots(prefix: int, window: int) -> None:
    """Raise OptionError for a cache without conditioning slots or ring."""
    if prefix < 1:
        raise OptionError(f"--prefix {prefix}: at least 1 slot is needed")
    if window < 2:
        raise OptionError(f"--window {window}: at least 2, the current token and one before it")


def _warnings(voice: Voice, options: DecoderOptions | PatchOptions, parts: DecoderParts) -> list[str]:
    """What a user should know and the manifest records."""
    found, spec = [], voice.spec
    if isinstance(options, DecoderOptions) and options.cache == "int8" and (spec is None or not voice.prompts()):
        found.append("the int8 cache is made for random tokens: there are no preset speakers to take its range from")
    if parts.prefill is not None and parts.cache.groups[0].dtype != "fp32":
        found.append(
            "portable graphs copy keys of a small cache in float32 at every step, which takes most of what it saves"
        )
    elif isinstance(options, DecoderOptions) and options.cache == "fp16":
        found.append("over an fp16 cache steps take longer where the processor does not compute in it; int8 is smaller")
    if "fp16" in parts.weights.formats:
        found.append("fp16 is a file format: the CPU engine holds float32, twice as much, and is no faster for it")
    if spec is not None:
        full, prefix = spec.steps + 1, spec.slots
        if options.window < min(spec.window or full, full):
            trained = f"of {spec.window}" if spec.window else "that never wraps"
            found.append(f"window {options.window} is below the trained one {trained}: expect worse speech")
        if options.prefix < prefix:
            found.append(f"prefix {options.prefix} is below the voice's {prefix}: long sentences or clips won't fit")
        reach = voice.checkpoint.config.max_position
        if options.max_position > reach:
            found.append(f"positions go up to {options.max_position - 1}, the checkpoint was made for {reach}")
    return found


def _copies(voice: Voice) -> dict[str, Path]:
    """Files taken over as they are, by their name in the bundle: text front end with its data, and preset prompts."""
    spec = voice.spec
    assert spec is not None
    files = {spec.text.file: voice.text_file}
    data = read_json(voice.text_file).get("file")
    if data is not None:
        # In the voice's own folder, whatever a stranger's file says, and where the runtime will look for it.
        if (name := str(data)) != Path(name).name:
            raise VoiceError(f"{voice.text_file}: file {name!r} must be a plain name, its data lies beside it")
        files[name] = voice.home / name
    for name, prompt in voice.prompts().items():
        path = voice.home / "prompts" / f"{name}.json"
        longest, count = spec.prompt.max_prompt_codes, spec.prompt.code_count
        if not 0 < len(prompt.codes) <= longest or not all(0 <= code < count for code in prompt.codes):
            raise VoiceError(f"{path}: 1 to {longest} codes in 0..{count - 1} are allowed")
        files[f"prompts/{name}.json"] = path
    if missing := [path for path in files.values() if not path.is_file()]:
        raise VoiceError(f"{missing[0]} is missing from the voice")
    return files
