// What the first bytes of an image file say: format, size, orientation; and whether its end is where the format puts it.
//
// Host only, no decoding. Every read is checked against the file's end, every loop moves forward, and nothing recurses: any bytes
// give a header or an error.
#pragma once

#include <cstddef>
#include <cstdint>

namespace di {

struct ImageHeader {
  const char* format;       // "jpeg", "png", "bmp", "webp", "gif"
  int64_t width, height;    // as stored, before any rotation; positive
  int orientation = 1;      // 1 to 8, EXIF's; 1 where there is none or it is damaged
  bool suspect = false;     // JPEG, PNG, WebP: the end is missing or something follows it
  int depth = 8;            // bits a channel; 5 for a BMP of 16 bits a pixel
  bool cmyk = false;        // a JPEG of four components: CMYK or YCCK
  bool irregular = false;   // a JPEG whose scans are not as encoders write them: decoders differ on it
};

// Throws std::invalid_argument with the reason.
ImageHeader image_header(const uint8_t* data, size_t size);

}  // namespace di
