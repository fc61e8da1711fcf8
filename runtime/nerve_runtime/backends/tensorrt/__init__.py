"""TensorRT and TensorRT-RTX: library, device memory, sessions, engines."""
