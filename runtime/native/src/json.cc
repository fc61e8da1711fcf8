#include "json.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

#include "error.h"
#include "unicode.h"

namespace nerve {

namespace {

constexpr int VALUES_LIMIT = 1'000'000;  // each takes 100 bytes; CLIP's tokenizer has 200,000

}  // namespace

class JsonParser {
   public:
    JsonParser(std::string_view text, int depth_limit) : text_(text), depth_left_(depth_limit) {}

    Json parse_document() {
        Json json = parse_value();
        skip_spaces();
        if (at_ != text_.size()) refuse({"more than one value"});
        return json;
    }

   private:
    [[noreturn]] void refuse(std::string_view what) const {
        throw std::invalid_argument(concat({what, " at byte ", decimal(static_cast<int64_t>(at_))}));
    }

    void skip_spaces() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }
    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
    bool take(std::string_view word) {
        if (text_.substr(at_, word.size()) != word) return false;
        at_ += word.size();
        return true;
    }

    Json parse_value();
    void parse_array(Json& json);
    void parse_object(Json& json);
    void parse_number(Json& json);
    std::string parse_string();
    void append_escape(std::string& string);
    uint32_t parse_four_digits();

    const std::string_view text_;
    size_t at_ = 0;
    int depth_left_;
    int values_ = 0;
};

Json JsonParser::parse_value() {
    Json json;
    if (++values_ > VALUES_LIMIT) refuse("more than 1,000,000 values");
    skip_spaces();
    const char first = peek();
    if (first == '{' || first == '[') {
        if (--depth_left_ < 0) refuse({"nested too deep"});
        first == '{' ? parse_object(json) : parse_array(json);
        ++depth_left_;
    } else if (first == '"') {
        json.kind_ = Json::Kind::STRING;
        json.string_ = parse_string();
    } else if (take("true") || take("false")) {
        json.kind_ = Json::Kind::BOOLEAN;
        json.boolean_ = first == 't';
    } else if (!take("null")) {
        parse_number(json);
    }
    return json;
}

void JsonParser::parse_array(Json& json) {
    json.kind_ = Json::Kind::ARRAY;
    ++at_;
    skip_spaces();
    if (take("]")) return;
    do {
        json.elements_.push_back(parse_value());
        skip_spaces();
    } while (take(","));
    if (!take("]")) refuse({"expected ',' or ']'"});
}

void JsonParser::parse_object(Json& json) {
    json.kind_ = Json::Kind::OBJECT;
    ++at_;
    skip_spaces();
    if (take("}")) return;
    do {
        skip_spaces();
        if (peek() != '"') refuse({"expected a key"});
        json.keys_.push_back(parse_string());
        skip_spaces();
        if (!take(":")) refuse({"expected ':'"});
        json.elements_.push_back(parse_value());
        skip_spaces();
    } while (take(","));
    if (!take("}")) refuse({"expected ',' or '}'"});
    std::vector<std::string> keys = json.keys_;
    std::sort(keys.begin(), keys.end());
    if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) refuse({"a key twice in the object that ends"});
}

// Two parses: from_chars takes more than JSON does, so its form is looked at first.
void JsonParser::parse_number(Json& json) {
    const size_t start = at_;
    const auto take_digits = [this] {
        const size_t first = at_;
        while (peek() >= '0' && peek() <= '9') ++at_;
        if (at_ == first) refuse({"expected a value"});
        return at_ - first;
    };
    take("-");
    const bool has_zero = peek() == '0';
    if (take_digits() > 1 && has_zero) refuse({"a number that begins with 0"});
    bool is_whole = true;
    if (take(".")) {
        take_digits();
        is_whole = false;
    }
    if (take("e") || take("E")) {
        if (!take("+")) take("-");
        take_digits();
        is_whole = false;
    }
    const char *first = text_.data() + start, *last = text_.data() + at_;
    if (std::from_chars(first, last, json.number_).ec != std::errc()) refuse({"a number that is too great or too small"});
    json.kind_ = is_whole ? Json::Kind::INTEGER : Json::Kind::NUMBER;
    if (is_whole && std::from_chars(first, last, json.integer_).ec != std::errc())
        json.integer_ = *first == '-' ? INT64_MIN : INT64_MAX;
}

std::string JsonParser::parse_string() {
    std::string string;
    ++at_;
    while (peek() != '"') {
        if (at_ >= text_.size()) refuse({"a string that does not end"});
        const auto letter = static_cast<unsigned char>(text_[at_]);
        if (letter < ' ') refuse({"a control character in a string"});
        if (letter == '\\')
            append_escape(string);
        else
            string += text_[at_++];
    }
    ++at_;
    if (!decode_utf8(string)) refuse({"a string that is no UTF-8"});
    return string;
}

void JsonParser::append_escape(std::string& string) {
    constexpr std::string_view NAMES = "\"\\/bfnrt", VALUES = "\"\\/\b\f\n\r\t";
    ++at_;
    const size_t place = NAMES.find(peek());
    if (at_ < text_.size() && place != NAMES.npos) {
        string += VALUES[place];
        ++at_;
        return;
    }
    if (!take("u")) refuse({"an unknown escape"});
    char32_t code = parse_four_digits();
    if (code >= 0xd800 && code < 0xdc00 && take("\\u")) {
        const char32_t low = parse_four_digits();
        if (low < 0xdc00 || low > 0xdfff) refuse({"half of a surrogate pair"});
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code >= 0xd800 && code < 0xe000) refuse({"half of a surrogate pair"});
    string += encode_utf8(TextView(&code, 1));
}

uint32_t JsonParser::parse_four_digits() {
    uint32_t value = 0;
    const char* first = text_.data() + at_;
    const char* last = text_.data() + std::min(at_ + 4, text_.size());
    const auto parsed = std::from_chars(first, last, value, 16);
    if (last - first < 4 || parsed.ec != std::errc() || parsed.ptr != last) refuse({"expected four hexadecimal digits"});
    at_ += 4;
    return value;
}

const Json* Json::find(std::string_view key) const {
    const auto found = std::find(keys_.begin(), keys_.end(), key);
    return found == keys_.end() ? nullptr : &elements_[static_cast<size_t>(found - keys_.begin())];
}

const Json& Json::operator[](std::string_view key) const {
    static const Json nothing;
    const Json* found = find(key);
    return found ? *found : nothing;
}

Json parse_json(std::string_view text, int depth_limit) { return JsonParser(text, depth_limit).parse_document(); }

}  // namespace nerve
