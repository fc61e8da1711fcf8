// When to compute attention anew, and how to go on between: decisions only, no state (method, section 9).
#pragma once

#include <string>
#include <vector>

#include "manifest.h"
#include "nerve/nerve.h"

namespace nerve {

enum class Decision { CUT, KEYFRAME, BETWEEN };

struct Temporal {
    int keyframe_every;
    double longest_s;
    nerve_between between;
    int scores_every;
    double smoothing;
    double change;
    double cut;

    // Raises UsageError: a value is out of its range.
    void check() const;

    // Whether the motion of the picture has to be known.
    bool watches() const;

    // How the next frame is computed. `age` counts frames since the keyframe, 1 for the one after it, 0 where there is none.
    Decision decide(int age, double age_s, bool same_size, double traced, double visible) const;

    // The stages that this policy and a read-out need, in order.
    std::vector<std::string> stages(const std::string& readout_stage) const;
};

// As the command line writes it: follow, warm, exact or hold.
const char* between_name(nerve_between between);

// Constants of the method for one segmenter; raises UsageError where one is out of its range.
struct Constants {
    float tau, alpha, beta, head_temperature, threshold;
    bool threshold_given;
};

Constants chosen_constants(const nerve_params& params, const Method& method);

}  // namespace nerve
