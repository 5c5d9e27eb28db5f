#include "image_header.h"

#include "bytes.h"
#include "jpeg_scans.h"

#include <stdexcept>
#include <string>

namespace di {
namespace {

[[noreturn]] void refuse(const char* why) { throw std::invalid_argument(why); }

// Tag 0x0112 of the first directory of a TIFF block. Decoders pass over damaged metadata, and so does this.
int exif_orientation(Bytes exif) try {
  if (exif.holds(0, "Exif\0\0", 6)) exif = exif.part(6, exif.size());
  const bool big = exif.holds(0, "MM\0*", 4);
  if (!big && !exif.holds(0, "II*\0", 4)) return 1;
  const size_t directory = exif.number(4, 4, big);
  const uint32_t entries = exif.number(directory, 2, big);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * size_t(i);
    if (exif.number(entry, 2, big) != 0x0112) continue;
    const uint32_t type = exif.number(entry + 2, 2, big);
    const uint32_t value = exif.number(entry + 8, type == 4 ? 4 : 2, big);
    return (type == 3 || type == 4) && value >= 1 && value <= 8 ? int(value) : 1;
  }
  return 1;
} catch (Ended) {
  return 1;
}

// An end-of-image marker must be the last thing after the first scan, save for a little zero padding. One inside a thumbnail does
// not count, and a file with anything else behind it is merely decoded whole.
bool ends_with_marker(const Bytes& file, size_t scan) {
  constexpr size_t kPadding = 64 * 1024;
  size_t end = file.size();
  while (end > scan && file.size() - end < kPadding && file[end - 1] == 0) --end;
  return file[end - 2] == 0xFF && file[end - 1] == 0xD9;
}

ImageHeader jpeg(const Bytes& file) {
  ImageHeader header{"jpeg", 0, 0};
  bool sized = false, oriented = false, stray = false;
  JpegScans scans;
  header.suspect = header.irregular = true;
  try {
    for (size_t at = 2;;) {
      while (file[at] != 0xFF) ++at;   // decoders skip what lies between segments
      while (file[at] == 0xFF) ++at;
      const uint8_t marker = file[at++];
      stray |= marker == 0x01;   // libjpeg passes over it, Pillow refuses the file
      if (marker == 0x00 || marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) continue;   // these have no length
      if (marker == 0xD9) break;
      if (marker == 0xDA) {
        header.suspect = !ends_with_marker(file, at);
        header.irregular = stray || !scans.regular(file, at);
        break;
      }
      const size_t length = file.big(at, 2);
      if (length < 2) refuse("JPEG segment with a length below 2");
      const bool frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
      if (frame && !sized) {
        header.height = file.big(at + 3, 2);
        header.width = file.big(at + 5, 2);
        sized = true;
        header.depth = file[at + 2];
        header.cmyk = file[at + 7] == 4;
        scans.frame(file, at, marker);
      }
      scans.segment(file, at, length, marker);
      if (marker == 0xE1 && !oriented && file.holds(at + 2, "Exif\0\0", 6)) {
        header.orientation = exif_orientation(file.part(at + 2, length - 2));
        oriented = true;
      }
      at += length;
    }
  } catch (Ended) {
    if (!sized) throw;
  }
  if (!sized) refuse("JPEG without a frame before its first scan");
  return header;
}

ImageHeader png(const Bytes& file) {
  if (file.big(8, 4) != 13 || !file.holds(12, "IHDR", 4)) refuse("PNG does not begin with its IHDR chunk");
  ImageHeader header{"png", file.big(16, 4), file.big(20, 4)};
  if (header.width > INT32_MAX || header.height > INT32_MAX) refuse("PNG with a width or height above 2^31 - 1");
  header.depth = file[24];
  header.suspect = true;
  try {
    for (size_t at = 8;;) {
      const size_t length = file.big(at, 4);
      if (file.holds(at + 4, "eXIf", 4)) header.orientation = exif_orientation(file.part(at + 8, length));
      if (file.holds(at + 4, "IEND", 4)) {
        header.suspect = file.size() != at + 12;
        break;
      }
      at += 12 + length;
    }
  } catch (Ended) {
  }
  return header;
}

ImageHeader bmp(const Bytes& file) {
  const uint32_t kind = file.little(14, 4);   // the header's size tells its version
  ImageHeader header{"bmp", 0, 0};
  if (kind == 12) {
    header.width = file.little(18, 2);
    header.height = file.little(20, 2);
    return header;
  }
  if (kind != 16 && kind != 40 && kind != 52 && kind != 56 && kind != 64 && kind != 108 && kind != 124)
    refuse("BMP with an unknown header");
  header.width = int32_t(file.little(18, 4));
  header.height = int32_t(file.little(22, 4));
  if (header.width < 0) refuse("BMP with a negative width");
  if (header.height < 0) header.height = -header.height;   // rows from top to bottom
  if (file.little(28, 2) == 16) header.depth = 5;
  return header;
}

ImageHeader webp(const Bytes& file) {
  ImageHeader header{"webp", 0, 0};
  const size_t first = 20;   // the first chunk's data
  if (file.holds(12, "VP8 ", 4)) {
    if (file[first] & 1 || file.big(first + 3, 3) != 0x9D012A) refuse("WebP without a key frame");
    header.width = file.little(first + 6, 2) & 0x3FFF;
    header.height = file.little(first + 8, 2) & 0x3FFF;
  } else if (file.holds(12, "VP8L", 4)) {
    if (file[first] != 0x2F) refuse("WebP without its lossless signature");
    const uint32_t bits = file.little(first + 1, 4);
    header.width = (bits & 0x3FFF) + 1;
    header.height = (bits >> 14 & 0x3FFF) + 1;
  } else if (file.holds(12, "VP8X", 4)) {
    header.width = file.little(first + 4, 3) + 1;
    header.height = file.little(first + 7, 3) + 1;
  } else {
    refuse("WebP with an unknown first chunk");
  }
  const size_t end = 8 + size_t(file.little(4, 4));
  header.suspect = file.size() != end + end % 2 && file.size() != end;
  for (size_t at = 12; at + 8 <= file.size();) {
    const size_t length = file.little(at + 4, 4);
    if (file.holds(at, "EXIF", 4)) header.orientation = exif_orientation(file.part(at + 8, length));
    at += 8 + length + length % 2;
  }
  return header;
}

ImageHeader gif(const Bytes& file) { return {"gif", file.little(6, 2), file.little(8, 2)}; }

}  // namespace

ImageHeader image_header(const uint8_t* data, size_t size) {
  const Bytes file(data, size);
  if (size == 0) refuse("empty file");
  const char* name = "";
  ImageHeader (*parse)(const Bytes&) = nullptr;
  if (file.holds(0, "\xFF\xD8\xFF", 3)) name = "JPEG", parse = jpeg;
  if (file.holds(0, "\x89PNG\r\n\x1A\n", 8)) name = "PNG", parse = png;
  if (file.holds(0, "BM", 2)) name = "BMP", parse = bmp;
  if (file.holds(0, "RIFF", 4) && file.holds(8, "WEBP", 4)) name = "WebP", parse = webp;
  if (file.holds(0, "GIF87a", 6) || file.holds(0, "GIF89a", 6)) name = "GIF", parse = gif;
  if (!parse) refuse("not a JPEG, PNG, BMP, WebP or GIF");
  try {
    const ImageHeader header = parse(file);
    if (header.width == 0 || header.height == 0) throw std::invalid_argument(std::string(name) + " with a width or height of 0");
    return header;
  } catch (Ended) {
    throw std::invalid_argument(std::string(name) + " header ends before its size");
  }
}

}  // namespace di
