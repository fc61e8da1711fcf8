// Stands in for nerve.cc until it is there, so that the build can be tried; every call but the first three is refused.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "nerve/nerve.h"

namespace {

thread_local const char* last_error = "";

nerve_code refuse() {
    last_error = "this is a placeholder";
    return NERVE_INTERNAL;
}

nerve_params default_params() {
    nerve_params params;
    std::memset(&params, 0, sizeof params);
    params.keyframe_every = params.scores_every = 1;
    params.longest_s = 2.0;
    params.tau = params.alpha = params.beta = params.head_temperature = NAN;
    return params;
}

}  // namespace

const char* nerve_version() { return "0.0.0-placeholder"; }
const char* nerve_last_error() { return last_error; }
void nerve_params_init(nerve_params* params, size_t struct_size) {
    const nerve_params defaults = default_params();
    std::memcpy(params, &defaults, struct_size < sizeof defaults ? struct_size : sizeof defaults);
    params->struct_size = struct_size;
}
void nerve_params_video(nerve_params* params) { params->keyframe_every = 10; }
nerve_code nerve_open(const char*, const nerve_params*, nerve_segmenter**) { return refuse(); }
nerve_code nerve_new_video(nerve_segmenter*, nerve_segmenter**) { return refuse(); }
nerve_code nerve_set_classes(nerve_segmenter*, const char*, const char*) { return refuse(); }
nerve_code nerve_set_vocabulary(nerve_segmenter*, const char*) { return refuse(); }
int32_t nerve_class_count(const nerve_segmenter*) { return 0; }
const char* nerve_class_name(const nerve_segmenter*, int32_t) { return nullptr; }
size_t nerve_label_bytes(const nerve_segmenter*) { return 1; }
const char* nerve_description(const nerve_segmenter*) { return ""; }
nerve_code nerve_get_info(const nerve_segmenter*, nerve_info*) { return refuse(); }
nerve_code nerve_grey(const nerve_segmenter*, const nerve_frame*, uint8_t*) { return refuse(); }
nerve_code nerve_segment(nerve_segmenter*, const nerve_frame*, nerve_result*) { return refuse(); }
void nerve_reset(nerve_segmenter*) {}
void nerve_stop(nerve_segmenter*) {}
void nerve_close(nerve_segmenter*) {}
