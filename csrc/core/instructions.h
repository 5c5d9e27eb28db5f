// The instruction sets that a kernel with a translation unit for each is built for (vector_avx512.h, vector_avx2.h, vector_generic.h).
#pragma once

namespace di {

enum class Instructions { generic, avx2, avx512 };

bool processor_has(Instructions instructions);

}  // namespace di
