"""Imitations of CUDA and of the TensorRT family: the runner `bundle_fake_cuda`, and what tests of the back end run on."""
