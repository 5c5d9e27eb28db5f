// Which GPUs a build has code for.
#pragma once

#include <string>

namespace di {

// Why a GPU of this compute capability runs none of the code for these architectures, such as "sm_80 sm_90 compute_90"; empty if
// it does: machine code runs within its major version, PTX (compute_) on any later GPU.
std::string device_fault(int major, int minor, const std::string& architectures);

}  // namespace di
