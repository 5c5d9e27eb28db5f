#include "build_info.h"

#include "build_info_values.h"   // written by setup.py

namespace di {

const char* const kArchitectures = DI_ARCHITECTURES;
const char* const kCompiler = DI_COMPILER;
const char* const kCudaCompiler = DI_CUDA_COMPILER;
const char* const kCommit = DI_COMMIT;

}  // namespace di
