// What has to hold between the fields of a manifest; every check throws InvalidField.
#pragma once

#include <string>
#include <vector>

#include "json_fields.h"
#include "manifest.h"

namespace nerve {

constexpr char STAGE_NAMES[] =
    "text, scores, attention, mix, walk, walk_warm, carry, local, local_carried, walk_carried, solve, walk_exact, readout, "
    "readout_guided, frame";

// Whether a path is relative, has forward slashes, and stays inside the bundle, on every system.
bool is_plain_relative(const std::string& path);
std::string path_refusal(const std::string& path);

void check_tensor_sizes(const Field& stage, const StageRecord& record);
void check_templates(const Field& vocabulary, const VocabularyRecord& record);

// The paths of the engines, after all else about them was checked.
std::vector<std::string> check_engines(const Field& field);

// Whether stages, files, axes and labels fit each other.
void check_whole(const Field& document, const Manifest& manifest);

}  // namespace nerve
