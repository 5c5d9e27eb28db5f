#include "instructions.h"
#include "registry.h"

namespace di {
namespace {

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (int i = kInstructionSets - 1; i >= 0; --i)
    if (processor_has(Instructions(i))) names.push_back(kInstructionNames[i]);
  return names;
}

const Register registered{[](pybind11::module_& module) {
  module.def("instruction_sets", &instruction_sets);
  module.def("processor_multiplies_bfloat16_faster", &processor_multiplies_bfloat16_faster);
}};

}  // namespace
}  // namespace di
