// One video: when attention is computed anew, and what is kept from frame to frame.
#pragma once

#include "decoding.h"
#include "image.h"
#include "motion.h"

namespace nerve {

struct VideoFrame {
    ImageView picture;
    double time_s;      // NAN: none
    const float* flow;  // (motion height, motion width, 2), nullptr: unknown
};

// What is known of a labelled frame besides its labels.
struct FrameRecord {
    bool valid;     // false: the scores were not finite, no pixel has a label
    bool keyframe;  // attention was computed for this very frame
    int affinity_age;
};

// Segments the frames of one video in order. An error on the way makes the next frame start from nothing.
class Video {
   public:
    Video(Graphs& graphs, const Temporal& temporal);

    // Raises UsageError: the frame needs a flow and has none; what the graphs raise.
    FrameRecord segment(const VideoFrame& frame, const VocabularyPtr& vocabulary, const ReadOutTarget& target);

    // Forget everything: the next frame is computed from nothing.
    void reset();

   private:
    EncodedFrame encode(const VideoFrame& frame);
    std::optional<Motion> measure_motion(const std::vector<uint8_t>& working, const float* flow);
    Decision decide(const VideoFrame& frame, const std::optional<Motion>& motion);
    std::optional<Tensors> followed(const std::optional<Motion>& motion, Decision decision) const;
    Tensors run_attention(const TensorPtr& working, Decision decision) const;

    Graphs& graphs_;
    const Temporal& temporal_;
    MotionTracker tracker_;
    bool tracks_ = false;  // whether the tracker has a frame to compare with
    int age_ = -1;         // frames since the keyframe, -1 where there is none
    double keyframe_s_ = 0;
    int height_ = 0, width_ = 0;
    VideoStatePtr state_;
};

}  // namespace nerve
