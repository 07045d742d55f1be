// Barriers, SIMD-group collectives and threadgroup variables, on top of the runtime's rendezvous.
//
// A collective needs all lanes of its SIMD group that have not left a short edge group; lanes that
// stay away are reported, with the line, and never waited around. The source position comes from
// default arguments, evaluated at the call.
#pragma once
#include "math.h"
#include "runtime.h"

#define MSL_HERE int line = __builtin_LINE(), int column = __builtin_COLUMN()

namespace msl {

template <class T, int ID>
struct threadgroup_key {
  static inline char key = 0;
};
// Storage of a `threadgroup T name` declaration; ID tells apart two of the same type.
template <class T, int ID>
METAL_FUNC threadgroup T& threadgroup_variable() {
  return *(threadgroup T*)(uintptr_t)msl_threadgroup_memory(&threadgroup_key<T, ID>::key, sizeof(T));
}

// The values of all lanes after a rendezvous.
template <class T>
struct Lanes {
  static_assert(sizeof(metal::element_t<T>) <= 4, "SIMD functions take at most 32 bits an element");
  msl_exchange* exchange;
  int self;

  METAL_FUNC Lanes(T mine, const char* what, int line, int column) {
    exchange = msl_simd_begin();
    self = (int)msl_lane();
    __builtin_memcpy(exchange->slot[self], &mine, sizeof(T));
    msl_simd_wait(what, line, column);
  }
  METAL_FUNC bool has(int lane) const {
    return lane >= 0 && lane < 32 && ((exchange->active >> lane) & 1);
  }
  METAL_FUNC T operator[](int lane) const {
    T value;
    __builtin_memcpy(&value, exchange->slot[lane], sizeof(T));
    return value;
  }
  METAL_FUNC T checked(int lane, const char* what, int line) const {
    if (!has(lane)) msl_bad_lane(what, lane, line);
    return (*this)[lane];
  }
};

// Butterfly reduction over the active lanes, done once by the first lane that goes on. Metal does not
// say in which order simd_sum adds; this is one of the possible orders.
template <class T, class F>
METAL_FUNC T reduce(T mine, const char* what, int line, int column, F combine) {
  Lanes<T> lanes(mine, what, line, column);
  msl_exchange* x = lanes.exchange;
  T result;
  if (!x->reduced) {
    T value[32];
    unsigned active = x->active;
    for (int i = 0; i < 32; i++) value[i] = lanes.has(i) ? lanes[i] : T();
    for (int step = 1; step < 32; step *= 2) {
      for (int i = 0; i < 32; i += 2 * step) {
        // Only lane i of each block is needed for the result in lane 0.
        bool left = (active >> i) & 1, right = (active >> (i + step)) & 1;
        if (left && right) value[i] = combine(value[i], value[i + step]);
        if (!left && right) value[i] = value[i + step];
        if (right) active |= 1u << i;
      }
    }
    result = value[0];
    __builtin_memcpy(x->result, &result, sizeof(T));
    x->reduced = 1;
  }
  __builtin_memcpy(&result, x->result, sizeof(T));
  return result;
}

}  // namespace msl

namespace metal {

enum class mem_flags {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8
};
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
METAL_FUNC void threadgroup_barrier(mem_flags flags, MSL_HERE) {
  msl_barrier(1, (int)flags, line, column);
}
METAL_FUNC void simdgroup_barrier(mem_flags flags, MSL_HERE) {
  msl_barrier(0, (int)flags, line, column);
}

#define MSL_REDUCTION(NAME, EXPRESSION)                                                        \
  template <class T>                                                                           \
  METAL_FUNC T NAME(T x, MSL_HERE) {                                                           \
    return msl::reduce(x, #NAME, line, column, [](T a, T b) -> T { return EXPRESSION; });      \
  }
MSL_REDUCTION(simd_sum, a + b)
MSL_REDUCTION(simd_product, a* b)
MSL_REDUCTION(simd_max, max(a, b))
MSL_REDUCTION(simd_min, min(a, b))
MSL_REDUCTION(simd_and, a& b)
MSL_REDUCTION(simd_or, a | b)
MSL_REDUCTION(simd_xor, a ^ b)

// `source` is the lane to read; where it lies outside, `otherwise` is the answer.
#define MSL_SHUFFLE(NAME, SOURCE, OUTSIDE, OTHERWISE)                       \
  template <class T>                                                        \
  METAL_FUNC T NAME(T x, ushort d, MSL_HERE) {                              \
    msl::Lanes<T> lanes(x, #NAME, line, column);                            \
    const int self = lanes.self;                                            \
    const int source = SOURCE;                                              \
    return OUTSIDE ? OTHERWISE : lanes.checked(source, #NAME, line);        \
  }
MSL_SHUFFLE(simd_shuffle, (d + 0 * self), false, x)
MSL_SHUFFLE(simd_broadcast, (d + 0 * self), false, x)
MSL_SHUFFLE(simd_shuffle_xor, (self ^ d), false, x)
MSL_SHUFFLE(simd_shuffle_up, (self - d), source < 0, x)
MSL_SHUFFLE(simd_shuffle_down, (self + d), source > 31, x)
MSL_SHUFFLE(simd_shuffle_rotate_up, ((self - d) & 31), false, x)
MSL_SHUFFLE(simd_shuffle_rotate_down, ((self + d) & 31), false, x)
MSL_SHUFFLE(quad_shuffle, ((self & ~3) + d), d > 3, (msl_bad_lane("quad_shuffle", d, line), x))
MSL_SHUFFLE(quad_shuffle_xor, (self ^ d), false, x)
MSL_SHUFFLE(quad_broadcast, ((self & ~3) + d), d > 3, (msl_bad_lane("quad_broadcast", d, line), x))

template <class T>
METAL_FUNC T simd_shuffle_and_fill_up(T x, T fill, ushort d, MSL_HERE) {
  msl::Lanes<T> lanes(x, "simd_shuffle_and_fill_up", line, column);
  T below = lanes.self < d ? x : lanes.checked(lanes.self - d, "simd_shuffle_and_fill_up", line);
  msl::Lanes<T> fills(fill, "simd_shuffle_and_fill_up", line, column);
  return fills.self < d ? fills[32 + fills.self - d] : below;
}
template <class T>
METAL_FUNC T simd_shuffle_and_fill_down(T x, T fill, ushort d, MSL_HERE) {
  msl::Lanes<T> lanes(x, "simd_shuffle_and_fill_down", line, column);
  int from = lanes.self + d;
  T above = from > 31 ? x : lanes.checked(from, "simd_shuffle_and_fill_down", line);
  msl::Lanes<T> fills(fill, "simd_shuffle_and_fill_down", line, column);
  return from > 31 ? fills[from - 32] : above;
}
template <class T>
METAL_FUNC T simd_broadcast_first(T x, MSL_HERE) {
  msl::Lanes<T> lanes(x, "simd_broadcast_first", line, column);
  return lanes[__builtin_ctz(lanes.exchange->active)];
}

#define MSL_PREFIX(NAME, START, EXPRESSION, LAST)                   \
  template <class T>                                                \
  METAL_FUNC T NAME(T x, MSL_HERE) {                                \
    msl::Lanes<T> lanes(x, #NAME, line, column);                    \
    T a = T(START);                                                 \
    for (int i = 0; i < lanes.self + LAST; i++) {                   \
      if (lanes.has(i)) {                                           \
        T b = lanes[i];                                             \
        a = EXPRESSION;                                             \
      }                                                             \
    }                                                               \
    return a;                                                       \
  }
MSL_PREFIX(simd_prefix_inclusive_sum, 0, a + b, 1)
MSL_PREFIX(simd_prefix_exclusive_sum, 0, a + b, 0)
MSL_PREFIX(simd_prefix_inclusive_product, 1, a* b, 1)
MSL_PREFIX(simd_prefix_exclusive_product, 1, a* b, 0)

struct simd_vote {
  uint64_t bits;
  bool all() const { return bits == 0xffffffffu; }
  bool any() const { return bits != 0; }
  explicit operator uint64_t() const { return bits; }
};
METAL_FUNC simd_vote simd_ballot(bool x, MSL_HERE) {
  msl::Lanes<bool> lanes(x, "simd_ballot", line, column);
  uint64_t bits = 0;
  for (int i = 0; i < 32; i++) bits |= uint64_t(lanes.has(i) && lanes[i]) << i;
  return {bits};
}
METAL_FUNC bool simd_any(bool x, MSL_HERE) { return simd_ballot(x, line, column).bits != 0; }
METAL_FUNC bool simd_all(bool x, MSL_HERE) { return simd_ballot(!x, line, column).bits == 0; }
METAL_FUNC bool simd_is_first(MSL_HERE) {
  msl::Lanes<bool> lanes(true, "simd_is_first", line, column);
  return lanes.self == __builtin_ctz(lanes.exchange->active);
}
template <class T>
METAL_FUNC T quad_sum(T x, MSL_HERE) {
  msl::Lanes<T> lanes(x, "quad_sum", line, column);
  int first = lanes.self & ~3;
  return (lanes[first] + lanes[first + 1]) + (lanes[first + 2] + lanes[first + 3]);
}

}  // namespace metal
