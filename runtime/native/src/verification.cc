// Files of a bundle against its manifest: no link, of the right size, of the right SHA-256.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "error.h"
#include "files.h"
#include "manifest.h"
#include "sha256.h"

namespace nerve {

namespace {

constexpr const char* MANIFEST_NAME = "manifest.json";
constexpr size_t MANIFEST_LIMIT_BYTES = 4'000'000;
constexpr const char* OWN_SHA256_KEY = "\"manifest_sha256\": \"";

[[noreturn]] void refuse_unreadable(const std::string& what, int number) {
    fail(NERVE_BUNDLE, {what, " cannot be read: ", std::strerror(number), "; check its path and rights"});
}

// Of a file, without following a link at its end where `link` says so; nothing where there is none.
bool read_status(const std::string& path, bool link, const std::string& what, struct stat& status) {
    if ((link ? lstat(path.c_str(), &status) : stat(path.c_str(), &status)) == 0) return true;
    if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP) refuse_unreadable(what, errno);
    return false;
}

void refuse_link(const std::string& path, const std::string& what) {
    struct stat status;
    if (read_status(path, true, what, status) && S_ISLNK(status.st_mode))
        fail(NERVE_BUNDLE, {path,
                            " is a symbolic link; a bundle holds real files only. From a hub cache, download with "
                            "local_dir=..."});
}

// Compares a manifest with its own hash; one written by hand may have none.
void refuse_changed(const std::string& path, const std::string& content) {
    const OwnHash own = own_hash(content, OWN_SHA256_KEY);
    if (own.times > 1)
        fail(NERVE_BUNDLE, {path, " is not a valid manifest: it has manifest_sha256 ", decimal(static_cast<int64_t>(own.times)),
                            " times; rebuild the bundle"});
    if (!own.is_right())
        fail(NERVE_BUNDLE,
             {path, " was changed after it was written: its sha256 is ", first_digits(own.computed),
              "..., its manifest_sha256 says ", first_digits(own.written), "...; copy the bundle again, or rebuild it"});
}

std::string read_or_refuse(const std::string& path, size_t limit, const std::string& what) {
    try {
        return read_file(path, limit);
    } catch (const std::system_error& error) {
        refuse_unreadable(what, error.code().value());
    }
}

}  // namespace

Manifest load_manifest(const std::string& folder) {
    const std::string path = folder + "/" + MANIFEST_NAME, what = "bundle " + folder;
    struct stat status;
    refuse_link(path, what);
    if (!read_status(path, false, what, status) || !S_ISREG(status.st_mode))
        fail(NERVE_BUNDLE, {folder, " is not a bundle: it has no ", MANIFEST_NAME, "; make one with: nerve-build"});
    if (static_cast<size_t>(status.st_size) > MANIFEST_LIMIT_BYTES)
        fail(NERVE_BUNDLE, {path, " is ", decimal(status.st_size), " bytes, expected at most ", decimal(MANIFEST_LIMIT_BYTES)});
    const std::string content = read_or_refuse(path, MANIFEST_LIMIT_BYTES, what);
    refuse_changed(path, content);
    return parse_manifest(path, content);
}

std::string verify_file(const std::string& folder, const Manifest& manifest, const std::string& relative) {
    const std::string path = folder + "/" + relative;
    const FileRecord& record = manifest.files.at(relative);
    for (size_t end = path.size(); end > folder.size() && end != std::string::npos; end = path.rfind('/', end - 1))
        refuse_link(path.substr(0, end), path);
    struct stat status;
    if (!read_status(path, false, path, status) || !S_ISREG(status.st_mode))
        fail(NERVE_BUNDLE, {path, " is missing or no plain file, but the manifest lists it; copy the whole bundle again"});
    if (status.st_nlink > 1)
        fail(NERVE_BUNDLE, {path, " is a hard link to a file elsewhere; a bundle holds files of its own, copy it"});
    if (static_cast<uint64_t>(status.st_size) != record.bytes)
        fail(NERVE_BUNDLE,
             {path, ": size ", decimal(status.st_size), " bytes != manifest ", decimal(record.bytes), "; copy the bundle again"});
    std::string found;
    try {
        found = sha256_of_file(path);
    } catch (const std::system_error& error) {
        refuse_unreadable(path, error.code().value());
    }
    if (found != record.sha256)
        fail(NERVE_BUNDLE, {path, ": sha256 ", first_digits(found), "... != manifest ", first_digits(record.sha256),
                            "...; the file was changed, copy the bundle again or build it with --force"});
    return path;
}

void verify_files(const std::string& folder, const Manifest& manifest) {
    const std::vector<std::string>& engines = manifest.engine_paths;
    for (const auto& [relative, record] : manifest.files)
        if (std::find(engines.begin(), engines.end(), relative) == engines.end()) verify_file(folder, manifest, relative);
}

}  // namespace nerve
