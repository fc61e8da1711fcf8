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
    state.label_scores = walk("walk", {{"seed_scores", state.seed_scores},
                                       {"affinity", state.affinity},
                                       {"local_weights", state.local_weights}});
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
    return graphs_.run("attention", {{"frame", frame_.working}}).at("patch_features");  // new classes where no scores were due
}

// Scores of the frame before moved to where the picture is now, `keep` of them against the fresh ones.
TensorPtr FrameDecoder::carry(const TensorPtr& fresh, const TensorPtr& previous, double keep) const {
    if (!frame_.motion) return fresh;
    return graphs_
        .run("carry", {{"seed_scores", fresh},
                       {"previous_scores", previous},
                       {"keep", graphs_.constant(static_cast<float>(keep))},
                       {"previous_tokens", frame_.motion->at("previous_tokens")},
                       {"previous_weights", frame_.motion->at("previous_weights")}})
        .at("carried_scores");
}

TensorPtr FrameDecoder::mix_heads(const TensorPtr& head_affinity, const TensorPtr& seed_scores) const {
    return graphs_
        .run("mix", {{"head_affinity", head_affinity},
                     {"seed_scores", seed_scores},
                     {"head_temperature", vocabulary_->scalars.at("head_temperature")}})
        .at("affinity");
}

Tensors FrameDecoder::solve(const TensorPtr& affinity, const TensorPtr& local_weights) const {
    if (!graphs_.has("solve")) return {};
    Tensors inputs = vocabulary_->walk_scalars();
    inputs["affinity"] = affinity;
    inputs["local_weights"] = local_weights;
    return graphs_.run("solve", inputs);
}

// Label scores between keyframes; without a start, after a change of classes, as many steps as from nothing.
TensorPtr FrameDecoder::walk_on(const VideoState& state, const TensorPtr& start) const {
    Tensors inputs = {{"seed_scores", state.seed_scores}, {"local_weights", state.local_weights}};
    if (temporal_.between == NERVE_EXACT) {
        inputs.insert(state.closed_form.begin(), state.closed_form.end());
        return walk("walk_exact", inputs);
    }
    if (temporal_.between == NERVE_FOLLOW && frame_.motion) return walk_followed(state, *frame_.motion, start);
    if (temporal_.between == NERVE_HOLD && start) return start;
    inputs["affinity"] = state.affinity;
    if (!start) return walk("walk", inputs);
    inputs["previous_scores"] = start;
    return walk("walk_warm", inputs);
}

TensorPtr FrameDecoder::walk_followed(const VideoState& state, const Tensors& motion, const TensorPtr& start) const {
    Tensors inputs = {{"seed_scores", state.seed_scores},
                      {"affinity", state.affinity},
                      {"origin_tokens", motion.at("origin_tokens")},
                      {"origin_visible", motion.at("origin_visible")},
                      {"local_weights", near_affinity(state, motion.at("origin_tokens"))}};
    if (start) {
        inputs["previous_scores"] = carry(state.seed_scores, start, KEEP_ALL);
        return walk("walk_carried", inputs);
    }
    const Method& method = graphs_.manifest().method;
    TensorPtr scores = state.seed_scores;
    for (int done = 0; done < method.steps; done += method.warm_steps) {  // as many steps as a walk from nothing
        inputs["previous_scores"] = scores;
        scores = walk("walk_carried", inputs);
    }
    return scores;
}

// W of this frame, or where the bundle cannot compute it alone, that of the keyframe moved with the picture.
TensorPtr FrameDecoder::near_affinity(const VideoState& state, const TensorPtr& origin_tokens) const {
    if (frame_.local_weights) return frame_.local_weights;
    return graphs_.run("local_carried", {{"keyframe_weights", state.local_weights}, {"origin_tokens", origin_tokens}})
        .at("local_weights");
}

TensorPtr FrameDecoder::walk(const std::string& stage, Tensors inputs) const {
    const Tensors scalars = vocabulary_->walk_scalars();
    inputs.insert(scalars.begin(), scalars.end());
    return graphs_.run(stage, inputs).at("label_scores");
}

}  // namespace nerve
