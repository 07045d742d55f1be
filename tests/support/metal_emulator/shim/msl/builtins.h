// The `__metal_*` compiler builtins that MLX's prelude calls for bfloat, in float.
#pragma once
#include "simd.h"

#define __METAL_MAYBE_FAST_MATH__ 0
#define __METAL_FAST_MATH__ 1
#define __METAL_PRECISE_MATH__ 0

METAL_FUNC ushort __metal_get_simdgroup_size(ushort) { return 32; }

#define MSL_SAME(NAME) \
  METAL_FUNC float __metal_##NAME(float x, int) { return ::metal::NAME(x); }
MSL_SAME(fabs) MSL_SAME(acos) MSL_SAME(acosh) MSL_SAME(asin) MSL_SAME(asinh) MSL_SAME(atan)
MSL_SAME(atanh) MSL_SAME(ceil) MSL_SAME(cos) MSL_SAME(cosh) MSL_SAME(exp) MSL_SAME(exp10)
MSL_SAME(exp2) MSL_SAME(floor) MSL_SAME(fract) MSL_SAME(log) MSL_SAME(log2) MSL_SAME(log10)
MSL_SAME(rint) MSL_SAME(round) MSL_SAME(rsqrt) MSL_SAME(sin) MSL_SAME(sinh) MSL_SAME(sqrt)
MSL_SAME(tan) MSL_SAME(tanh) MSL_SAME(trunc)
// bf16_math.h calls rint and fabs also without the mode.
METAL_FUNC float __metal_fabs(float x) { return __builtin_fabsf(x); }
METAL_FUNC float __metal_rint(float x) { return __builtin_rintf(x); }
METAL_FUNC float __metal_cospi(float x, int) { return __builtin_cosf(M_PI_F * x); }
METAL_FUNC float __metal_sinpi(float x, int) { return __builtin_sinf(M_PI_F * x); }
METAL_FUNC float __metal_tanpi(float x, int) { return __builtin_tanf(M_PI_F * x); }

#define MSL_SAME_2(NAME) \
  METAL_FUNC float __metal_##NAME(float x, float y, int) { return ::metal::NAME(x, y); }
MSL_SAME_2(atan2) MSL_SAME_2(divide) MSL_SAME_2(fmax) MSL_SAME_2(fmin) MSL_SAME_2(fmod)
MSL_SAME_2(pow) MSL_SAME_2(powr)
METAL_FUNC float __metal_nextafter(float x, float y) { return __builtin_nextafterf(x, y); }
METAL_FUNC float __metal_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
METAL_FUNC float __metal_ldexp(float x, int k, int) { return __builtin_ldexpf(x, k); }
METAL_FUNC float __metal_frexp(float x, int* k) { return __builtin_frexpf(x, k); }
METAL_FUNC float __metal_fmax3(float a, float b, float c, int) {
  return ::metal::fmax(a, ::metal::fmax(b, c));
}
METAL_FUNC float __metal_fmin3(float a, float b, float c, int) {
  return ::metal::fmin(a, ::metal::fmin(b, c));
}
METAL_FUNC float __metal_fmedian3(float a, float b, float c, int) {
  return ::metal::fmax(::metal::fmin(a, b), ::metal::fmin(::metal::fmax(a, b), c));
}

#define MSL_SIMD_1(NAME)                               \
  METAL_FUNC float __metal_simd_##NAME(float x, MSL_HERE) { \
    return ::metal::simd_##NAME(x, line, column);      \
  }
MSL_SIMD_1(sum) MSL_SIMD_1(product) MSL_SIMD_1(min) MSL_SIMD_1(max)
MSL_SIMD_1(prefix_inclusive_sum) MSL_SIMD_1(prefix_exclusive_sum)
MSL_SIMD_1(prefix_inclusive_product) MSL_SIMD_1(prefix_exclusive_product)
// Declared only: simd_xor of a floating type does not exist, calling it is a link error.
float __metal_simd_xor(float);

#define MSL_SIMD_2(NAME)                                              \
  METAL_FUNC ushort __metal_simd_##NAME(ushort x, ushort d, MSL_HERE) { \
    return ::metal::simd_##NAME(x, d, line, column);                  \
  }
MSL_SIMD_2(shuffle) MSL_SIMD_2(shuffle_xor) MSL_SIMD_2(shuffle_up) MSL_SIMD_2(shuffle_down)
MSL_SIMD_2(broadcast) MSL_SIMD_2(shuffle_rotate_up) MSL_SIMD_2(shuffle_rotate_down)
#define MSL_SIMD_FILL(NAME)                                                                       \
  METAL_FUNC ushort __metal_simd_##NAME(ushort x, ushort fill, ushort d, ushort, MSL_HERE) {      \
    return ::metal::simd_##NAME(x, fill, d, line, column);                                        \
  }
MSL_SIMD_FILL(shuffle_and_fill_up) MSL_SIMD_FILL(shuffle_and_fill_down)
