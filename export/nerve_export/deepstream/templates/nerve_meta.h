// What libnerve_deepstream.so attaches to a frame beside NvDsInferSegmentationMeta.
#pragma once

#include <cstdint>

// The argument of nvds_get_user_meta_type() for the user meta whose user_meta_data is a NerveConfidence.
#define NERVE_CONFIDENCE_META "NERVE.SEGMENTATION.CONFIDENCE"

// How sure the label of each pixel is, 0 to 255, row by row. class_probabilities_map of NvDsInferSegmentationMeta is left
// empty: it has a plane of floats for every class, and the graph gives the probability of the winning class alone.
struct NerveConfidence {
    uint32_t width;
    uint32_t height;
    const uint8_t* confidence;
};
