// Threadgroup variables: given out on first use, poisoned anew for every threadgroup.
#include <string.h>
#include <sys/mman.h>

#include "scheduler.h"

#if defined(MSL_ASAN)
#include <sanitizer/asan_interface.h>
#elif defined(MSL_MSAN)
#include <sanitizer/msan_interface.h>
#endif

namespace {

constexpr unsigned MAX_VARIABLES = 256;
constexpr size_t ARENA = 1 << 20;
constexpr size_t GAP = 256;  // at least this much forbidden ground behind each variable

struct Variable {
  const void* key;
  char* memory;
  unsigned threadgroup;  // a running number: when it was last poisoned
};

Variable variables[MAX_VARIABLES];
unsigned n_variables, threadgroup;
size_t arena_used, bytes;
char* arena;

void prepare(Variable* v, size_t size) {
  v->threadgroup = threadgroup;
  v->memory = arena + arena_used;
  const size_t room = (size + 2 * GAP - 1) / GAP * GAP;
  arena_used += room;
  bytes += size;
  if (arena_used > ARENA) msl_fault("%zu bytes of threadgroup memory, more than 32768", bytes);
#if defined(MSL_ASAN)
  __asan_unpoison_memory_region(v->memory, room);
  __asan_poison_memory_region(v->memory + size, room - size);
#endif
  memset(v->memory, 0xff, size);  // a NaN in every floating type
#if defined(MSL_MSAN)
  __msan_poison(v->memory, size);
#endif
  msl_race_threadgroup_memory(v->memory, size);
}

}  // namespace

void msl_memory_begin(void) {
  arena = msl_reserve(ARENA);
#if defined(MSL_ASAN)
  __asan_poison_memory_region(arena, ARENA);
#endif
}

void msl_memory_end(void) {
#if defined(MSL_ASAN)
  __asan_unpoison_memory_region(arena, ARENA);
#endif
  munmap(arena, ARENA);
}

void msl_memory_new_threadgroup(void) {
  threadgroup++;
  arena_used = bytes = 0;
}

size_t msl_memory_used(void) { return bytes; }

extern "C" void* msl_threadgroup_memory(const void* key, size_t size) {
  Variable* v = variables;
  while (v < variables + n_variables && v->key != key) v++;
  if (v == variables + n_variables) {
    if (n_variables == MAX_VARIABLES) msl_fault("more than %u threadgroup variables", MAX_VARIABLES);
    n_variables++;
    v->key = key;
    v->threadgroup = 0;
  }
  if (v->threadgroup != threadgroup) prepare(v, size);
  return v->memory;
}

extern "C" {
__attribute__((weak)) void msl_race_begin(const msl_launch_args*) {}
__attribute__((weak)) void msl_race_end(void) {}
__attribute__((weak)) void msl_race_new_threadgroup(void) {}
__attribute__((weak)) void msl_race_threadgroup_memory(void*, size_t) {}
}
