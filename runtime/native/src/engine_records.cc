#include "engine_records.h"

#include <pwd.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>
#include <stdexcept>
#include <system_error>

#include "backend.h"
#include "error.h"
#include "files.h"
#include "json_fields.h"
#include "labels.h"
#include "sha256.h"
#include "unicode.h"

namespace nerve {

namespace {

constexpr const char* FAMILY = "tensorrt ";
constexpr size_t LEDGER_LIMIT_BYTES = 16'000'000;  // a hundred thousand engines; what is longer is cut, and then damaged
constexpr int LEDGER_DEPTH_LIMIT = 8;
constexpr size_t PASSWORD_ENTRY_BYTES = 16384;

std::string lower_ascii(std::string text) {
    for (char& letter : text)
        if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
    return text;
}

bool is_sha256(const std::string& text) {
    return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::string joined(const std::set<std::string>& texts) {
    std::string listed;
    for (const std::string& text : texts) listed += (listed.empty() ? "" : ", ") + text;
    return listed;
}

// One hash for a graph and its external data: that of the file, or of all their hashes in the record's order.
std::string graph_sha256(const Manifest& manifest, const StageRecord& stage) {
    std::string digests = manifest.files.at(stage.onnx).sha256;
    for (const std::string& path : stage.external_data) digests += manifest.files.at(path).sha256;
    return stage.external_data.empty() ? digests : sha256_hex(digests.data(), digests.size());
}

std::vector<int64_t> integers_of(const Field& list) {
    std::vector<int64_t> integers;
    for (const Field& entry : list.elements()) integers.push_back(entry.integer());
    return integers;
}

std::vector<SizeRange> read_profile(const Field& profile) {
    std::vector<SizeRange> ranges;
    for (const Field& range : profile.values()) {
        const std::vector<Field> lists = range.elements();
        ranges.push_back({profile.key(range.place()), integers_of(lists[0]), integers_of(lists[1]), integers_of(lists[2])});
    }
    return ranges;
}

// A field of engines and what this machine demands of it.
struct Demand {
    const char* name;
    std::string here;
    std::string EngineRecord::* theirs;
};

[[noreturn]] void refuse_misfit(const std::string& folder, const std::string& stage, const Demand& demand,
                                const std::set<std::string>& others) {
    const std::string command = build_command(folder), name = repr(stage);
    if (others.empty())
        fail(NERVE_COMPATIBILITY, {"the bundle has no TensorRT engine of stage ", name, "; build it with: ", command});
    if (demand.theirs == &EngineRecord::onnx_sha256)
        fail(NERVE_COMPATIBILITY,
             {"the engine of stage ", name, " was made from another graph than the bundle holds; build it with: ", command});
    fail(NERVE_COMPATIBILITY, {"the engines of stage ", name, " are for ", demand.name, " ", joined(others),
                               ", this machine has ", demand.here, "; build one for it with: ", command});
}

bool is_absolute(const char* path) { return path && path[0] == '/'; }

// As platformdirs finds it: a path that is not absolute counts as none.
std::string home_folder() {
    const char* home = std::getenv("HOME");
    if (is_absolute(home)) return home;
    std::string room(PASSWORD_ENTRY_BYTES, '\0');
    passwd entry;
    passwd* found = nullptr;
    if (getpwuid_r(getuid(), &entry, room.data(), room.size(), &found) == 0 && found) return found->pw_dir;
    fail(NERVE_RESOURCE, {"this user has no home folder, so the list of engines built here cannot be found; set XDG_DATA_HOME"});
}

[[noreturn]] void refuse_unreadable(const std::string& path, int number) {
    fail(NERVE_RESOURCE, {"the list of engines built here, ", path, ", cannot be read: [Errno ", decimal(number), "] ",
                          std::strerror(number), ": ", repr(path)});
}

[[noreturn]] void refuse_damaged(const std::string& path, size_t bytes) {
    fail(NERVE_RESOURCE, {"the list of engines built here, ", path, ", is damaged (", decimal(static_cast<int64_t>(bytes)),
                          " bytes that are no ledger); delete it, then build the engines again with: nerve-build engines BUNDLE "
                          "--target auto --force"});
}

// The content of a file; nothing where there is none.
std::optional<std::string> content_of(const std::string& path) {
    try {
        return read_file(path, LEDGER_LIMIT_BYTES);
    } catch (const std::system_error& error) {
        if (error.code().value() == ENOENT) return std::nullopt;
        refuse_unreadable(path, error.code().value());
    }
}

// The hashes that a ledger lists. Raises InvalidField, std::invalid_argument.
std::set<std::string> listed_engines(const std::string& content) {
    const Json json = parse_json(content, LEDGER_DEPTH_LIMIT);
    const Field document(json);
    document.expect_object();
    const Field engines = document.at("engines");
    document.refuse_others("engines");
    engines.expect_object();
    std::set<std::string> listed;
    const std::vector<Field> entries = engines.values();
    for (size_t place = 0; place < entries.size(); ++place) {
        if (!is_sha256(engines.key(place))) engines.refuse({"String should match pattern '^[0-9a-f]{64}$'"});
        listed.insert(engines.key(place));
        entries[place].expect_object();
        entries[place].at("about").string();
        entries[place].at("noted_s").integer();
        entries[place].refuse_others("about noted_s");
    }
    return listed;
}

}  // namespace

std::vector<EngineRecord> read_engines(const Field& field) {
    std::vector<EngineRecord> engines;
    for (const Field& engine : field.elements()) {
        const auto text = [&](const char* key) { return engine.at(key).string(); };
        engines.push_back({text("stage"), text("target"), text("path"), text("onnx_sha256"), text("backend_version"), text("gpu"),
                           text("os_arch"), engine.has("parity") ? text("parity") : "not run",
                           read_profile(engine.at("profile"))});
    }
    return engines;
}

std::string this_os_arch() {
    utsname names;
    if (uname(&names) != 0) fail(NERVE_COMPATIBILITY, {"this system does not say what it is: ", std::strerror(errno)});
    return lower_ascii(concat({names.sysname, "-", names.machine}));
}

std::string build_command(const std::string& folder) { return concat({"nerve-build engines ", folder, " --target tensorrt"}); }

const EngineRecord& fitting_engine(const std::string& folder, const Manifest& manifest, const std::string& stage,
                                   const Machine& machine) {
    const std::string graph = graph_sha256(manifest, stage_record(manifest, stage));
    std::vector<const EngineRecord*> left;
    for (const EngineRecord& record : manifest.engines)
        if (record.stage == stage && (record.backend_version + " ").compare(0, std::strlen(FAMILY), FAMILY) == 0)
            left.push_back(&record);
    const Demand demands[] = {{"compute capability", machine.gpu, &EngineRecord::gpu},
                              {"system", machine.os_arch, &EngineRecord::os_arch},
                              {"version", machine.backend_version(), &EngineRecord::backend_version},
                              {"graph", graph, &EngineRecord::onnx_sha256}};
    for (const Demand& demand : demands) {
        std::set<std::string> others;
        for (const EngineRecord* record : left) others.insert(record->*demand.theirs);
        const auto misfits = [&](const EngineRecord* record) { return record->*demand.theirs != demand.here; };
        left.erase(std::remove_if(left.begin(), left.end(), misfits), left.end());
        if (left.empty()) refuse_misfit(folder, stage, demand, others);
    }
    return *left.back();
}

const EngineRecord& approved_engine(const std::string& folder, const Manifest& manifest, const std::string& stage,
                                    const Machine& machine, const std::string& ledger) {
    const EngineRecord& record = fitting_engine(folder, manifest, stage, machine);
    const std::string build = build_command(folder) + " --force";
    if (!ledger_knows(ledger, manifest.files.at(record.path).sha256))
        fail(NERVE_COMPATIBILITY, {"engine ", record.path,
                                   " was not built here by this user, and an engine is executable code; "
                                   "build it from the bundle's graphs with: ",
                                   build});
    if (record.parity == "failed")
        fail(NERVE_COMPATIBILITY, {"engine ", record.path, " did not agree with the reference; build it again with: ", build,
                                   ", or use backend=\"ort\""});
    if (record.parity == "not run")
        fail(NERVE_COMPATIBILITY,
             {"engine ", record.path, " was never compared with the reference; do it with: nerve-build parity ", folder,
              " --backend tensorrt"});
    return record;
}

const SizeRange* range_of(const EngineRecord& engine, const std::string& input) {
    for (const SizeRange& range : engine.profile)
        if (range.name == input) return &range;
    return nullptr;
}

std::optional<int> profile_limit(const std::string& folder, const Manifest& manifest, const std::string& stage,
                                 const std::string& tensor, const Machine& machine) {
    const EngineRecord* record = nullptr;
    try {
        record = &fitting_engine(folder, manifest, stage, machine);
    } catch (const Error& error) {
        if (error.code != NERVE_COMPATIBILITY) throw;
        return std::nullopt;  // an error when the stage is opened
    }
    const SizeRange* range = range_of(*record, tensor);
    if (!range) fail(NERVE_BUNDLE, {"engine ", record->path, " has no profile of ", repr(tensor), "; build it again"});
    const std::vector<int64_t>& sizes = range->greatest;
    // Of size_hw both sides; of class_mask the classes, behind the frames of a run where there are several.
    const int64_t most = tensor == "size_hw" ? *std::min_element(sizes.begin(), sizes.end()) : sizes.back();
    if (most < 1 || most > CLASSES_LIMIT)
        fail(NERVE_BUNDLE, {"engine ", record->path, " takes ", repr(tensor), " up to ", decimal(most), ", expected 1 to ",
                            decimal(CLASSES_LIMIT), "; build it again"});
    return static_cast<int>(most);
}

std::string default_ledger_path() {
    const char* given = std::getenv("XDG_DATA_HOME");
    std::string folder = is_absolute(given) ? given : home_folder();
    folder.erase(folder.find_last_not_of('/') + 1);
    return concat({folder, is_absolute(given) ? "" : "/.local/share", "/nerve-deploy/engines.json"});
}

bool ledger_knows(const std::string& ledger, const std::string& sha256) {
    const std::optional<std::string> content = content_of(ledger);
    if (!content) return false;
    try {
        return listed_engines(*content).count(sha256) > 0;
    } catch (const std::invalid_argument&) {
        refuse_damaged(ledger, content->size());
    } catch (const InvalidField&) {
        refuse_damaged(ledger, content->size());
    }
}

}  // namespace nerve
