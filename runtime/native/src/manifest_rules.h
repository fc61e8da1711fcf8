// What has to hold between the fields of a manifest; every check throws InvalidField.
#pragma once

#include <string>
#include <vector>

#include "json_fields.h"
#include "manifest.h"

namespace nerve {

// Whether a path is relative, has forward slashes, and stays inside the bundle, on every system.
bool is_plain_relative(const std::string& path);
std::string path_refusal(const std::string& path);

void check_tensor_sizes(const Field& stage, const StageRecord& record);
void check_templates(const Field& vocabulary, const VocabularyRecord& record);
std::vector<EngineRecord> read_engines(const Field& field);

// Whether stages, files, axes and labels fit each other.
void check_whole(const Field& document, const Manifest& manifest);

}  // namespace nerve
