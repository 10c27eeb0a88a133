"""Every error a user can meet, as one tree; a message says what is wrong, where, and what mends it.

SottovoceError
├── MissingExtraError (ImportError)   an optional dependency is not installed
├── VoiceError (ValueError)           a checkpoint or voice folder cannot be used
├── BundleError (ValueError)          a bundle is missing a file, altered, newer or malformed
│   └── ContractError                 the graph and the manifest contradict each other
├── PackageError (ValueError)         a Core ML package is damaged, or holds what the interpreter cannot run
├── ParityError (ValueError)          an exported graph does not say what torch says
├── TextError (ValueError)            text that cannot be spoken
├── PromptError (ValueError)          a reference clip that cannot be used
├── CorpusError (ValueError)          a corpus to learn from is malformed, or utterances of it cannot be used
├── OptionError (ValueError)          an option's value cannot be honoured
├── TargetError (ConnectionError)     a machine to measure on cannot be reached or used
├── FitError (MemoryError)            a bundle does not fit the memory it was given
├── TrainingError (ArithmeticError)   training cannot go on
└── OutputError (OSError)             a file or folder cannot be written

The command line prints the message as one line and exits with status 2 (ParityError and FitError: 1).
"""


class SottovoceError(Exception):
    """Base of every error this package raises on purpose."""


class MissingExtraError(SottovoceError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        """Name the missing `module` and the `extra` that brings it."""
        super().__init__(f"{module} is not installed: pip install 'sottovoce[{extra}]'")


class VoiceError(SottovoceError, ValueError):
    """A checkpoint or voice folder cannot be used."""


class BundleError(SottovoceError, ValueError):
    """A bundle is missing a file, altered, newer than this package, or malformed."""


class ContractError(BundleError):
    """The graph's inputs or outputs contradict the manifest."""


class PackageError(SottovoceError, ValueError):
    """A Core ML package is damaged, or holds something that the interpreter cannot run."""


class ParityError(SottovoceError, ValueError):
    """An exported graph does not say what the torch model says."""


class TextError(SottovoceError, ValueError):
    """Text that cannot be spoken."""


class PromptError(SottovoceError, ValueError):
    """A reference clip that cannot be used."""


class CorpusError(SottovoceError, ValueError):
    """A corpus to learn from is malformed, or utterances of it cannot be used."""


class OptionError(SottovoceError, ValueError):
    """An option's value cannot be honoured."""


class TargetError(SottovoceError, ConnectionError):
    """A machine to measure on cannot be reached, or cannot do what it is asked."""


class FitError(SottovoceError, MemoryError):
    """A bundle does not fit the memory it was given."""


class TrainingError(SottovoceError, ArithmeticError):
    """Training cannot go on: its numbers are no numbers any more."""


class OutputError(SottovoceError, OSError):
    """A file or folder cannot be written."""
