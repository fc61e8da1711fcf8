// Stand-in for DeepStream's gstnvdsinfer.h: only what our library names, after the public API reference.
#pragma once

#include "nvdsmeta.h"

struct NvDsInferSegmentationMeta {
    guint classes;
    guint width;
    guint height;
    gint* class_map;
    gfloat* class_probabilities_map;
    void* priv_data;
};
