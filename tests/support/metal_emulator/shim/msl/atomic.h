// metal_atomic: relaxed atomics on device and threadgroup memory, at most 32 bits wide.
//
// One OS thread runs everything, so these are plain read-modify-writes; they are spelled as atomic
// builtins so that the race checker can tell them from ordinary accesses.
#pragma once
#include "language.h"

namespace metal {

enum memory_order { memory_order_relaxed = 0 };

template <class T>
struct atomic {
  static_assert(sizeof(T) <= 4, "this emulator knows 32-bit atomics only");
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<bool> atomic_bool;
typedef atomic<float> atomic_float;

#define MSL_ATOMIC_UPDATE(SPACE, NAME, EXPRESSION)                                               \
  template <class T, class X>                                                                    \
  METAL_FUNC T NAME(volatile SPACE atomic<T>* p, X operand, memory_order) {                      \
    T* target = (T*)(uintptr_t)&p->value;                                                        \
    const T x = (T)operand;                                                                      \
    T old, next;                                                                                 \
    __atomic_load(target, &old, 0);                                                              \
    do {                                                                                         \
      next = EXPRESSION;                                                                         \
    } while (!__atomic_compare_exchange(target, &old, &next, false, 0, 0));                      \
    return old;                                                                                  \
  }
#define MSL_ATOMICS(SPACE)                                                                       \
  template <class T>                                                                             \
  METAL_FUNC T atomic_load_explicit(const volatile SPACE atomic<T>* p, memory_order) {           \
    T result;                                                                                    \
    __atomic_load((T*)(uintptr_t)&p->value, &result, 0);                                         \
    return result;                                                                               \
  }                                                                                              \
  template <class T, class X>                                                                    \
  METAL_FUNC void atomic_store_explicit(volatile SPACE atomic<T>* p, X operand, memory_order) {  \
    T x = (T)operand;                                                                            \
    __atomic_store((T*)(uintptr_t)&p->value, &x, 0);                                             \
  }                                                                                              \
  MSL_ATOMIC_UPDATE(SPACE, atomic_exchange_explicit, x)                                          \
  MSL_ATOMIC_UPDATE(SPACE, atomic_fetch_add_explicit, old + x)                                   \
  MSL_ATOMIC_UPDATE(SPACE, atomic_fetch_sub_explicit, old - x)                                   \
  MSL_ATOMIC_UPDATE(SPACE, atomic_fetch_max_explicit, old < x ? x : old)                         \
  MSL_ATOMIC_UPDATE(SPACE, atomic_fetch_min_explicit, x < old ? x : old)                         \
  MSL_ATOMIC_UPDATE(SPACE, atomic_fetch_and_explicit, old& x)                                    \
  MSL_ATOMIC_UPDATE(SPACE, atomic_fetch_or_explicit, old | x)
MSL_ATOMICS(device)
MSL_ATOMICS(threadgroup)

}  // namespace metal
