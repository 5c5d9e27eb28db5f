#include "architectures.h"

#include <algorithm>
#include <cstdio>
#include <sstream>

namespace di {

std::string device_fault(int major, int minor, const std::string& architectures) {
  const int gpu = 10 * major + minor;
  int lowest = 0, number = 0;
  bool ptx = false;
  std::istringstream names(architectures);
  for (std::string name; names >> name;) {
    const bool machine = std::sscanf(name.c_str(), "sm_%d", &number) == 1;
    if (!machine && std::sscanf(name.c_str(), "compute_%d", &number) != 1) continue;
    if (number <= gpu && (!machine || number / 10 == major)) return "";
    lowest = lowest ? std::min(lowest, number) : number;
    ptx |= !machine;
  }
  const bool older = ptx && gpu < lowest;
  return "this GPU is sm_" + std::to_string(gpu) + ", the build has " +
         (older ? "sm_" + std::to_string(lowest) + " and up" : lowest ? architectures : "no code for GPUs");
}

}  // namespace di
