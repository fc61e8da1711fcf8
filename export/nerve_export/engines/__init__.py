"""ONNX graphs to engines of the TensorRT family."""
