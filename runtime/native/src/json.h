// JSON that cannot mean two things: no key twice in an object, no number beyond a double, no bad UTF-8, no deep nesting.
// Of our own, as a library's templates take 90 kB of the 300 kB that this library may have.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nerve {

// A value. Asked for what it is not, it gives nothing: "", 0, no elements.
class Json {
   public:
    bool is_null() const { return kind_ == Kind::NOTHING; }
    bool is_boolean() const { return kind_ == Kind::BOOLEAN; }
    bool is_integer() const { return kind_ == Kind::INTEGER; }
    bool is_number() const { return kind_ == Kind::INTEGER || kind_ == Kind::NUMBER; }
    bool is_string() const { return kind_ == Kind::STRING; }
    bool is_array() const { return kind_ == Kind::ARRAY; }
    bool is_object() const { return kind_ == Kind::OBJECT; }

    bool boolean() const { return boolean_; }
    int64_t integer() const { return integer_; }  // the nearest that there is, for greater ones
    double number() const { return number_; }
    const std::string& string() const { return string_; }

    // Of an array in order, or the values of an object.
    const std::vector<Json>& elements() const { return elements_; }

    // Of an object, in the order of `elements`.
    const std::vector<std::string>& keys() const { return keys_; }

    // The value of a key of an object, nullptr where there is none.
    const Json* find(std::string_view key) const;

    // The same, null where there is none.
    const Json& operator[](std::string_view key) const;

   private:
    friend class JsonParser;
    enum class Kind : uint8_t { NOTHING, BOOLEAN, INTEGER, NUMBER, STRING, ARRAY, OBJECT };

    Kind kind_ = Kind::NOTHING;
    bool boolean_ = false;
    int64_t integer_ = 0;
    double number_ = 0;
    std::string string_;
    std::vector<std::string> keys_;
    std::vector<Json> elements_;
};

// The value of a text, nested at most `depth_limit` deep, with at most a million values in all. Raises std::invalid_argument,
// which says where it is none.
Json parse_json(std::string_view text, int depth_limit);

}  // namespace nerve
