"""PyTorch modules to ONNX graphs, one stage each."""
