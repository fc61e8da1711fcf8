// Copies to a GPU, by the driver's own library, loaded when it is needed.
#pragma once

#include <cstddef>

namespace nerve {

// Copy host memory to memory of GPU `device` and wait for it. Raises CompatibilityError: there is no driver; ResourceError.
void copy_to_gpu(int device, void* to, const void* from, size_t bytes);

}  // namespace nerve
