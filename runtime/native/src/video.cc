#include "video.h"

#include <cmath>
#include <cstring>

#include "error.h"
#include "labels.h"

namespace nerve {

Video::Video(Graphs& graphs, const Temporal& temporal)
    : graphs_(graphs),
      temporal_(temporal),
      tracker_({graphs.manifest().geometry.grid_hw[0], graphs.manifest().geometry.grid_hw[1]},
               motion_size_hw(graphs.manifest().geometry.working_hw[0], graphs.manifest().geometry.working_hw[1])) {}

void Video::reset() {
    age_ = -1;
    tracks_ = false;
    tracker_.forget();
    state_ = nullptr;
}

FrameRecord Video::segment(const VideoFrame& frame, const VocabularyPtr& vocabulary, const ReadOutTarget& target) {
    if (tracks_ && temporal_.watches() && !frame.flow)
        fail(NERVE_USAGE,
             {"the frame has no flow, which between=follow, smoothing, change and cut need after the first frame; measure it on "
              "nerve_grey, or set smoothing, change and cut to 0 and another `between`"});
    try {
        const EncodedFrame encoded = encode(frame);
        const FrameDecoder decoder(graphs_, temporal_, encoded, vocabulary);
        auto state = std::make_shared<VideoState>(decoder.next_state(encoded.decision == Decision::CUT ? nullptr : state_));
        const bool valid = graphs_.read_out(state->label_scores, encoded.working, *vocabulary, target);
        if (valid) {
            state_ = state;
        } else {
            const size_t pixels = static_cast<size_t>(target.height) * static_cast<size_t>(target.width);
            std::memset(target.labels, 0xff, pixels * label_bytes(static_cast<int64_t>(vocabulary->bank.class_names.size())));
            if (target.confidence) std::memset(target.confidence, 0, pixels);
            reset();
        }
        return {valid, encoded.decision != Decision::BETWEEN, encoded.age};
    } catch (...) {
        reset();
        throw;
    }
}

EncodedFrame Video::encode(const VideoFrame& frame) {
    const Geometry& geometry = graphs_.manifest().geometry;
    const std::vector<uint8_t> pixels = resize_frame(frame.picture, geometry.working_hw[0], geometry.working_hw[1]);
    const std::optional<Motion> motion = measure_motion(pixels, frame.flow);
    EncodedFrame encoded;
    encoded.decision = decide(frame, motion);
    encoded.age = age_;
    encoded.working = graphs_.upload(pixels, {1, geometry.working_hw[0], geometry.working_hw[1], 3});
    encoded.motion = followed(motion, encoded.decision);
    const Tensors attention = run_attention(encoded.working, encoded.decision);
    encoded.head_affinity = attention.find("head_affinity");
    encoded.local_weights = attention.find("local_weights");
    encoded.patch_features = attention.find("patch_features");
    return encoded;
}

std::optional<Motion> Video::measure_motion(const std::vector<uint8_t>& working, const float* flow) {
    if (!temporal_.watches()) return std::nullopt;
    const Geometry& geometry = graphs_.manifest().geometry;
    tracks_ = true;
    return tracker_.follow(grey_picture(working.data(), geometry.working_hw[0], geometry.working_hw[1]), flow);
}

// Decide, and count from the keyframe.
Decision Video::decide(const VideoFrame& frame, const std::optional<Motion>& motion) {
    const double now_s = std::isnan(frame.time_s) ? 0.0 : frame.time_s;
    const bool same_size = frame.picture.height == height_ && frame.picture.width == width_;
    const Decision decision = temporal_.decide(age_ + 1, now_s - keyframe_s_, same_size, motion ? motion->traced() : 1.0,
                                               motion ? motion->visible() : 1.0);
    height_ = frame.picture.height;
    width_ = frame.picture.width;
    if (decision == Decision::BETWEEN) {
        ++age_;
        return decision;
    }
    age_ = 0;
    keyframe_s_ = now_s;
    tracker_.begin();
    return decision;
}

// The motion as inputs of the graphs; nothing where nothing is followed.
std::optional<Tensors> Video::followed(const std::optional<Motion>& motion, Decision decision) const {
    if (!motion || decision == Decision::CUT) return std::nullopt;
    const int64_t tokens = graphs_.manifest().geometry.tokens();
    return Tensors()
        .set("origin_tokens", graphs_.upload(motion->origin_tokens, {tokens}))
        .set("origin_visible", graphs_.upload(motion->origin_visible, {tokens}))
        .set("previous_tokens", graphs_.upload(motion->previous_tokens, {4, tokens}))
        .set("previous_weights", graphs_.upload(motion->previous_weights, {4, tokens}));
}

// What is computed of the picture alone: all of stage `attention` on a keyframe; between keyframes its patch features and W
// where one tower says both and scores are due, or W where a graph computes it from colours.
Tensors Video::run_attention(const TensorPtr& working, Decision decision) const {
    const Tensors inputs = Tensors().set("frame", working);
    if (decision != Decision::BETWEEN) return graphs_.run("attention", inputs);
    const bool follows = temporal_.between == NERVE_FOLLOW;
    const bool scores_are_due = temporal_.between != NERVE_HOLD && age_ % temporal_.scores_every == 0;
    if (graphs_.has_one_tower() && scores_are_due) {
        Tensors outputs = graphs_.run("attention", inputs);
        outputs.remove("head_affinity");
        if (!follows) outputs.remove("local_weights");
        return outputs;
    }
    if (follows && graphs_.has("local")) return graphs_.run("local", inputs);
    return {};
}

}  // namespace nerve
