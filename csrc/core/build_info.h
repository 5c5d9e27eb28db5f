// What this build is. In a translation unit of its own, so that a new commit recompiles one small file.
#pragma once

namespace di {

extern const char* const kArchitectures;   // such as "sm_80 sm_90 compute_90"; empty without CUDA
extern const char* const kCompiler;
extern const char* const kCudaCompiler;
extern const char* const kCommit;          // empty if unknown

}  // namespace di
