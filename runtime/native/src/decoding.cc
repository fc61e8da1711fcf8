#include "decoding.h"

namespace nerve {

namespace {

constexpr double KEEP_ALL = 1.0;

}  // namespace

VideoState FrameDecoder::next_state(const VideoStatePtr& before) const {
    return frame_.decision == Decision::BETWEEN ? between_keyframes(*before) : keyframe(before);
}

VideoState FrameDecoder::keyframe(const VideoStatePtr& before) const {
    VideoState state;
    state.vocabulary = vocabulary_;
    state.head_affinity = frame_.head_affinity;
    state.local_weights = frame_.local_weights;
    state.seed_scores = fresh_seed_scores(before.get());
    state.affinity = mix_heads(state.head_affinity, state.seed_scores);
    Tensors inputs;
    inputs.set("seed_scores", state.seed_scores).set("affinity", state.affinity).set("local_weights", state.local_weights);
    state.label_scores = walk("walk", inputs);
    state.closed_form = solve(state.affinity, state.local_weights);
    return state;
}

VideoState FrameDecoder::between_keyframes(const VideoState& before) const {
    VideoState state = before;
    state.seed_scores = seed_scores(before);
    if (before.vocabulary == vocabulary_) {
        state.label_scores = walk_on(state, before.label_scores);
        return state;
    }
    state.vocabulary = vocabulary_;
    state.affinity = mix_heads(before.head_affinity, state.seed_scores);
    state.closed_form = solve(state.affinity, before.local_weights);
    state.label_scores = walk_on(state, nullptr);
    return state;
}

TensorPtr FrameDecoder::seed_scores(const VideoState& before) const {
    if (before.vocabulary == vocabulary_) {
        if (temporal_.between == NERVE_HOLD) return before.seed_scores;
        if (frame_.age % temporal_.scores_every) return carry(before.seed_scores, before.seed_scores, KEEP_ALL);
    }
    return fresh_seed_scores(&before);
}

// G by CLIP, smoothed with that of the frame before where the policy says so.
TensorPtr FrameDecoder::fresh_seed_scores(const VideoState* before) const {
    const TensorPtr fresh = graphs_.seed_scores(seen(), *vocabulary_);
    if (temporal_.smoothing == 0 || !before || before->vocabulary != vocabulary_) return fresh;
    return carry(fresh, before->seed_scores, temporal_.smoothing);
}

// What stage `scores` takes of the frame.
TensorPtr FrameDecoder::seen() const {
    if (!graphs_.has_one_tower()) return frame_.working;
    if (frame_.patch_features) return frame_.patch_features;
    return graphs_.run("attention", Tensors().set("frame", frame_.working))
        .at("patch_features");  // new classes where no scores were due
}

// Scores of the frame before moved to where the picture is now, `keep` of them against the fresh ones.
TensorPtr FrameDecoder::carry(const TensorPtr& fresh, const TensorPtr& previous, double keep) const {
    if (!frame_.motion) return fresh;
    Tensors inputs;
    inputs.set("seed_scores", fresh).set("previous_scores", previous).set("keep", graphs_.constant(static_cast<float>(keep)));
    for (const char* name : {"previous_tokens", "previous_weights"}) inputs.set(name, frame_.motion->at(name));
    return graphs_.run("carry", inputs).at("carried_scores");
}

TensorPtr FrameDecoder::mix_heads(const TensorPtr& head_affinity, const TensorPtr& seed_scores) const {
    Tensors inputs;
    inputs.set("head_affinity", head_affinity)
        .set("seed_scores", seed_scores)
        .set("head_temperature", vocabulary_->scalars.at("head_temperature"));
    return graphs_.run("mix", inputs).at("affinity");
}

Tensors FrameDecoder::solve(const TensorPtr& affinity, const TensorPtr& local_weights) const {
    if (!graphs_.has("solve")) return {};
    Tensors inputs = vocabulary_->walk_scalars();
    inputs.set("affinity", affinity).set("local_weights", local_weights);
    return graphs_.run("solve", inputs);
}

// Label scores between keyframes; without a start, after a change of classes, as many steps as from nothing.
TensorPtr FrameDecoder::walk_on(const VideoState& state, const TensorPtr& start) const {
    Tensors inputs;
    inputs.set("seed_scores", state.seed_scores).set("local_weights", state.local_weights);
    if (temporal_.between == NERVE_EXACT) {
        return walk("walk_exact", inputs.set_all(state.closed_form));
    }
    if (temporal_.between == NERVE_FOLLOW && frame_.motion) return walk_followed(state, *frame_.motion, start);
    if (temporal_.between == NERVE_HOLD && start) return start;
    inputs.set("affinity", state.affinity);
    return start ? walk("walk_warm", inputs.set("previous_scores", start)) : walk("walk", inputs);
}

TensorPtr FrameDecoder::walk_followed(const VideoState& state, const Tensors& motion, const TensorPtr& start) const {
    Tensors inputs;
    inputs.set("seed_scores", state.seed_scores)
        .set("affinity", state.affinity)
        .set("origin_tokens", motion.at("origin_tokens"))
        .set("origin_visible", motion.at("origin_visible"))
        .set("local_weights", near_affinity(state, motion.at("origin_tokens")));
    if (start) return walk("walk_carried", inputs.set("previous_scores", carry(state.seed_scores, start, KEEP_ALL)));
    const Method& method = graphs_.manifest().method;
    TensorPtr scores = state.seed_scores;
    for (int done = 0; done < method.steps; done += method.warm_steps) {  // as many steps as a walk from nothing
        scores = walk("walk_carried", inputs.set("previous_scores", scores));
    }
    return scores;
}

// W of this frame, or where the bundle cannot compute it alone, that of the keyframe moved with the picture.
TensorPtr FrameDecoder::near_affinity(const VideoState& state, const TensorPtr& origin_tokens) const {
    if (frame_.local_weights) return frame_.local_weights;
    Tensors inputs;
    inputs.set("keyframe_weights", state.local_weights).set("origin_tokens", origin_tokens);
    return graphs_.run("local_carried", inputs).at("local_weights");
}

TensorPtr FrameDecoder::walk(const std::string& stage, Tensors inputs) const {
    return graphs_.run(stage, inputs.set_all(vocabulary_->walk_scalars())).at("label_scores");
}

}  // namespace nerve
