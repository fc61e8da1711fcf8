"""A bundle as a model repository of NVIDIA Triton: written from the manifest and the graphs, without torch."""
