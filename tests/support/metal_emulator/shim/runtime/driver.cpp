// main() of the sanitizer builds: reads a launch from files, runs it, writes the outputs back.
//
// The specification is a text file: number of buffers, grid, group, schedule and seed, then a line a
// buffer with its role (i: read only, o: uninitialised output, u: output that was filled before),
// its size in bytes, where inside the file it starts, and the file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scheduler.h"

#if defined(MSL_ASAN)
#include <sanitizer/asan_interface.h>
#elif defined(MSL_MSAN)
#include <sanitizer/msan_interface.h>
#endif

extern "C" msl_entry_fn msl_kernel_entry(void);

namespace {
constexpr unsigned MAX_BUFFERS = 64;
// Forbidden ground on both sides, far wider than a heap's red zone: a row too far is caught too.
constexpr size_t FENCE = 1 << 20;

char* allocate(size_t size) {
  char* p = (char*)malloc(size + 2 * FENCE) + FENCE;
#if defined(MSL_ASAN)
  __asan_poison_memory_region(p - FENCE, FENCE);
  __asan_poison_memory_region(p + size, FENCE);
#endif
  return p;
}

[[noreturn]] void give_up(const char* why) {
  printf("driver: %s\n", why);
  exit(3);
}
}  // namespace

int main(int, char** argv) {
  static char report[64 << 10], paths[MAX_BUFFERS][512], role[MAX_BUFFERS];
  static void* buffers[MAX_BUFFERS];
  static char* bases[MAX_BUFFERS];
  static size_t sizes[MAX_BUFFERS], starts[MAX_BUFFERS];
  static unsigned char out[MAX_BUFFERS];
  msl_launch_args args = {};
  FILE* spec = fopen(argv[1], "r");
  if (!spec) give_up("no specification");
  unsigned *g = args.grid, *t = args.group;
  if (fscanf(spec, "%u %u %u %u %u %u %u %u %llu", &args.n_buffers, g, g + 1, g + 2, t, t + 1, t + 2,
             &args.schedule, &args.seed) != 9 || args.n_buffers > MAX_BUFFERS)
    give_up("bad specification");
  for (unsigned i = 0; i < args.n_buffers; i++) {
    if (fscanf(spec, " %c %zu %zu %511s", &role[i], &sizes[i], &starts[i], paths[i]) != 4)
      give_up("bad buffer");
    bases[i] = allocate(sizes[i]);
    out[i] = role[i] != 'i';
    if (role[i] == 'o') {
      memset(bases[i], 0xff, sizes[i]);
#if defined(MSL_MSAN)
      __msan_poison(bases[i], sizes[i]);
#endif
    } else {
      FILE* f = fopen(paths[i], "rb");
      if (!f || fread(bases[i], 1, sizes[i], f) != sizes[i]) give_up("cannot read a buffer");
      fclose(f);
    }
    buffers[i] = bases[i] + starts[i];
  }
  fclose(spec);
  args.entry = msl_kernel_entry();
  args.buffers = buffers;
  args.sizes = sizes;
  args.out = out;
  args.report = report;
  args.report_size = sizeof report;
  int failed = msl_launch(&args);
  printf("%s", report);
  for (unsigned i = 0; i < args.n_buffers; i++) {
    if (!out[i]) continue;
#if defined(MSL_MSAN)
    const long hole = (long)__msan_test_shadow(bases[i], sizes[i]);
    if (hole >= 0) {
      printf("UNINITIALISED: output buffer %u from byte %ld on\n", i, hole);
      failed = 1;
    }
    __msan_unpoison(bases[i], sizes[i]);
#endif
    FILE* f = fopen(paths[i], "wb");
    if (!f || fwrite(bases[i], 1, sizes[i], f) != sizes[i]) give_up("cannot write an output");
    fclose(f);
  }
  fflush(stdout);
  _exit(failed ? 10 : 0);
}
