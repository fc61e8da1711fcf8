// What lies between class names and token ids, for tests: one function that takes and gives JSON.
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "class_list.h"
#include "close_matches.h"
#include "error.h"
#include "sha256.h"
#include "tokenizer.h"
#include "unicode.h"
#include "vocabulary.h"

using Json = nlohmann::json;
using namespace nerve;

namespace {

Text decoded(const Json& json) { return decode_utf8(json.get<std::string>()).value(); }

std::string from_hex(const std::string& digits) {
    std::string bytes;
    for (size_t i = 0; i < digits.size(); i += 2) bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
    return bytes;
}

Json text_functions(const Json& given) {
    Json answers = Json::array();
    for (const Json& json : given["texts"]) {
        const Text text = decoded(json);
        Json answer = {{"nfc", encode_utf8(nfc(text))},
                       {"nfkc", encode_utf8(nfkc(text))},
                       {"lower", encode_utf8(lower(text))},
                       {"casefold", encode_utf8(casefold(text))},
                       {"stripped", encode_utf8(stripped(text))},
                       {"repr", repr(TextView(text))},
                       {"split", Json::array()}};
        for (const Text& word : split_at_spaces(text)) answer["split"].push_back(encode_utf8(word));
        answer["repr_of_words"] = repr(split_at_spaces(text));
        answers.push_back(answer);
    }
    return answers;
}

// A number of bits for each code point.
Json properties(const Json& given) {
    Json answers = Json::array();
    for (char32_t c = given["start"].get<uint32_t>(); c < given["end"].get<uint32_t>(); ++c) {
        const bool claims[] = {is_control(c), is_python_space(c), is_white_space(c), is_word(c),     is_letter(c),
                               is_number(c),  is_alphanumeric(c), is_decimal(c),     is_printable(c)};
        int bits = static_cast<int>(script_of(c)) << 9;
        for (int i = 0; i < 9; ++i) bits |= claims[i] << i;
        answers.push_back(bits);
    }
    return answers;
}

Json is_utf8(const Json& given) {
    Json answers = Json::array();
    for (const Json& digits : given["texts"]) answers.push_back(decode_utf8(from_hex(digits.get<std::string>())).has_value());
    return answers;
}

Json class_lists(const Json& given) {
    Json answers = Json::array();
    for (const Json& list : given["lists"]) {
        Json warnings = Json::array();
        try {
            std::optional<std::string> background;
            if (!list["background"].is_null()) background = list["background"].get<std::string>();
            const ClassList found = class_list_of(list["classes"].get<std::string>(), background, list["most"].get<int>(),
                                                  list["strict"].get<bool>(), [&](const std::string& text) { warnings += text; });
            found.refuse_without_rival();
            answers.push_back({{"synonyms", found.synonyms}, {"names", found.names()}, {"warnings", warnings}});
        } catch (const Error& error) {
            answers.push_back({{"code", error.code}, {"error", error.what()}, {"warnings", warnings}});
        }
    }
    return answers;
}

Json class_list_of_bytes(const Json& given) {
    try {
        class_list_of(from_hex(given["classes"].get<std::string>()), std::nullopt, 254, false, nullptr);
    } catch (const Error& error) {
        return {{"code", error.code}, {"error", error.what()}};
    }
    return nullptr;
}

Json tokens(const Json& given) {
    VocabularyRecord record;
    record.context_length = given["context_length"].get<int>();
    record.end_token = given["end_token"].get<std::string>();
    if (!given["unknown_token"].is_null()) record.unknown_token = given["unknown_token"].get<std::string>();
    Json answers = Json::array();
    try {
        const PromptTokenizer tokenizer(given["path"].get<std::string>(), record);
        for (const Json& prompts : given["prompts"]) {
            Json warnings = Json::array();
            try {
                const auto ids = tokenizer.encode(
                    prompts.get<std::vector<std::string>>(), given["strict"].get<bool>(),
                    [&](const std::string& text) { warnings += text; }, given["templates"].get<std::vector<std::string>>());
                answers.push_back({{"ids", ids}, {"warnings", warnings}});
            } catch (const Error& error) {
                answers.push_back({{"code", error.code}, {"error", error.what()}, {"warnings", warnings}});
            }
        }
    } catch (const Error& error) {
        return {{"code", error.code}, {"error", error.what()}};
    }
    return answers;
}

Json bank_json(const TextBank& bank) {
    return {{"embeddings", sha256_hex(bank.text_embeddings.data(), bank.text_embeddings.size() * sizeof(float))},
            {"rows", {bank.rows, bank.width}},
            {"class_rows", bank.class_rows},
            {"classes", {bank.classes, bank.synonyms}},
            {"names", bank.class_names},
            {"has_background", bank.has_background}};
}

Json vocabulary_files(const Json& given) {
    Json answers = Json::array();
    for (const Json& path : given["paths"]) {
        try {
            answers.push_back(bank_json(load_vocabulary(path.get<std::string>(), given["text_sha256"].get<std::string>(),
                                                        given["text_width"].get<int>())));
        } catch (const Error& error) {
            answers.push_back({{"code", error.code}, {"error", error.what()}});
        }
    }
    return answers;
}

// Embeddings come from a file: float32 (prompts, width), in the order in which prompts are asked for.
Json text_bank(const Json& given) {
    const std::string bytes = from_hex(given["embeddings"].get<std::string>());
    std::vector<float> embeddings(bytes.size() / sizeof(float));
    std::memcpy(embeddings.data(), bytes.data(), bytes.size());
    const size_t width = given["width"].get<size_t>();
    size_t at = 0;
    Json runs = Json::array();
    const auto encode = [&](const std::vector<std::string>& prompts) {
        runs.push_back(prompts);
        const auto first = embeddings.begin() + static_cast<std::ptrdiff_t>(at);
        at += prompts.size() * width;
        return std::vector<float>(first, first + static_cast<std::ptrdiff_t>(prompts.size() * width));
    };
    ClassList list;
    list.synonyms = given["synonyms"].get<std::vector<std::vector<std::string>>>();
    list.has_background = given["has_background"].get<bool>();
    try {
        Json answer = bank_json(build_text_bank(list, given["templates"].get<std::vector<std::string>>(), encode));
        answer["runs"] = runs;
        return answer;
    } catch (const Error& error) {
        return {{"code", error.code}, {"error", error.what()}};
    }
}

Json hashes(const Json& given) {
    Json answers = Json::array();
    for (const Json& digits : given["contents"]) {
        const std::string bytes = from_hex(digits.get<std::string>());
        Sha256 in_parts;
        for (size_t i = 0; i < bytes.size(); i += 7) in_parts.update(bytes.data() + i, std::min<size_t>(7, bytes.size() - i));
        answers.push_back({sha256_hex(bytes.data(), bytes.size()), in_parts.hex()});
    }
    return answers;
}

Json close_match_of(const Json& given) {
    std::vector<Text> known;
    for (const Json& word : given["known"]) known.push_back(decoded(word));
    const std::optional<Text> close = close_match(decoded(given["word"]), known);
    return close ? Json(encode_utf8(*close)) : Json(nullptr);
}

Json answer_to(const std::string& question, const Json& given) {
    if (question == "text_functions") return text_functions(given);
    if (question == "properties") return properties(given);
    if (question == "is_utf8") return is_utf8(given);
    if (question == "class_lists") return class_lists(given);
    if (question == "class_list_of_bytes") return class_list_of_bytes(given);
    if (question == "tokens") return tokens(given);
    if (question == "vocabulary_files") return vocabulary_files(given);
    if (question == "close_match") return close_match_of(given);
    if (question == "text_bank") return text_bank(given);
    if (question == "hashes") return hashes(given);
    if (question == "unicode_version") return unicode_version();
    if (question == "hash_of_file") return sha256_of_file(given["path"].get<std::string>());
    return nullptr;
}

}  // namespace

// The answer stays valid until the next call.
extern "C" __attribute__((visibility("default"))) const char* words_answer(const char* question, const char* given) {
    static std::string answer;
    try {
        answer = answer_to(question, Json::parse(given)).dump(-1, ' ', true, Json::error_handler_t::replace);
    } catch (const std::exception& error) {
        answer = Json{{"internal", error.what()}}.dump(-1, ' ', true, Json::error_handler_t::replace);
    }
    return answer.c_str();
}

#ifdef WORDS_PROGRAM
#include <iostream>
#include <iterator>

// The question is the first argument, what is given comes on stdin, the answer goes to stdout.
int main(int, char** arguments) {
    const std::string given{std::istreambuf_iterator<char>(std::cin), {}};
    std::cout << words_answer(arguments[1], given.c_str()) << "\n";
}
#endif
