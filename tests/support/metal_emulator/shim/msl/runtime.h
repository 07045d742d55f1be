// The boundary between kernel code (compiled per kernel, instrumented) and the runtime.
//
// Plain C structures and functions: the kernel side may be built with a sanitizer that the runtime
// is not built with.
#pragma once
#include <stddef.h>
#include <stdint.h>

// What a thread knows of its place; the source of all attribute parameters of a kernel.
struct msl_ids {
  unsigned position_in_grid[3], position_in_threadgroup[3], threadgroup_position[3];
  unsigned threadgroup_size[3], dispatched_size[3], grid_size[3], threadgroups[3];
  unsigned index_in_threadgroup, simdgroup, lane, simdgroups, dispatched_simdgroups;
};

// One rendezvous of the lanes of a SIMD group: each lane puts its value into its slot, waits for the
// others, and reads theirs. The first to go on may leave a common result for the rest.
struct msl_exchange {
  alignas(16) char slot[32][16];
  alignas(16) char result[16];
  unsigned active;  // a bit for each lane that took part
  int reduced;      // `result` is valid
};

typedef void (*msl_entry_fn)(void** buffers, const msl_ids* ids);

extern "C" {
// Waits for the threadgroup (or the SIMD group). `flags` are the bits of metal::mem_flags.
void msl_barrier(int whole_threadgroup, int flags, int line, int column);
// The exchange that the SIMD group fills next; own lane. Then msl_simd_wait, then it may be read.
msl_exchange* msl_simd_begin(void);
void msl_simd_wait(const char* what, int line, int column);
unsigned msl_lane(void);
// Ends the launch with a report: a lane was read that does not take part.
void msl_bad_lane(const char* what, int lane, int line);
// The memory of one `threadgroup` variable, poisoned anew for each threadgroup.
void* msl_threadgroup_memory(const void* key, size_t size);
}
