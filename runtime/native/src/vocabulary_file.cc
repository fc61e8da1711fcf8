// Reading what nerve-vocab writes, in the order and with the words of nerve_runtime/vocabulary/vocabulary_file.py.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "error.h"
#include "files.h"
#include "json.h"
#include "vocabulary.h"

namespace nerve {
namespace {

constexpr uint64_t FILE_LIMIT_BYTES = 200'000'000, HEADER_LIMIT_BYTES = 100'000'000;
constexpr size_t LENGTH_BYTES = 8, DIGITS_SHOWN = 12;
constexpr int JSON_DEPTH_LIMIT = 8;  // the header has 3
constexpr std::string_view FORMAT = "nerve-vocabulary", VERSION = "1", ZIP_START = "PK\x03\x04";
constexpr std::string_view BEFORE_SHA256 = "\"sha256\":\"";
constexpr char ANEW[] = "write it anew with nerve-vocab";

struct Tensor {
    std::string dtype;
    std::vector<uint64_t> shape;
    uint64_t start, end;  // bytes, counted from the end of the header
};

struct Parsed {
    Json header;
    std::string_view numbers;

    const Json& metadata() const { return header["__metadata__"]; }
};

// The header is not what the format allows; told to the caller in one sentence for all of these.
struct InvalidFile {};

[[noreturn]] void refuse(const std::string& path, Parts why) {
    fail(NERVE_USAGE, {"vocabulary ", path, " ", concat(why), "; ", ANEW});
}

std::string read_whole(const std::string& path) {
    struct stat found{};
    const bool is_there = ::stat(path.c_str(), &found) == 0;
    if (!is_there && errno == EACCES) {
        fail(NERVE_USAGE, {"vocabulary ", path, " cannot be read: ", std::strerror(EACCES), "; check its rights"});
    }
    if (!is_there || !S_ISREG(found.st_mode) || static_cast<uint64_t>(found.st_size) > FILE_LIMIT_BYTES) {
        fail(NERVE_USAGE, {"vocabulary ", path, " is no file of at most ", decimal(FILE_LIMIT_BYTES), " bytes; see nerve-vocab"});
    }
    try {
        return read_file(path, FILE_LIMIT_BYTES);
    } catch (const std::system_error& error) {
        fail(NERVE_USAGE, {"vocabulary ", path, " cannot be read: ", std::strerror(error.code().value()), "; check its rights"});
    }
}

uint64_t header_bytes(std::string_view content) {
    uint64_t count = 0;
    for (size_t i = std::min(content.size(), LENGTH_BYTES); i-- > 0;) count = count << 8 | static_cast<uint8_t>(content[i]);
    return count;
}

void refuse_changed(const std::string& path, std::string_view content) {
    if (content.substr(0, ZIP_START.size()) == ZIP_START) {
        refuse(path, {"is a file of numpy, as nerve-vocab wrote before version 1 of the format"});
    }
    if (content.size() <= LENGTH_BYTES || content[LENGTH_BYTES] != '{' || header_bytes(content) > content.size() - LENGTH_BYTES) {
        refuse(path, {"is no safetensors file, or was cut"});
    }
    const OwnHash own = own_hash(content, BEFORE_SHA256);
    if (own.times != 1)
        refuse(path, {"is no file of nerve-vocab: it holds its own sha256 ", decimal(static_cast<int64_t>(own.times)),
                      " times, expected once"});
    if (!own.is_right())
        fail(NERVE_USAGE,
             {"vocabulary ", path, " was changed or cut after it was written: its sha256 is ", first_digits(own.computed),
              "..., it says ", first_digits(own.written), "...; copy it again, or ", ANEW});
}

Json valid_json(std::string_view text) {
    try {
        return parse_json(text, JSON_DEPTH_LIMIT);
    } catch (const std::invalid_argument&) {
        throw InvalidFile();
    }
}

// Of the names of safetensors' types: nearly all say their bits as their first number.
uint64_t bits_of(const std::string& dtype) {
    constexpr std::string_view TYPES =
        " F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 I16 U16 F16 BF16 I32 F8_E5M2FNUZ U32 F32 C64 F64 I64 U64 F8_E4M3FNUZ ";
    if (dtype == "BOOL") return 8;
    if (dtype.find(' ') != dtype.npos || TYPES.find(" " + dtype + " ") == TYPES.npos) throw InvalidFile();
    return std::strtoull(dtype.c_str() + dtype.find_first_of("123468"), nullptr, 10);
}

std::vector<uint64_t> sizes_of(const Json& entry, const char* key) {
    const Json& listed = entry[key];
    if (!listed.is_array()) throw InvalidFile();
    std::vector<uint64_t> sizes;
    for (const Json& size : listed.elements()) {
        if (!size.is_integer() || size.integer() < 0) throw InvalidFile();
        sizes.push_back(static_cast<uint64_t>(size.integer()));
    }
    return sizes;
}

Tensor tensor_of(const Json& entry) {
    const Json& dtype = entry["dtype"];
    const std::vector<uint64_t> offsets = sizes_of(entry, "data_offsets");
    if (!dtype.is_string() || offsets.size() != 2) throw InvalidFile();
    Tensor tensor{dtype.string(), sizes_of(entry, "shape"), offsets[0], offsets[1]};
    uint64_t elements = 1, bits = 0;
    for (const uint64_t size : tensor.shape) {
        if (__builtin_mul_overflow(elements, size, &elements)) throw InvalidFile();
    }
    if (__builtin_mul_overflow(elements, bits_of(tensor.dtype), &bits) || bits % 8 != 0) throw InvalidFile();
    if (tensor.end < tensor.start || tensor.end - tensor.start != bits / 8) throw InvalidFile();
    return tensor;
}

// The tensors lie one after another and fill the file; what holds more than two is refused for that.
void refuse_holes(const Parsed& file) {
    std::vector<Tensor> tensors;
    for (size_t place = 0; place < file.header.keys().size(); ++place)
        if (file.header.keys()[place] != "__metadata__") tensors.push_back(tensor_of(file.header.elements()[place]));
    if (tensors.size() > 2) return;
    if (tensors.size() == 2 && tensors[1].start < tensors[0].start) std::swap(tensors[0], tensors[1]);
    uint64_t end = 0;
    for (const Tensor& tensor : tensors) {
        if (tensor.start != end) throw InvalidFile();
        end = tensor.end;
    }
    if (end != file.numbers.size()) throw InvalidFile();
}

void check_metadata(const Json& metadata) {
    if (!metadata.is_object() && !metadata.is_null()) throw InvalidFile();
    for (const Json& text : metadata.elements())
        if (!text.is_string()) throw InvalidFile();
}

Parsed parsed(const std::string& path, std::string_view content) {
    try {
        const uint64_t length = header_bytes(content);
        if (length > HEADER_LIMIT_BYTES) throw InvalidFile();
        const Parsed file = {valid_json(content.substr(LENGTH_BYTES, length)), content.substr(LENGTH_BYTES + length)};
        if (!file.header.is_object()) throw InvalidFile();
        check_metadata(file.metadata());
        refuse_holes(file);
        return file;
    } catch (const InvalidFile&) {
        refuse(path, {"is no valid safetensors file"});
    }
}

std::string shown_entry(const Parsed& file, const char* key) {
    const Json* found = file.metadata().find(key);
    return found ? repr(found->string()) : "None";
}

const std::string& entry_of(const Parsed& file, const char* key) { return file.metadata()[key].string(); }

std::vector<std::string> class_names_of(const std::string& path, const Parsed& file) {
    try {
        std::vector<std::string> names;
        const Json json = valid_json(entry_of(file, "class_names"));
        if (!json.is_array()) throw InvalidFile();
        for (const Json& name : json.elements()) {
            if (!name.is_string()) throw InvalidFile();
            names.push_back(name.string());
        }
        return names;
    } catch (const InvalidFile&) {
        refuse(path, {"has class_names that are no JSON list of strings"});
    }
}

void refuse_other_formats(const std::string& path, const Parsed& file) {
    if (entry_of(file, "format") == FORMAT && entry_of(file, "version") == VERSION) return;
    refuse(path, {"has format ", shown_entry(file, "format"), " version ", shown_entry(file, "version"), ", expected ",
                  repr(FORMAT), " version ", repr(VERSION)});
}

void refuse_other_text_graph(const std::string& path, const Parsed& file, const std::string& text_sha256) {
    const std::string made_with = entry_of(file, "text_sha256");
    if (made_with == text_sha256) return;
    const std::string shown = encode_utf8(decode_utf8(made_with).value_or(U"").substr(0, DIGITS_SHOWN));
    refuse(path, {"was made with text graph ", shown, "..., this bundle has ", text_sha256.substr(0, DIGITS_SHOWN), "..."});
}

// As Python shows the type and the axes of an array: "F32 (3, 2)".
std::string shown_tensor(const Tensor& tensor) {
    std::string axes;
    for (const uint64_t size : tensor.shape) axes += (axes.empty() ? "" : ", ") + decimal(size);
    return tensor.dtype + " (" + axes + (tensor.shape.size() == 1 ? ",)" : ")");
}

bool fits(const TextBank& bank) {
    const auto is_row = [&](int64_t row) { return row >= 0 && row < bank.rows; };
    return std::all_of(bank.class_rows.begin(), bank.class_rows.end(), is_row) &&
           std::all_of(bank.text_embeddings.begin(), bank.text_embeddings.end(), [](float x) { return std::isfinite(x); });
}

void fill_arrays(const std::string& path, const Parsed& file, int text_width, TextBank& bank) {
    const Json *embeddings = file.header.find("text_embeddings"), *rows = file.header.find("class_rows");
    if (file.header.keys().size() != 3 || !embeddings || !rows || file.metadata().is_null())
        refuse(path, {"does not hold the tensors text_embeddings and class_rows, and only these"});
    const Tensor words = tensor_of(*embeddings), classes = tensor_of(*rows);
    const size_t names = bank.class_names.size();
    if (words.dtype == "F32" && classes.dtype == "I64" && words.shape.size() == 2 && classes.shape.size() == 2 &&
        words.shape[1] == static_cast<uint64_t>(text_width) && names >= 2 && names == classes.shape[0] &&
        names <= static_cast<size_t>(CLASSES_LIMIT) && classes.shape[1] > 0) {
        bank.rows = static_cast<int64_t>(words.shape[0]), bank.width = static_cast<int64_t>(words.shape[1]);
        bank.classes = static_cast<int64_t>(names), bank.synonyms = static_cast<int64_t>(classes.shape[1]);
        bank.text_embeddings.resize((words.end - words.start) / sizeof(float));
        bank.class_rows.resize((classes.end - classes.start) / sizeof(int64_t));
        const auto fill = [&](void* numbers, const Tensor& tensor) {  // processors of this library are little-endian
            if (tensor.end > tensor.start) std::memcpy(numbers, &file.numbers[tensor.start], tensor.end - tensor.start);
        };
        fill(bank.text_embeddings.data(), words);
        fill(bank.class_rows.data(), classes);
        if (fits(bank)) return;
    }
    refuse(path, {"holds embeddings ", shown_tensor(words), ", rows ", shown_tensor(classes), " and ", decimal(names),
                  " names, expected finite F32 (r, ", decimal(text_width), ") and I64 (c, k) within them"});
}

}  // namespace

TextBank load_vocabulary(const std::string& path, const std::string& text_sha256, int text_width) {
    const std::string content = read_whole(path);
    refuse_changed(path, content);
    const Parsed file = parsed(path, content);
    refuse_other_formats(path, file);
    TextBank bank;
    bank.class_names = class_names_of(path, file);
    const std::string background = entry_of(file, "has_background");
    if (background != "true" && background != "false") {
        refuse(path, {"has has_background ", shown_entry(file, "has_background"), ", expected 'true' or 'false'"});
    }
    bank.has_background = background == "true";
    refuse_other_text_graph(path, file, text_sha256);
    fill_arrays(path, file, text_width, bank);
    for (const std::string& name : bank.class_names) {
        refuse_odd_characters(concat({"class ", repr(name), " of vocabulary ", path}), decode_utf8(name).value_or(U""));
    }
    return bank;
}

}  // namespace nerve
