// What the parts of the runtime share: the launch, the running thread, how a launch ends early.
#pragma once
#include "../msl/runtime.h"

// One call of a kernel. Python fills the same structure through ctypes.
struct msl_launch_args {
  msl_entry_fn entry;
  void** buffers;
  const size_t* sizes;       // bytes of each buffer
  const unsigned char* out;  // 1 where the kernel may write
  unsigned n_buffers;
  unsigned grid[3], group[3];
  unsigned schedule;  // 0 ascending, 1 reverse, 2 random
  unsigned long long seed;
  char* report;
  size_t report_size;
};

// launch.cpp: the entry; returns 0 when the report is empty.
extern "C" int msl_launch(const msl_launch_args* args);
// Adds a line to the report. A launch with a non-empty report has failed.
void msl_note(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Notes and abandons. Only from a fiber.
[[noreturn]] void msl_fault(const char* format, ...) __attribute__((format(printf, 1, 2)));
char* msl_reserve(size_t size);  // zeroed pages

// scheduler.cpp
void msl_run_grid(const msl_launch_args* args);
[[noreturn]] void msl_abandon(void);  // ends the launch: no fiber runs again

// Where the running thread is; read by the race checker. Counters of the barriers that the
// threadgroup (and each SIMD group) has passed, apart for the two kinds of memory, because a barrier
// orders only the memory that its flags name.
struct msl_where {
  unsigned threadgroup, thread, simdgroup;
  unsigned passed[2];       // by the whole threadgroup: [device, threadgroup]
  unsigned passed_simd[2];  // by the SIMD group
};
extern msl_where msl_now;

// memory.cpp: threadgroup variables.
void msl_memory_begin(void);
void msl_memory_end(void);
void msl_memory_new_threadgroup(void);
size_t msl_memory_used(void);

// race.cpp; empty where it is not linked in (memory.cpp has weak ones).
extern "C" {
void msl_race_begin(const msl_launch_args* args);
void msl_race_end(void);
void msl_race_new_threadgroup(void);
void msl_race_threadgroup_memory(void* start, size_t size);
}
