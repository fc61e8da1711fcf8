#include "temporal.h"

#include <charconv>
#include <cmath>

#include "error.h"
#include "json_fields.h"

namespace nerve {

namespace {

// As Python writes a float.
std::string number_text(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
    char digits[32];
    const bool plain = value == 0 || (std::fabs(value) >= 1e-4 && std::fabs(value) < 1e16);
    const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
    const auto end = std::to_chars(digits, digits + sizeof digits, value, format).ptr;
    const std::string text(digits, end);
    return plain && text.find('.') == std::string::npos ? text + ".0" : text;
}

void check_range(const char* name, double value, bool fits, const char* expected) {
    if (!fits) fail(NERVE_USAGE, {name, " is ", number_text(value), ", expected ", expected});
}

void check_count(const char* name, int value) {
    if (value < 1) fail(NERVE_USAGE, {name, " is ", decimal(value), ", expected 1 or more frames"});
}

bool is_share(double value) { return value >= 0 && value <= 1; }

}  // namespace

void Temporal::check() const {
    check_count("keyframe-every", keyframe_every);
    check_range("longest-s", longest_s, longest_s > 0, "above 0 seconds");
    check_count("scores-every", scores_every);
    check_range("smoothing", smoothing, smoothing >= 0 && smoothing < 1, "0 to below 1");
    check_range("change", change, is_share(change), "0 to 1");
    check_range("cut", cut, is_share(cut), "0 to 1");
}

bool Temporal::watches() const {
    const bool follows = keyframe_every > 1 && between == NERVE_FOLLOW;
    return follows || smoothing > 0 || change > 0 || cut > 0;
}

Decision Temporal::decide(int age, double age_s, bool same_size, double traced, double visible) const {
    if (age == 0 || !same_size || traced < cut) return Decision::CUT;
    if (age >= keyframe_every || !(age_s >= 0 && age_s < longest_s) || visible < change) return Decision::KEYFRAME;
    return Decision::BETWEEN;
}

std::vector<std::string> Temporal::stages(const std::string& readout_stage) const {
    std::string stages = "scores attention mix walk " + readout_stage;
    if (keyframe_every > 1) {
        if (between == NERVE_FOLLOW) stages += " carry walk_carried";
        if (between == NERVE_WARM) stages += " walk_warm";
        if (between == NERVE_EXACT) stages += " solve walk_exact";
    }
    const bool carries = keyframe_every > 1 && between == NERVE_FOLLOW;
    if ((smoothing > 0 || scores_every > 1) && !carries) stages += " carry";
    return split(stages, " ");
}

const char* between_name(nerve_between between) {
    constexpr const char* NAMES[] = {"follow", "warm", "exact", "hold"};
    return NAMES[between];
}

Constants chosen_constants(const nerve_params& params, const Method& method) {
    const auto chosen = [](double value, double usual) { return std::isnan(value) ? usual : value; };
    const double tau = chosen(params.tau, method.tau), alpha = chosen(params.alpha, method.alpha);
    const double beta = chosen(params.beta, method.beta), threshold = chosen(params.threshold, method.threshold);
    const double temperature = chosen(params.head_temperature, method.head_temperature);
    check_range("tau", tau, tau > 0 && std::isfinite(tau), "above 0");
    check_range("alpha", alpha, alpha >= 0 && alpha < 1, "0 to below 1");
    check_range("beta", beta, is_share(beta), "0 to 1");
    check_range("head_temperature", temperature, temperature > 0 && std::isfinite(temperature), "above 0");
    check_range("threshold", threshold, is_share(threshold), "0 to 1");
    return {static_cast<float>(tau),         static_cast<float>(alpha),     static_cast<float>(beta),
            static_cast<float>(temperature), static_cast<float>(threshold), !std::isnan(params.threshold)};
}

}  // namespace nerve
