"""Bundle → audio, with numpy, onnxruntime and soundfile only."""
