// The entry of the runtime: sets a launch up, runs it, survives its crashes, keeps its report.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "scheduler.h"

namespace {

constexpr int MAX_NOTES = 20;
const msl_launch_args* launch;
int n_notes;
sigjmp_buf crash_exit;

// The runtime runs on its own stack when the kernel's is spoilt, so it can leave by a jump.
void on_crash(int signal, siginfo_t* info, void*) {
  if (signal == SIGFPE) {
    msl_note("integer division by zero (or the like) in the kernel");
  } else {
    msl_note("the kernel touched memory that is not its own, address %p; build=\"asan\" says where",
             info->si_addr);
  }
  siglongjmp(crash_exit, 1);
}

void add_note(const char* format, va_list args) {
  if (n_notes++ >= MAX_NOTES) return;
  const size_t used = strlen(launch->report);
  char* end = launch->report + used;
  const size_t room = launch->report_size - used;
  const int n = vsnprintf(end, room, format, args);
  if (n >= 0 && (size_t)n + 1 < room) strcpy(end + n, "\n");
}

}  // namespace

void msl_note(const char* format, ...) {
  va_list args;
  va_start(args, format);
  add_note(format, args);
  va_end(args);
}

void msl_fault(const char* format, ...) {
  va_list args;
  va_start(args, format);
  add_note(format, args);
  va_end(args);
  msl_abandon();
}

char* msl_reserve(size_t size) {
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) abort();
  return (char*)p;
}

extern "C" int msl_launch(const msl_launch_args* args) {
  launch = args;
  args->report[0] = 0;
  n_notes = 0;
  msl_memory_begin();
  msl_race_begin(args);
#if defined(MSL_ASAN) || defined(MSL_MSAN)
  msl_run_grid(args);  // the sanitizer reports crashes itself
#else
  static char signal_stack[64 << 10];  // the kernel's own may be what overflowed
  stack_t alternate = {}, old_stack;
  alternate.ss_sp = signal_stack;
  alternate.ss_size = sizeof signal_stack;
  struct sigaction action = {}, old[3];
  const int signals[3] = {SIGSEGV, SIGBUS, SIGFPE};
  action.sa_sigaction = on_crash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaltstack(&alternate, &old_stack);
  for (int i = 0; i < 3; i++) sigaction(signals[i], &action, &old[i]);
  if (sigsetjmp(crash_exit, 1) == 0) msl_run_grid(args);
  for (int i = 0; i < 3; i++) sigaction(signals[i], &old[i], nullptr);
  sigaltstack(&old_stack, nullptr);
#endif
  msl_race_end();
  msl_memory_end();
  return args->report[0] ? 1 : 0;
}

// The helpers that libgcc before 13 lacks: rounding to bfloat, to nearest even.
extern "C" __attribute__((weak)) __bf16 __truncsfbf2(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint16_t top =
      (uint16_t)(nan ? (bits >> 16) | 0x40 : (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
  __bf16 result;
  memcpy(&result, &top, 2);
  return result;
}
extern "C" __attribute__((weak)) __bf16 __truncdfbf2(double value) {
  return __truncsfbf2((float)value);
}
