// Runs a grid: one threadgroup after another, its threads as fibers of one OS thread, in lockstep.
//
// A fiber runs until it reaches a barrier or a collective and gives way there. A rendezvous that
// cannot be completed (threads wait at different places, or have left) is a fault of the kernel: it
// is reported with the source lines, and the launch ends.
#include "scheduler.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(MSL_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(MSL_MSAN)
#include <sanitizer/msan_interface.h>
#endif

namespace {

constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK = 256 << 10, GUARD = 4096, MAX_THREADGROUP_BYTES = 32 << 10;

enum State { READY, AT_BARRIER, AT_SIMD, DONE };

struct Fiber {
  void* sp;
  char* stack;
  State state;
  const char* what;
  int line, column, flags;
  msl_ids ids;
};

struct SimdGroup {
  // Two exchanges in turn: a lane may fill the next while another still reads the last.
  msl_exchange exchange[2];
  unsigned turn, active, arrived;
  unsigned passed[2];
};

const msl_launch_args* launch;
Fiber fibers[MAX_THREADS];
SimdGroup simd[MAX_THREADS / 32];
Fiber* current;
void* scheduler_sp;
unsigned n_threads, n_live, n_at_barrier, passed[2];
char* stacks;
bool failed;
unsigned long long random_state;
#if defined(MSL_ASAN)
const void* main_stack;
size_t main_stack_size;
#endif

unsigned random_below(unsigned n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (unsigned)((random_state >> 16) % n);
}

// Saves the callee-saved registers on the old stack and takes them from the new one (System V x86-64).
extern "C" void msl_switch(void** save, void* to);
asm(R"(
.text
.globl msl_switch
.hidden msl_switch
.type msl_switch,@function
msl_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

void give_way() {
#if defined(MSL_ASAN)
  __sanitizer_start_switch_fiber(nullptr, main_stack, main_stack_size);
#endif
  msl_switch(&current->sp, scheduler_sp);
#if defined(MSL_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &main_stack, &main_stack_size);
#endif
}

void resume(Fiber* f) {
  current = f;
  const msl_ids& ids = f->ids;
  msl_now.thread = ids.index_in_threadgroup;
  msl_now.simdgroup = ids.simdgroup;
  for (int kind = 0; kind < 2; kind++) {
    msl_now.passed[kind] = passed[kind];
    msl_now.passed_simd[kind] = simd[ids.simdgroup].passed[kind];
  }
#if defined(MSL_ASAN)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, f->stack, STACK);
#endif
  msl_switch(&scheduler_sp, f->sp);
#if defined(MSL_ASAN)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void fiber_main() {
#if defined(MSL_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &main_stack, &main_stack_size);
#endif
  launch->entry(launch->buffers, &current->ids);
  current->state = DONE;
  n_live--;
  simd[current->ids.simdgroup].active &= ~(1u << current->ids.lane);
  give_way();
  abort();
}

void count_passed(unsigned* counters, int flags) {
  for (int kind = 0; kind < 2; kind++) {
    if (flags >> kind & 1) counters[kind]++;
  }
}

void release_threadgroup() {
  Fiber* first = nullptr;
  for (unsigned i = 0; i < n_threads; i++) {
    Fiber& f = fibers[i];
    if (!first) first = &f;
    if (f.line != first->line || f.column != first->column) {
      msl_fault("DIVERGENT: threads of one threadgroup wait at different barriers, lines %d and %d",
                first->line, f.line);
    }
    f.state = READY;
  }
  count_passed(passed, first->flags);
  n_at_barrier = 0;
}

void release_simd(unsigned k) {
  SimdGroup& group = simd[k];
  Fiber* first = nullptr;
  for (int i = 0; i < 32; i++) {
    if (!(group.arrived >> i & 1)) continue;
    Fiber& f = fibers[k * 32 + i];
    if (!first) first = &f;
    if (f.line != first->line || f.column != first->column || strcmp(f.what, first->what) != 0) {
      msl_fault("DIVERGENT: lanes of one SIMD group wait at %s, line %d, and at %s, line %d",
                first->what, first->line, f.what, f.line);
    }
    f.state = READY;
  }
  group.exchange[group.turn & 1].active = group.arrived;
  group.arrived = 0;
  group.turn++;
  count_passed(group.passed, first->flags);
}

// Nobody can run: says who waits where.
void report_stuck() {
  for (unsigned i = 0; i < n_threads; i++) {
    const Fiber& f = fibers[i];
    if (f.state == AT_BARRIER) {
      msl_note("threadgroup_barrier at line %d: only %u of %u threads arrive, %u have returned", f.line,
               n_at_barrier, n_threads, n_threads - n_live);
      break;
    }
  }
  for (unsigned k = 0; k * 32 < n_threads; k++) {
    const SimdGroup& group = simd[k];
    if (!group.arrived) continue;
    const Fiber& f = fibers[k * 32 + __builtin_ctz(group.arrived)];
    msl_note("%s at line %d: only lanes %08x of SIMD group %u arrive (running %08x)", f.what, f.line,
             group.arrived, k, group.active);
    break;
  }
  failed = true;
}

void wait_for_simd(const char* what, int flags, int line, int column) {
  const unsigned k = current->ids.simdgroup;
  SimdGroup& group = simd[k];
  current->what = what;
  current->flags = flags;
  current->line = line;
  current->column = column;
  current->state = AT_SIMD;
  group.arrived |= 1u << current->ids.lane;
  const unsigned present = n_threads - k * 32 >= 32 ? ~0u : (1u << (n_threads - k * 32)) - 1;
  // Lanes that returned early are missing for good; report_stuck says so.
  if (group.arrived == present) release_simd(k);
  give_way();
}

void start_threadgroup(unsigned index, const unsigned* place, const unsigned* nominal,
                       const unsigned* count) {
  unsigned size[3];
  for (int d = 0; d < 3; d++) {
    const unsigned left = launch->grid[d] - place[d] * nominal[d];
    size[d] = left < nominal[d] ? left : nominal[d];  // short at the edge of the grid
  }
  n_threads = n_live = size[0] * size[1] * size[2];
  n_at_barrier = 0;
  passed[0] = passed[1] = 0;
  msl_now.threadgroup = index;
  msl_memory_new_threadgroup();
  msl_race_new_threadgroup();
  const unsigned n_simd = (n_threads + 31) / 32;
  for (unsigned k = 0; k < n_simd; k++) {
    const unsigned lanes = n_threads - k * 32;
    simd[k].active = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    simd[k].turn = simd[k].arrived = simd[k].passed[0] = simd[k].passed[1] = 0;
  }
  for (unsigned i = 0; i < n_threads; i++) {
    Fiber& f = fibers[i];
    f.state = READY;
    f.stack = stacks + i * (STACK + GUARD) + GUARD;
#if defined(MSL_ASAN)
    __asan_unpoison_memory_region(f.stack, STACK);
#elif defined(MSL_MSAN)
    __msan_unpoison(f.stack, STACK);
#endif
    void** sp = (void**)(f.stack + STACK);
    *--sp = nullptr;
    *--sp = (void*)fiber_main;
    for (int r = 0; r < 6; r++) *--sp = nullptr;
    f.sp = sp;
    msl_ids& ids = f.ids;
    const unsigned at[3] = {i % size[0], i / size[0] % size[1], i / size[0] / size[1]};
    for (int d = 0; d < 3; d++) {
      ids.position_in_threadgroup[d] = at[d];
      ids.position_in_grid[d] = place[d] * nominal[d] + at[d];
      ids.threadgroup_position[d] = place[d];
      ids.threadgroup_size[d] = size[d];
      ids.dispatched_size[d] = nominal[d];
      ids.grid_size[d] = launch->grid[d];
      ids.threadgroups[d] = count[d];
    }
    ids.index_in_threadgroup = i;
    ids.simdgroup = i / 32;
    ids.lane = i % 32;
    ids.simdgroups = n_simd;
    ids.dispatched_simdgroups = (nominal[0] * nominal[1] * nominal[2] + 31) / 32;
  }
}

// Threads and threadgroups in the order of the schedule; the random one is drawn anew at each call.
void shuffle(unsigned* order, unsigned n) {
  for (unsigned i = n; i > 1; i--) {
    const unsigned j = random_below(i), swap = order[i - 1];
    order[i - 1] = order[j];
    order[j] = swap;
  }
}

void run_threadgroup() {
  static unsigned order[MAX_THREADS];
  for (unsigned i = 0; i < n_threads; i++) order[i] = launch->schedule == 1 ? n_threads - 1 - i : i;
  while (n_live && !failed) {
    if (launch->schedule == 2) shuffle(order, n_threads);
    bool progress = false;
    for (unsigned i = 0; i < n_threads && !failed; i++) {
      if (fibers[order[i]].state == READY) {
        progress = true;
        resume(&fibers[order[i]]);
      }
    }
    if (!progress) report_stuck();
  }
  if (msl_memory_used() > MAX_THREADGROUP_BYTES) {
    msl_note("%zu bytes of threadgroup memory, more than 32768", msl_memory_used());
    failed = true;
  }
}

}  // namespace

msl_where msl_now;

void msl_abandon(void) {
  failed = true;
  for (;;) give_way();
}

extern "C" void msl_barrier(int whole_threadgroup, int flags, int line, int column) {
  if (!whole_threadgroup) {
    wait_for_simd("simdgroup_barrier", flags, line, column);
    return;
  }
  current->line = line;
  current->column = column;
  current->flags = flags;
  current->state = AT_BARRIER;
  if (++n_at_barrier == n_threads) release_threadgroup();
  give_way();
}

extern "C" msl_exchange* msl_simd_begin(void) {
  SimdGroup& group = simd[current->ids.simdgroup];
  msl_exchange* next = &group.exchange[group.turn & 1];
  next->reduced = 0;
  return next;
}

extern "C" void msl_simd_wait(const char* what, int line, int column) {
  wait_for_simd(what, 0, line, column);
}

extern "C" unsigned msl_lane(void) { return current->ids.lane; }

extern "C" void msl_bad_lane(const char* what, int lane, int line) {
  msl_fault("%s at line %d reads lane %d, which does not take part", what, line, lane);
}

void msl_run_grid(const msl_launch_args* args) {
  launch = args;
  failed = false;
  random_state = args->seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
  unsigned nominal[3], count[3];
  for (int d = 0; d < 3; d++) {
    nominal[d] = args->group[d] < args->grid[d] ? args->group[d] : args->grid[d];
    if (nominal[d] == 0) return;  // nothing to do, as in MLX
    count[d] = (args->grid[d] + nominal[d] - 1) / nominal[d];
  }
  const size_t threads = (size_t)nominal[0] * nominal[1] * nominal[2];
  if (threads > MAX_THREADS) {
    msl_note("a threadgroup of %zu threads, more than %u", threads, MAX_THREADS);
    return;
  }
  stacks = msl_reserve(threads * (STACK + GUARD));
  for (size_t i = 0; i < threads; i++) mprotect(stacks + i * (STACK + GUARD), GUARD, PROT_NONE);
  const unsigned total = count[0] * count[1] * count[2];
  unsigned* order = (unsigned*)malloc(total * sizeof(unsigned));
  for (unsigned i = 0; i < total; i++) order[i] = args->schedule == 1 ? total - 1 - i : i;
  if (args->schedule == 2) shuffle(order, total);
  for (unsigned i = 0; i < total && !failed; i++) {
    const unsigned t = order[i];
    const unsigned place[3] = {t % count[0], t / count[0] % count[1], t / count[0] / count[1]};
    start_threadgroup(t, place, nominal, count);
    run_threadgroup();
  }
  free(order);
  munmap(stacks, threads * (STACK + GUARD));
}
