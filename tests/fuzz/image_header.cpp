// Mutants of image files through the header parser, each in memory of exactly its size, under AddressSanitizer and UBSan.
//
//   image_header COUNT SEED FILE...     prints "FORMAT headers refusals" a line; exit status 1 names what is wrong
#include "ops/image_header/image_header.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using File = std::vector<uint8_t>;

constexpr uint64_t kTelling[] = {0, 1, 2, 3, 4, 5, 6, 8, 12, 13, 14, 16, 40, 0x7F, 0x80, 0xFF, 0x100, 0x112, 0x7FFF, 0x8000, 0xFFFF,
                                 0xFFFE, 0xFFD8, 0xFFD9, 0xFFDA, 0xFFC0, 0xFFC2, 0xFFE1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
                                 0xFFFFFFFE, 0xFFFFFFF4};

class Mutator {
 public:
  Mutator(std::vector<File> seeds, uint64_t seed) : seeds_(std::move(seeds)), random_(seed) {}

  File next(size_t* from) {
    *from = below(seeds_.size());
    File file = seeds_[*from];
    for (size_t changes = 1 + below(6); changes > 0; --changes) change(&file);
    return file;
  }

 private:
  size_t below(size_t n) { return n == 0 ? 0 : size_t(random_() % n); }

  // Mostly near the beginning, where headers are.
  size_t place(const File& file) {
    const double u = double(random_() >> 11) * 0x1p-53;
    return file.empty() ? 0 : size_t(u * u * u * double(file.size()));
  }

  void change(File* file) {
    const size_t at = place(*file), room = file->size() - at;
    const auto begin = file->begin() + long(at);
    switch (below(9)) {
      case 0:
        if (room) (*file)[at] ^= uint8_t(1u << below(8));
        break;
      case 1:
        if (room) (*file)[at] = uint8_t(random_());
        break;
      case 2:
      case 3: {   // a number of 1 to 4 bytes, in either order
        const uint64_t value = kTelling[below(std::size(kTelling))];
        const size_t bytes = 1 + below(4);
        const bool big = below(2);
        for (size_t i = 0; i < bytes && i < room; ++i) (*file)[at + i] = uint8_t(value >> 8 * (big ? bytes - 1 - i : i));
        break;
      }
      case 4:
        file->erase(begin, begin + long(below(std::min<size_t>(room, 64) + 1)));
        break;
      case 5: {   // a piece of some file, perhaps of another format
        const File& other = seeds_[below(seeds_.size())];
        const size_t first = place(other), length = below(std::min<size_t>(other.size() - first, 96) + 1);
        file->insert(begin, other.begin() + long(first), other.begin() + long(first + length));
        break;
      }
      case 6:
        file->insert(begin, below(40), uint8_t(random_()));
        break;
      case 7:
        file->resize(at);
        break;
      case 8: {   // its own beginning over and over
        const File piece(file->begin(), file->begin() + long(std::min<size_t>(file->size(), 1 + below(200))));
        for (size_t times = below(20); times > 0; --times) file->insert(file->end(), piece.begin(), piece.end());
        break;
      }
    }
  }

  std::vector<File> seeds_;
  std::mt19937_64 random_;
};

const char* fault(const di::ImageHeader& header) {
  if (header.width < 1 || header.width > INT64_C(1) << 32) return "a width out of range";
  if (header.height < 1 || header.height > INT64_C(1) << 32) return "a height out of range";
  if (header.orientation < 1 || header.orientation > 8) return "an orientation out of range";
  if (header.depth < 0 || header.depth > 255) return "a depth out of range";
  return nullptr;
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) return std::fprintf(stderr, "usage: image_header COUNT SEED FILE...\n"), 2;
  std::vector<File> seeds;
  for (int i = 3; i < count; ++i) {
    std::ifstream in(words[i], std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  Mutator mutator(seeds, std::strtoull(words[2], nullptr, 10));
  std::map<std::string, std::pair<long, long>> seen;
  for (long left = std::atol(words[1]); left > 0; --left) {
    size_t from = 0;
    const File mutant = mutator.next(&from);
    const std::unique_ptr<uint8_t[]> exact(new uint8_t[mutant.size()]);
    if (!mutant.empty()) std::memcpy(exact.get(), mutant.data(), mutant.size());
    const auto begun = std::chrono::steady_clock::now();
    std::string wrong;
    try {
      const di::ImageHeader header = di::image_header(exact.get(), mutant.size());
      ++seen[header.format].first;
      if (const char* what = fault(header)) wrong = what;
    } catch (const std::invalid_argument& reason) {
      const std::string said = reason.what();
      ++seen[said.substr(0, said.find(' '))].second;
    } catch (...) {
      wrong = "an exception that is no std::invalid_argument";
    }
    if (std::chrono::steady_clock::now() - begun > std::chrono::seconds(20)) wrong = "no answer for 20 s";
    if (!wrong.empty()) return std::printf("%s, from a mutant of %s\n", wrong.c_str(), words[3 + from]), 1;
  }
  for (const auto& [name, times] : seen) std::printf("%s %ld %ld\n", name.c_str(), times.first, times.second);
  return 0;
}
