// What a new compiler's libstdc++ and libgcc ask of glibc 2.32 to 2.36, for modules that are loaded by an older one. Hidden: each
// module uses its own.
#define _GNU_SOURCE
#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/random.h>

// 2.32: "no second thread was ever started", which spares shared_ptr its atomic operations. In a process with torch it is not so.
char __libc_single_threaded = 0;

// 2.36, for std::random_device.
uint32_t arc4random(void) {
  uint32_t value;
  if (getentropy(&value, sizeof value) != 0) abort();
  return value;
}

// 2.35, for exceptions: where the unwind table of the code at an address begins. Of the result libgcc reads dlfo_eh_frame alone.
struct search {
  ElfW(Addr) address;
  struct dl_find_object *result;
};

static int look(struct dl_phdr_info *object, size_t size, void *data) {
  (void)size;
  struct search *search = data;
  ElfW(Addr) begin = 0, end = 0, table = 0;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr) *part = &object->dlpi_phdr[i];
    const ElfW(Addr) at = object->dlpi_addr + part->p_vaddr;
    if (part->p_type == PT_LOAD && at <= search->address && search->address < at + part->p_memsz) begin = at, end = at + part->p_memsz;
    if (part->p_type == PT_GNU_EH_FRAME) table = at;
  }
  if (!end || !table) return 0;
  *search->result = (struct dl_find_object){.dlfo_map_start = (void *)begin, .dlfo_map_end = (void *)end, .dlfo_eh_frame = (void *)table};
  return 1;
}

int _dl_find_object(void *address, struct dl_find_object *result) {
  struct search search = {(ElfW(Addr))address, result};
  return dl_iterate_phdr(look, &search) ? 0 : -1;
}
