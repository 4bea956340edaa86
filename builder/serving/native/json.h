// A strict JSON reader and writer, for the configurations that the server hands over.
// Numbers keep their text, so that a document survives a round trip unchanged.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ort_backend {

class Json {
 public:
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };

  static Json Parse(std::string_view text);  // throws Failure (INVALID_ARG) with the offset
  static Json Object() { return Json(Kind::kObject); }
  static Json Array() { return Json(Kind::kArray); }
  static Json Text(std::string value);
  static Json Integer(int64_t value);

  Kind kind() const { return kind_; }
  bool IsNull() const { return kind_ == Kind::kNull; }

  // An object's member or an array's items; a missing member reads as null, null as empty.
  const Json& operator[](std::string_view key) const;
  const std::vector<Json>& items() const { return items_; }
  std::vector<Json>& items() { return items_; }
  const std::vector<std::pair<std::string, Json>>& members() const { return members_; }

  // Scalars. protobuf writes 64-bit integers as strings, so AsInt reads both forms. Null gives the
  // fallback; any other kind throws.
  int64_t AsInt(int64_t fallback = 0) const;
  bool AsBool(bool fallback = false) const;
  std::string AsText(const std::string& fallback = "") const;

  void Set(std::string_view key, Json value);
  void Append(Json value) { items_.push_back(std::move(value)); }
  std::string Write() const;

 private:
  friend class JsonParser;
  Json() = default;
  explicit Json(Kind kind) : kind_(kind) {}
  void WriteTo(std::string* out) const;

  Kind kind_ = Kind::kNull;
  bool bool_ = false;
  std::string text_;  // the string, or the number as written
  std::vector<Json> items_;
  std::vector<std::pair<std::string, Json>> members_;
};

}  // namespace ort_backend
