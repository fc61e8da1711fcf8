"""Turn the reference's networks and the method into ONNX graphs, check them, and write a bundle."""
