// Checks races and alignment: receives the calls that clang's ThreadSanitizer pass puts before each
// access.
//
// clang's own ThreadSanitizer runtime knows 255 threads at a time, fewer than most grids have, so it
// misses races between threadgroups. Here the order of accesses is simple enough to be exact: two
// accesses of different threads are ordered only if they are in one threadgroup and a barrier whose
// flags name that kind of memory lies between them (a simdgroup_barrier, for the same SIMD group).
// Collectives order nothing: Metal does not say that they do.
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "scheduler.h"

namespace {

struct Access {
  unsigned threadgroup_plus_1;  // 0: none
  unsigned short thread, simdgroup;
  unsigned passed, passed_simd;
  unsigned char atomic;
  const void* from;
};

// What is remembered of a byte: the last write, and two readers. A reader of an earlier threadgroup
// is kept for good: any later write conflicts with it.
struct Cell {
  Access write, reads[2];
};

struct Region {
  char* start;
  size_t size;
  Cell* cells;
  int kind;  // 0 device, 1 threadgroup: the index of the barrier counters
};

constexpr unsigned MAX_REGIONS = 64, MAX_THREADGROUP_REGIONS = 256;
Region device_regions[MAX_REGIONS], group_regions[MAX_THREADGROUP_REGIONS];
unsigned n_device, n_group;
const void* reported[16][2];
unsigned n_reported;

Cell* new_cells(size_t n) {
  void* p = mmap(nullptr, n * sizeof(Cell) + 1, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) abort();
  return (Cell*)p;
}

void forget(Region* regions, unsigned& n) {
  for (unsigned i = 0; i < n; i++) munmap(regions[i].cells, regions[i].size * sizeof(Cell) + 1);
  n = 0;
}

Region* find(const char* p) {
  for (unsigned i = 0; i < n_group; i++) {
    if (p >= group_regions[i].start && p < group_regions[i].start + group_regions[i].size)
      return &group_regions[i];
  }
  for (unsigned i = 0; i < n_device; i++) {
    if (p >= device_regions[i].start && p < device_regions[i].start + device_regions[i].size)
      return &device_regions[i];
  }
  return nullptr;
}

bool conflicts(const Access& before, const Access& now) {
  if (!before.threadgroup_plus_1 || (before.atomic && now.atomic)) return false;
  if (before.threadgroup_plus_1 != now.threadgroup_plus_1) return true;
  if (before.thread == now.thread || before.passed != now.passed) return false;
  return before.simdgroup != now.simdgroup || before.passed_simd == now.passed_simd;
}

// The first reader since the last barrier, and one more: of another SIMD group if there is one, since
// a later write of the first reader's own SIMD group may be ordered after that.
void remember_read(Access* reads, const Access& now) {
  auto current = [&](const Access& read) {
    return read.threadgroup_plus_1 == now.threadgroup_plus_1 && read.passed == now.passed;
  };
  Access &one = reads[0], &two = reads[1];
  if (one.threadgroup_plus_1 && one.threadgroup_plus_1 != now.threadgroup_plus_1) return;
  if (!current(one) || one.thread == now.thread) {
    one = now;
  } else if (!current(two) || two.simdgroup == one.simdgroup || now.simdgroup != one.simdgroup) {
    two = now;
  }
}

unsigned long offset(const void* code) {
  Dl_info info;
  if (!dladdr(code, &info)) return 0;
  return (unsigned long)((const char*)code - (const char*)info.dli_fbase) - 1;
}

bool is_new(const void* before, const void* now) {
  for (unsigned i = 0; i < n_reported; i++) {
    if (reported[i][0] == before && reported[i][1] == now) return false;
  }
  if (n_reported == 16) return false;
  reported[n_reported][0] = before;
  reported[n_reported][1] = now;
  n_reported++;
  return true;
}

// The places as offsets into this library; Python makes file and line of them.
void report(const Access& before, const Access& now, bool before_writes, bool now_writes, int kind) {
  if (!is_new(before.from, now.from)) return;
  msl_note("RACE on %s memory: %s at @%lx@ by thread %u of threadgroup %u, %s at @%lx@ by thread %u of "
           "threadgroup %u, and no barrier orders them",
           kind ? "threadgroup" : "device", before_writes ? "write" : "read", offset(before.from),
           before.thread, before.threadgroup_plus_1 - 1, now_writes ? "write" : "read",
           offset(now.from), now.thread, now.threadgroup_plus_1 - 1);
}

// The compiler believes such an access to be aligned: on a GPU it may read other bytes.
void check_alignment(const void* address, size_t size, const void* from) {
  if ((uintptr_t)address % size && is_new(nullptr, from))
    msl_note("MISALIGNED: %zu bytes at @%lx@, at an address that is no multiple", size, offset(from));
}

void access(const void* address, size_t size, bool writes, bool atomic, const void* from) {
  Region* region = find((const char*)address);
  if (!region) return;  // an input, a stack, a table: never written by two threads
  const int kind = region->kind;
  const Access now = {msl_now.threadgroup + 1,
                      (unsigned short)msl_now.thread,
                      (unsigned short)msl_now.simdgroup,
                      msl_now.passed[kind],
                      msl_now.passed_simd[kind],
                      atomic,
                      from};
  const size_t first = (const char*)address - region->start;
  for (size_t i = first; i < first + size && i < region->size; i++) {
    Cell& cell = region->cells[i];
    if (conflicts(cell.write, now)) report(cell.write, now, true, writes, kind);
    if (writes) {
      for (const Access& read : cell.reads) {
        if (conflicts(read, now)) report(read, now, false, true, kind);
      }
      cell.write = now;
    } else {
      remember_read(cell.reads, now);
    }
  }
}

}  // namespace

extern "C" {

void msl_race_begin(const msl_launch_args* args) {
  n_reported = 0;
  for (unsigned i = 0; i < args->n_buffers && n_device < MAX_REGIONS; i++) {
    if (!args->out[i]) continue;
    device_regions[n_device++] = {(char*)args->buffers[i], args->sizes[i], new_cells(args->sizes[i]),
                                  0};
  }
}
void msl_race_end(void) {
  forget(device_regions, n_device);
  forget(group_regions, n_group);
}
void msl_race_new_threadgroup(void) { forget(group_regions, n_group); }
void msl_race_threadgroup_memory(void* start, size_t size) {
  if (n_group < MAX_THREADGROUP_REGIONS)
    group_regions[n_group++] = {(char*)start, size, new_cells(size), 1};
}

#define FROM __builtin_return_address(0)
#define ACCESSES(N)                                                                       \
  void __tsan_read##N(void* p) {                                                          \
    check_alignment(p, N, FROM);                                                          \
    access(p, N, false, false, FROM);                                                     \
  }                                                                                       \
  void __tsan_write##N(void* p) {                                                         \
    check_alignment(p, N, FROM);                                                          \
    access(p, N, true, false, FROM);                                                      \
  }                                                                                       \
  void __tsan_unaligned_read##N(void* p) { access(p, N, false, false, FROM); }            \
  void __tsan_unaligned_write##N(void* p) { access(p, N, true, false, FROM); }            \
  void __tsan_volatile_read##N(void* p) { access(p, N, false, false, FROM); }             \
  void __tsan_volatile_write##N(void* p) { access(p, N, true, false, FROM); }             \
  void __tsan_unaligned_volatile_read##N(void* p) { access(p, N, false, false, FROM); }   \
  void __tsan_unaligned_volatile_write##N(void* p) { access(p, N, true, false, FROM); }   \
  void __tsan_read_write##N(void* p) { access(p, N, true, false, FROM); }                 \
  void __tsan_unaligned_read_write##N(void* p) { access(p, N, true, false, FROM); }
ACCESSES(1) ACCESSES(2) ACCESSES(4) ACCESSES(8) ACCESSES(16)
void __tsan_read_range(void* p, size_t n) { access(p, n, false, false, FROM); }
void __tsan_write_range(void* p, size_t n) { access(p, n, true, false, FROM); }

#define ATOMICS(BITS, T)                                                                        \
  T __tsan_atomic##BITS##_load(const volatile T* p, int) {                                      \
    access((const void*)p, BITS / 8, false, true, FROM);                                        \
    return *p;                                                                                  \
  }                                                                                             \
  void __tsan_atomic##BITS##_store(volatile T* p, T x, int) {                                   \
    access((const void*)p, BITS / 8, true, true, FROM);                                         \
    *p = x;                                                                                     \
  }                                                                                             \
  int __tsan_atomic##BITS##_compare_exchange_strong(volatile T* p, T* old, T next, int, int) {  \
    access((const void*)p, BITS / 8, true, true, FROM);                                         \
    if (*p != *old) {                                                                           \
      *old = *p;                                                                                \
      return 0;                                                                                 \
    }                                                                                           \
    *p = next;                                                                                  \
    return 1;                                                                                   \
  }                                                                                             \
  T __tsan_atomic##BITS##_compare_exchange_val(volatile T* p, T old, T next, int, int) {        \
    access((const void*)p, BITS / 8, true, true, FROM);                                         \
    const T found = *p;                                                                         \
    if (found == old) *p = next;                                                                \
    return found;                                                                               \
  }
ATOMICS(8, unsigned char) ATOMICS(16, unsigned short) ATOMICS(32, unsigned)

void* __tsan_memcpy(void* to, const void* from, size_t n) {
  access(from, n, false, false, FROM);
  access(to, n, true, false, FROM);
  return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
  access(from, n, false, false, FROM);
  access(to, n, true, false, FROM);
  return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
  access(to, n, true, false, FROM);
  return memset(to, value, n);
}
void __tsan_init(void) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

}  // extern "C"
