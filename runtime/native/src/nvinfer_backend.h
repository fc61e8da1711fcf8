// The back end that runs a bundle's compiled engines with TensorRT 10 or later itself, on an NVIDIA GPU. Compiled only where
// the headers of TensorRT and CUDA are.
#pragma once

#include "backend.h"

namespace nerve {

// Raises CompatibilityError: there is no such GPU, or TensorRT is of another version than 10 or 11.
std::unique_ptr<Backend> open_nvinfer_backend(const std::string& folder, const Manifest& manifest, int device);

}  // namespace nerve
