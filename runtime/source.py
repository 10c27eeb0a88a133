"""Which kind of source says what a bundle says."""

from sottovoce.runtime.bundle import Bundle
from sottovoce.runtime.coreml_patch import CoremlPatchSource
from sottovoce.runtime.decode import TokenSource
from sottovoce.runtime.patch_decode import PatchSource
from sottovoce.runtime.utterance import Source


def open_source(bundle: Bundle, prefill_chunk: int) -> Source:
    """A source on `bundle`, its buffers allocated; a prefix is read `prefill_chunk` positions at a time."""
    if bundle.source is not None:
        return bundle.source()
    if bundle.manifest.patch is None:
        return TokenSource(bundle, prefill_chunk)
    if bundle.coreml is not None:
        return CoremlPatchSource(bundle, bundle.coreml, bundle.manifest.patch)
    return PatchSource(bundle, bundle.manifest.patch, prefill_chunk)
