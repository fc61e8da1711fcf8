// Stand-in for DeepStream's nvdsinfer.h: only what our library names, after the public API reference.
#pragma once

typedef enum { NVDSINFER_SUCCESS = 0, NVDSINFER_CONFIG_FAILED, NVDSINFER_CUSTOM_LIB_FAILED } NvDsInferStatus;

constexpr int NVDSINFER_MAX_DIMS = 8;
