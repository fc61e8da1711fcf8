// The version that the stand-in for TensorRT says it has.
#pragma once

#define NV_TENSORRT_MAJOR 10
