// The second half of a frame's work: from its encoded form and the state of its video to the scores of its tokens.
#pragma once

#include <optional>

#include "graphs.h"
#include "temporal.h"

namespace nerve {

// The first half of a frame's work: all that needs no class names. Tensors are with the back end, nullptr where there is none.
struct EncodedFrame {
    TensorPtr working;  // uint8 (1, h, w, 3)
    Decision decision;
    int age;                        // frames since the keyframe
    std::optional<Tensors> motion;  // where the frame's tokens come from, the fields of Motion; nothing where it is unknown
    TensorPtr head_affinity;        // output of stage `attention` for a keyframe
    TensorPtr local_weights;        // W of this frame
    TensorPtr patch_features;       // where one tower says both and scores are due
};

// What outlives a decoded frame.
struct VideoState {
    VocabularyPtr vocabulary;  // to which the scores belong
    TensorPtr head_affinity;   // of the last keyframe
    TensorPtr affinity;        // S, mixed for the vocabulary
    TensorPtr local_weights;   // W of the keyframe
    Tensors closed_form;       // outputs of stage `solve`, none where it is not opened
    TensorPtr seed_scores;     // G of the latest frame, float32 (c, p)
    TensorPtr label_scores;    // P of the latest frame, float32 (c, p)
};

using VideoStatePtr = std::shared_ptr<const VideoState>;

class FrameDecoder {
   public:
    FrameDecoder(Graphs& graphs, const Temporal& temporal, const EncodedFrame& frame, VocabularyPtr vocabulary)
        : graphs_(graphs), temporal_(temporal), frame_(frame), vocabulary_(std::move(vocabulary)) {}

    // The state after this frame; `before` is the one after the frame before, nullptr after a cut.
    VideoState next_state(const VideoStatePtr& before) const;

   private:
    VideoState keyframe(const VideoStatePtr& before) const;
    VideoState between_keyframes(const VideoState& before) const;
    TensorPtr seed_scores(const VideoState& before) const;
    TensorPtr fresh_seed_scores(const VideoState* before) const;
    TensorPtr seen() const;
    TensorPtr carry(const TensorPtr& fresh, const TensorPtr& previous, double keep) const;
    TensorPtr mix_heads(const TensorPtr& head_affinity, const TensorPtr& seed_scores) const;
    Tensors solve(const TensorPtr& affinity, const TensorPtr& local_weights) const;
    TensorPtr walk_on(const VideoState& state, const TensorPtr& start) const;
    TensorPtr walk_followed(const VideoState& state, const Tensors& motion, const TensorPtr& start) const;
    TensorPtr near_affinity(const VideoState& state, const TensorPtr& origin_tokens) const;
    TensorPtr walk(const std::string& stage, Tensors inputs) const;

    Graphs& graphs_;
    const Temporal& temporal_;
    const EncodedFrame& frame_;
    const VocabularyPtr vocabulary_;
};

}  // namespace nerve
