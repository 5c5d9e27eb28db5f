// Whether a JPEG's scans are as encoders write them, found without decoding.
//
// A decoder that meets a fatal error between scans, or at a marker that damage made inside of one, may hand out what it has so far, and
// one that lacks the last bits of a coefficient smooths across blocks, by how much of the image it was asked for. Files that are regular
// here do neither: what is wrong with their entropy-coded bits every decoder of libjpeg's kind passes over alike.
#pragma once

#include "bytes.h"

#include <cstring>

namespace di {

class JpegScans {
 public:
  JpegScans() { memset(bits_, kMissing, sizeof bits_); }

  // The frame header, of which `at` is the length.
  void frame(const Bytes& file, size_t at, uint8_t marker) {
    progressive_ = (marker & 3) == 2;
    arithmetic_ = marker >= 0xC9;
    const uint8_t components = file[at + 7];
    sound_ = sound_ && components >= 1 && components <= kComponents && file.big(at, 2) == 8u + 3u * components;
    for (int c = 0; sound_ && c < components; ++c) {
      id_[c] = file[at + 8 + 3 * size_t(c)];
      quantised_by_[c] = file[at + 10 + 3 * size_t(c)];
    }
    components_ = sound_ ? components : 0;
  }

  // Any segment before or between scans, of which `at` is the length.
  void segment(const Bytes& file, size_t at, size_t length, uint8_t marker) {
    const size_t end = at + length;
    at += 2;
    if (marker == 0xC4) {
      while (at < end && sound_) at = huffman_table(file, at, end);
    } else if (marker == 0xDB) {
      while (at < end && sound_) {
        const uint8_t number = file[at] & 15;
        sound_ = number < kTables;
        if (sound_) quantised_ |= 1u << number;
        at += file[at] >> 4 ? 129 : 65;
      }
    } else if (marker == 0xCC) {
      for (; at + 2 <= end && sound_; at += 2) sound_ = file[at] < 32 && (file[at] >= 16 || (file[at + 1] & 15) <= file[at + 1] >> 4);
    } else if (marker == 0xDD) {
      at += 2;
    } else {
      return;   // comments and what applications write
    }
    sound_ = sound_ && at == end;
  }

  // From the first scan's header on, of which `at` is the length. Only the end-of-image marker may follow the scans.
  bool regular(const Bytes& file, size_t at) try {
    for (;;) {
      if (!scan(file, at)) return false;
      at += file.big(at, 2);
      uint8_t marker = 0;
      do marker = next_marker(file, &at);
      while (marker == 0x00 || (marker >= 0xD0 && marker <= 0xD7));
      for (; marker != 0xDA; marker = file[at++]) {
        if (marker == 0xD9) return complete();
        const bool between = marker == 0xC4 || marker == 0xCC || marker == 0xDD || marker == 0xFE || (marker & 0xF0) == 0xE0;
        const size_t length = between && !complete() ? file.big(at, 2) : 0;
        if (length < 2) return false;
        segment(file, at, length, marker);
        at += length;
        if (!sound_ || file[at] != 0xFF) return false;
        while (file[at] == 0xFF) ++at;
      }
    }
  } catch (Ended) {
    return false;
  }

 private:
  static constexpr int kComponents = 4, kCoefficients = 64, kTables = 4;
  static constexpr int8_t kMissing = -1;

  static uint8_t next_marker(const Bytes& file, size_t* at) {
    *at = file.find(0xFF, *at);
    while (file[*at] == 0xFF) ++*at;
    return file[(*at)++];
  }

  size_t huffman_table(const Bytes& file, size_t at, size_t end) {
    const uint8_t number = file[at] & 15, kind = file[at] >> 4;
    uint32_t code = 0, symbols = 0;
    sound_ = number < kTables && kind < 2;
    for (uint32_t length = 1; length <= 16 && sound_; ++length, code <<= 1) {
      const uint32_t count = file[at + length];
      code += count;
      symbols += count;
      sound_ = count == 0 || code < 1u << length;   // no code is all ones
    }
    sound_ = sound_ && symbols <= 256 && at + 17 + symbols <= end;
    for (uint32_t i = 0; i < symbols && sound_ && kind == 0; ++i) sound_ = file[at + 17 + i] <= 15;
    if (sound_) coded_[kind] |= 1u << number;
    return at + 17 + symbols;
  }

  // Notes which bits of which coefficients a scan brings.
  bool scan(const Bytes& file, size_t at) {
    const size_t count = file[at + 2];
    if (!sound_ || count < 1 || count > kComponents || file.big(at, 2) != 6 + 2 * count) return false;
    const size_t last = at + 3 + 2 * count;
    const int first = file[last], end = file[last + 1], before = file[last + 2] >> 4, now = file[last + 2] & 15;
    if (first > end || end >= kCoefficients || now > 13 || (before && now + 1 != before)) return false;
    if (progressive_ ? (first == 0 ? end != 0 : count != 1) : (first != 0 || end != kCoefficients - 1 || file[last + 2] != 0)) return false;
    for (size_t i = 0; i < count; ++i) {
      int c = 0;
      while (c < components_ && id_[c] != file[at + 3 + 2 * i]) ++c;
      const uint8_t tables = file[at + 4 + 2 * i], dc = tables >> 4, ac = tables & 15;
      if (c == components_ || quantised_by_[c] >= kTables || !(quantised_ >> quantised_by_[c] & 1)) return false;
      if (!arithmetic_ && (dc >= kTables || ac >= kTables || !(coded_[0] >> dc & 1) || !(coded_[1] >> ac & 1))) return false;
      for (int k = first; k <= end; ++k) {
        if (bits_[c][k] != (before ? before : kMissing)) return false;
        bits_[c][k] = int8_t(now);
      }
    }
    return true;
  }

  bool complete() const {
    for (int c = 0; c < components_; ++c)
      for (int k = 0; k < kCoefficients; ++k)
        if (bits_[c][k] != 0) return false;
    return true;
  }

  bool sound_ = true, progressive_ = false, arithmetic_ = false;
  int components_ = 0;
  uint8_t id_[kComponents] = {}, quantised_by_[kComponents] = {};
  int8_t bits_[kComponents][kCoefficients];   // the lowest bit that is there
  // Tables 0 and 1 are the standard's where a file brings none, as motion JPEG does.
  uint32_t quantised_ = 0, coded_[2] = {3, 3};
};

}  // namespace di
