// A file's bytes, read with every access checked against its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace di {

struct Ended {};   // a read past the end

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  size_t size() const { return size_; }
  uint8_t operator[](size_t at) const {
    if (at >= size_) throw Ended{};
    return data_[at];
  }
  uint32_t big(size_t at, int bytes) const { return number(at, bytes, true); }
  uint32_t little(size_t at, int bytes) const { return number(at, bytes, false); }
  uint32_t number(size_t at, int bytes, bool big_endian) const {
    uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) value = value << 8 | (*this)[at + (big_endian ? i : bytes - 1 - i)];
    return value;
  }
  bool holds(size_t at, const char* word, size_t length) const {
    return at <= size_ && length <= size_ - at && memcmp(data_ + at, word, length) == 0;
  }
  // The first such byte from `at` on.
  size_t find(uint8_t byte, size_t at) const {
    const void* found = at < size_ ? memchr(data_ + at, byte, size_ - at) : nullptr;
    if (found == nullptr) throw Ended{};
    return size_t(static_cast<const uint8_t*>(found) - data_);
  }
  // At most `length` bytes from `at` on.
  Bytes part(size_t at, size_t length) const {
    at = at < size_ ? at : size_;
    return {data_ + at, length < size_ - at ? length : size_ - at};
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

}  // namespace di
