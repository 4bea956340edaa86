#include "json.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "failure.h"

namespace ort_backend {

class JsonParser {
 public:
  explicit JsonParser(std::string_view text) : text_(text) {}

  Json Document() {
    Json value = Value(0);
    SkipSpace();
    if (at_ != text_.size()) Bad("text after the end of the document");
    return value;
  }

 private:
  static constexpr int kMaxDepth = 64;

  [[noreturn]] void Bad(const std::string& what) const {
    Invalid("invalid JSON at offset " + std::to_string(at_) + ": " + what);
  }

  void SkipSpace() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' ||
                                  text_[at_] == '\t')) {
      ++at_;
    }
  }

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void Expect(char wanted) {
    if (Peek() != wanted) Bad(std::string("expected '") + wanted + "'");
    ++at_;
  }

  bool Accept(char wanted) {
    SkipSpace();
    if (Peek() != wanted) return false;
    ++at_;
    return true;
  }

  Json Value(int depth) {
    if (depth > kMaxDepth) Bad("nested too deeply");
    SkipSpace();
    switch (Peek()) {
      case '{':
        return ObjectValue(depth);
      case '[':
        return ArrayValue(depth);
      case '"':
        return Json::Text(String());
      case 't':
        return Word("true", Json::Kind::kBool, true);
      case 'f':
        return Word("false", Json::Kind::kBool, false);
      case 'n':
        return Word("null", Json::Kind::kNull, false);
      default:
        return Number();
    }
  }

  Json Word(std::string_view word, Json::Kind kind, bool value) {
    if (text_.substr(at_, word.size()) != word) Bad("unknown word");
    at_ += word.size();
    Json json(kind);
    json.bool_ = value;
    return json;
  }

  Json ObjectValue(int depth) {
    Json json(Json::Kind::kObject);
    Expect('{');
    if (Accept('}')) return json;
    do {
      SkipSpace();
      std::string key = String();
      SkipSpace();
      Expect(':');
      json.members_.emplace_back(std::move(key), Value(depth + 1));
    } while (Accept(','));
    SkipSpace();
    Expect('}');
    return json;
  }

  Json ArrayValue(int depth) {
    Json json(Json::Kind::kArray);
    Expect('[');
    if (Accept(']')) return json;
    do {
      json.items_.push_back(Value(depth + 1));
    } while (Accept(','));
    SkipSpace();
    Expect(']');
    return json;
  }

  size_t Digits() {
    const size_t start = at_;
    while (Peek() >= '0' && Peek() <= '9') ++at_;
    return at_ - start;
  }

  Json Number() {
    const size_t start = at_;
    if (Peek() == '-') ++at_;
    const char first = Peek();
    const size_t whole = Digits();
    if (whole == 0 || (whole > 1 && first == '0')) Bad("expected a value");
    if (Peek() == '.') {
      ++at_;
      if (Digits() == 0) Bad("expected a digit");
    }
    if (Peek() == 'e' || Peek() == 'E') {
      ++at_;
      if (Peek() == '+' || Peek() == '-') ++at_;
      if (Digits() == 0) Bad("expected a digit");
    }
    Json json(Json::Kind::kNumber);
    json.text_ = text_.substr(start, at_ - start);
    return json;
  }

  uint32_t Hex4() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = Peek();
      value <<= 4;
      if (c >= '0' && c <= '9') {
        value |= static_cast<uint32_t>(c - '0');
      } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
        value |= static_cast<uint32_t>((c | 0x20) - 'a' + 10);
      } else {
        Bad("expected four hexadecimal digits");
      }
    }
    return value;
  }

  uint32_t CodePoint() {
    const uint32_t high = Hex4();
    if (high < 0xD800 || high > 0xDFFF) return high;
    if (high > 0xDBFF || text_.substr(at_, 2) != "\\u") Bad("lone surrogate");
    at_ += 2;
    const uint32_t low = Hex4();
    if (low < 0xDC00 || low > 0xDFFF) Bad("lone surrogate");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  static void AppendUtf8(uint32_t code, std::string* out) {
    const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xC0 | (code >> 6));
      put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      put(0xE0 | (code >> 12));
      put(0x80 | ((code >> 6) & 0x3F));
      put(0x80 | (code & 0x3F));
    } else {
      put(0xF0 | (code >> 18));
      put(0x80 | ((code >> 12) & 0x3F));
      put(0x80 | ((code >> 6) & 0x3F));
      put(0x80 | (code & 0x3F));
    }
  }

  std::string String() {
    std::string out;
    Expect('"');
    while (Peek() != '"') {
      if (at_ >= text_.size()) Bad("unterminated string");
      const char c = text_[at_++];
      if (static_cast<unsigned char>(c) < 0x20) Bad("control character in a string");
      if (c != '\\') {
        out.push_back(c);
        continue;
      }
      const char escape = Peek();
      ++at_;
      static constexpr std::string_view kNames = "\"\\/bfnrt";
      static constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
      if (escape == 'u') {
        AppendUtf8(CodePoint(), &out);
      } else if (const size_t i = kNames.find(escape); escape != '\0' && i != kNames.npos) {
        out.push_back(kValues[i]);
      } else {
        Bad("unknown escape");
      }
    }
    ++at_;
    return out;
  }

  std::string_view text_;
  size_t at_ = 0;
};

namespace {

void WriteString(const std::string& text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(c);
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      *out += escape;
    } else {
      out->push_back(c);
    }
  }
  out->push_back('"');
}

const Json& Null() {
  static const Json null = Json::Parse("null");
  return null;
}

}  // namespace

Json Json::Parse(std::string_view text) { return JsonParser(text).Document(); }

Json Json::Text(std::string value) {
  Json json(Kind::kString);
  json.text_ = std::move(value);
  return json;
}

Json Json::Integer(int64_t value) {
  Json json(Kind::kNumber);
  json.text_ = std::to_string(value);
  return json;
}

const Json& Json::operator[](std::string_view key) const {
  for (const auto& member : members_) {
    if (member.first == key) return member.second;
  }
  return Null();
}

int64_t Json::AsInt(int64_t fallback) const {
  if (IsNull()) return fallback;
  if (kind_ != Kind::kNumber && kind_ != Kind::kString) Invalid("expected an integer: " + Write());
  errno = 0;
  char* end = nullptr;
  const int64_t value = std::strtoll(text_.c_str(), &end, 10);
  if (text_.empty() || *end != '\0' || errno == ERANGE) {
    Invalid("expected an integer, got '" + text_ + "'");
  }
  return value;
}

bool Json::AsBool(bool fallback) const {
  if (IsNull()) return fallback;
  if (kind_ != Kind::kBool) Invalid("expected true or false: " + Write());
  return bool_;
}

std::string Json::AsText(const std::string& fallback) const {
  if (IsNull()) return fallback;
  if (kind_ != Kind::kString) Invalid("expected a string: " + Write());
  return text_;
}

void Json::Set(std::string_view key, Json value) {
  for (auto& member : members_) {
    if (member.first == key) {
      member.second = std::move(value);
      return;
    }
  }
  members_.emplace_back(std::string(key), std::move(value));
}

std::string Json::Write() const {
  std::string out;
  WriteTo(&out);
  return out;
}

void Json::WriteTo(std::string* out) const {
  switch (kind_) {
    case Kind::kNull:
      *out += "null";
      break;
    case Kind::kBool:
      *out += bool_ ? "true" : "false";
      break;
    case Kind::kNumber:
      *out += text_;
      break;
    case Kind::kString:
      WriteString(text_, out);
      break;
    case Kind::kArray:
      out->push_back('[');
      for (size_t i = 0; i < items_.size(); ++i) {
        if (i != 0) out->push_back(',');
        items_[i].WriteTo(out);
      }
      out->push_back(']');
      break;
    case Kind::kObject:
      out->push_back('{');
      for (size_t i = 0; i < members_.size(); ++i) {
        if (i != 0) out->push_back(',');
        WriteString(members_[i].first, out);
        out->push_back(':');
        members_[i].second.WriteTo(out);
      }
      out->push_back('}');
      break;
  }
}

}  // namespace ort_backend
