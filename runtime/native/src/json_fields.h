// Reads JSON field by field; the first one that is wrong is named in the words of pydantic, as Python names it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "error.h"
#include "json.h"

namespace nerve {

// A value that is not what it should be.
struct InvalidField {
    std::string where;  // keys and indices joined by dots, empty for the whole document
    std::string message;
};

// A value and where it stands; the field that it is part of has to outlive it. Every reader throws InvalidField.
class Field {
   public:
    explicit Field(const Json& document) : Field(document, nullptr, "") {}

    // Keys and indices joined by dots, empty for the whole document.
    std::string where() const;
    const Json& json() const { return json_; }
    [[noreturn]] void refuse(Parts parts) const;

    // Of an object.
    Field at(const char* key) const;  // "Field required" where it is missing
    bool has(const char* key) const { return json_.find(key); }
    void expect_object() const;
    void refuse_others(std::string_view known) const;  // separated by spaces

    // The elements of an array, or the values of an object, whose names are its keys.
    std::vector<Field> elements() const;
    std::vector<Field> values() const;
    const std::string& key(size_t place) const { return json_.keys()[place]; }

    // Which element or value of what it is part of.
    size_t place() const { return place_; }

    std::string string() const;
    std::string choice(std::string_view choices) const;  // separated by ", "
    std::string sha256() const;
    bool boolean() const;
    int64_t integer() const;
    int64_t integer(int64_t least, int64_t most) const;
    double number() const;
    double above(double least) const;
    double at_least(double least) const;

   private:
    Field(const Json& json, const Field* whole, const char* key, size_t place = 0)
        : json_(json), whole_(whole), key_(key), place_(place) {}

    const Json& json_;
    const Field* const whole_;  // nullptr: the document itself
    const char* const key_;     // nullptr: an element
    const size_t place_;
};

// The parts of a text between separators. (Lists of pointers would cost 32 bytes an entry.)
std::vector<std::string> split(std::string_view text, std::string_view separator);

// "'a', 'b' or 'c'".
std::string listed_choices(const std::vector<std::string>& choices);

}  // namespace nerve
