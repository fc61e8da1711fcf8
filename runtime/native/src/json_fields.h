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

// A value and where it stands. Every reader throws InvalidField.
class Field {
   public:
    Field(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {}

    const std::string& where() const { return where_; }
    const Json& json() const { return *json_; }
    [[noreturn]] void refuse(Parts parts) const;

    // Of an object.
    Field at(const std::string& key) const;  // "Field required" where it is missing
    bool has(const std::string& key) const { return json_->contains(key); }
    void expect_object() const;
    void refuse_others(std::initializer_list<const char*> known) const;

    // Of an array.
    std::vector<Field> elements() const;

    std::string string() const;
    std::string choice(std::initializer_list<const char*> choices) const;
    std::string sha256() const;
    bool boolean() const;
    int64_t integer() const;
    int64_t integer(int64_t least, int64_t most) const;
    double number() const;
    double above(double least) const;
    double at_least(double least) const;

   private:
    const Json* json_;
    std::string where_;
};

// "'a', 'b' or 'c'".
std::string listed_choices(const std::vector<std::string>& choices);

}  // namespace nerve
