// Which compiled engine of a bundle fits this machine and may run, decided from the manifest and the list of engines built
// here, before a byte of an engine is read: an engine is executable code that its library does not check.
#pragma once

#include <optional>
#include <string>

#include "json_fields.h"
#include "manifest.h"

namespace nerve {

// What engines are bound to.
struct Machine {
    std::string tensorrt_version;  // all parts, such as "10.16.1.11"
    std::string gpu;               // compute capability, such as "sm89"
    std::string os_arch;           // such as "linux-x86_64"

    // As engines record it.
    std::string backend_version() const { return "tensorrt " + tensorrt_version; }
};

// The engines of a manifest, whose fields were checked.
std::vector<EngineRecord> read_engines(const Field& field);

// Operating system and processor of this machine, such as "linux-x86_64".
std::string this_os_arch();

// The command that builds the engines of a bundle for this machine.
std::string build_command(const std::string& folder);

// The engine of a stage that was made for this machine and from the graph that is in the bundle now.
// Raises BundleError: the bundle has no such stage; CompatibilityError: there is no such engine, says why and what helps.
const EngineRecord& fitting_engine(const std::string& folder, const Manifest& manifest, const std::string& stage,
                                   const Machine& machine);

// The same, where it was built here and agreed with the reference too; `ledger` is the list of engines built here.
// Raises besides CompatibilityError: it was not; ResourceError: the ledger is damaged or cannot be read.
const EngineRecord& approved_engine(const std::string& folder, const Manifest& manifest, const std::string& stage,
                                    const Machine& machine, const std::string& ledger);

// The sizes that an engine takes of an input, nullptr where the manifest has none.
const SizeRange* range_of(const EngineRecord& engine, const std::string& input);

// The greatest size, from 1 to 65534, that a stage's engine takes for a tensor; nothing where no engine of it fits.
// Raises BundleError: the engine's profile does not have the tensor, or such a size.
std::optional<int> profile_limit(const std::string& folder, const Manifest& manifest, const std::string& stage,
                                 const std::string& tensor, const Machine& machine);

// Where the ledger of this user lies, which nerve-build writes. Raises ResourceError: the user has no home.
std::string default_ledger_path();

// Whether the engine with this SHA-256 was built here by this user. Raises ResourceError: the ledger is damaged.
bool ledger_knows(const std::string& ledger, const std::string& sha256);

}  // namespace nerve
