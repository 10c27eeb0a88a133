"""An interpreter of MIL, the language of Core ML programs: any `.mlpackage`, read from disk and run on any machine."""
