// metal_math, metal_common, metal_integer: computed in float by the host's libm.
//
// The last bits are not those of a GPU, and fast:: equals precise:: here. The integer functions are
// overloaded a type at a time, not templates: min(int, uint) is ambiguous in Metal and stays so.
#pragma once
#include "traits.h"

namespace metal {

#define MSL_UNARY(NAME, EXPRESSION)                                       \
  METAL_FUNC float NAME(float x) { return EXPRESSION; }                   \
  METAL_FUNC half NAME(half value) {                                      \
    float x = (float)value;                                               \
    return (half)(EXPRESSION);                                            \
  }                                                                       \
  template <class T, int N>                                               \
  METAL_FUNC vec<T, N> NAME(vec<T, N> values) {                           \
    vec<T, N> result;                                                     \
    for (int i = 0; i < N; i++) {                                         \
      float x = (float)values[i];                                         \
      result[i] = (T)(EXPRESSION);                                        \
    }                                                                     \
    return result;                                                        \
  }
// One list, so that metal::, metal::precise:: and metal::fast:: hold the same functions.
#define MSL_ALL_UNARY                                                     \
  MSL_UNARY(exp, __builtin_expf(x))                                       \
  MSL_UNARY(exp2, __builtin_exp2f(x))                                     \
  MSL_UNARY(exp10, __builtin_exp10f(x))                                   \
  MSL_UNARY(log, __builtin_logf(x))                                       \
  MSL_UNARY(log2, __builtin_log2f(x))                                     \
  MSL_UNARY(log10, __builtin_log10f(x))                                   \
  MSL_UNARY(sqrt, __builtin_sqrtf(x))                                     \
  MSL_UNARY(rsqrt, 1.0f / __builtin_sqrtf(x))                             \
  MSL_UNARY(sin, __builtin_sinf(x))                                       \
  MSL_UNARY(cos, __builtin_cosf(x))                                       \
  MSL_UNARY(tan, __builtin_tanf(x))                                       \
  MSL_UNARY(sinh, __builtin_sinhf(x))                                     \
  MSL_UNARY(cosh, __builtin_coshf(x))                                     \
  MSL_UNARY(tanh, __builtin_tanhf(x))                                     \
  MSL_UNARY(asin, __builtin_asinf(x))                                     \
  MSL_UNARY(acos, __builtin_acosf(x))                                     \
  MSL_UNARY(atan, __builtin_atanf(x))                                     \
  MSL_UNARY(asinh, __builtin_asinhf(x))                                   \
  MSL_UNARY(acosh, __builtin_acoshf(x))                                   \
  MSL_UNARY(atanh, __builtin_atanhf(x))                                   \
  MSL_UNARY(floor, __builtin_floorf(x))                                   \
  MSL_UNARY(ceil, __builtin_ceilf(x))                                     \
  MSL_UNARY(trunc, __builtin_truncf(x))                                   \
  MSL_UNARY(rint, __builtin_rintf(x))                                     \
  MSL_UNARY(round, __builtin_roundf(x))                                   \
  MSL_UNARY(fabs, __builtin_fabsf(x))                                     \
  MSL_UNARY(fract, x - __builtin_floorf(x))
#define MSL_BINARY(NAME, BUILTIN)                                                     \
  METAL_FUNC float NAME(float x, float y) { return BUILTIN(x, y); }                   \
  METAL_FUNC half NAME(half x, half y) { return (half)BUILTIN((float)x, (float)y); }  \
  template <class T, int N>                                                           \
  METAL_FUNC vec<T, N> NAME(vec<T, N> x, vec<T, N> y) {                               \
    vec<T, N> result;                                                                 \
    for (int i = 0; i < N; i++) result[i] = (T)BUILTIN((float)x[i], (float)y[i]);     \
    return result;                                                                    \
  }
#define MSL_ALL_BINARY             \
  MSL_BINARY(pow, __builtin_powf)  \
  MSL_BINARY(powr, __builtin_powf) \
  MSL_BINARY(fmod, __builtin_fmodf) \
  MSL_BINARY(atan2, __builtin_atan2f) \
  MSL_BINARY(copysign, __builtin_copysignf) \
  MSL_BINARY(fmax, __builtin_fmaxf) \
  MSL_BINARY(fmin, __builtin_fminf)
#define MSL_DIVIDE METAL_FUNC float divide(float x, float y) { return x / y; }
MSL_ALL_UNARY MSL_ALL_BINARY MSL_DIVIDE
namespace precise { MSL_ALL_UNARY MSL_ALL_BINARY MSL_DIVIDE }
namespace fast { MSL_ALL_UNARY MSL_ALL_BINARY MSL_DIVIDE }

METAL_FUNC float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
METAL_FUNC half fma(half a, half b, half c) {
  return (half)__builtin_fma((double)a, (double)b, (double)c);  // exact before the one rounding
}
template <class T, int N>
METAL_FUNC vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c) {
  vec<T, N> result;
  for (int i = 0; i < N; i++) result[i] = fma(a[i], b[i], c[i]);
  return result;
}
METAL_FUNC float ldexp(float x, int k) { return __builtin_ldexpf(x, k); }

#define MSL_ORDERED(T)                                                              \
  METAL_FUNC T min(T a, T b) { return b < a ? b : a; }                              \
  METAL_FUNC T max(T a, T b) { return a < b ? b : a; }                              \
  METAL_FUNC T clamp(T x, T low, T high) { return min(max(x, low), high); }         \
  METAL_FUNC T select(T a, T b, bool c) { return c ? b : a; }
MSL_FOR_INTEGERS(MSL_ORDERED)
METAL_FUNC float min(float a, float b) { return __builtin_fminf(a, b); }
METAL_FUNC float max(float a, float b) { return __builtin_fmaxf(a, b); }
METAL_FUNC half min(half a, half b) { return (half)__builtin_fminf((float)a, (float)b); }
METAL_FUNC half max(half a, half b) { return (half)__builtin_fmaxf((float)a, (float)b); }
METAL_FUNC float clamp(float x, float low, float high) { return min(max(x, low), high); }
METAL_FUNC half clamp(half x, half low, half high) { return min(max(x, low), high); }
METAL_FUNC float select(float a, float b, bool c) { return c ? b : a; }
METAL_FUNC half select(half a, half b, bool c) { return c ? b : a; }
#define MSL_ELEMENTWISE_2(NAME)                                    \
  template <class T, int N>                                        \
  METAL_FUNC vec<T, N> NAME(vec<T, N> a, vec<T, N> b) {            \
    vec<T, N> result;                                              \
    for (int i = 0; i < N; i++) result[i] = NAME(a[i], b[i]);      \
    return result;                                                 \
  }
MSL_ELEMENTWISE_2(min)
MSL_ELEMENTWISE_2(max)
template <class T, int N>
METAL_FUNC vec<T, N> clamp(vec<T, N> x, vec<T, N> low, vec<T, N> high) {
  return min(max(x, low), high);
}
template <class T, int N, class B>
METAL_FUNC vec<T, N> select(vec<T, N> a, vec<T, N> b, B c) {
  vec<T, N> result;
  for (int i = 0; i < N; i++) result[i] = c[i] ? b[i] : a[i];
  return result;
}

#define MSL_ABS(T) \
  METAL_FUNC T abs(T x) { return x < T(0) ? T(-x) : x; }
MSL_ABS(char) MSL_ABS(short) MSL_ABS(int) MSL_ABS(long)
METAL_FUNC float abs(float x) { return __builtin_fabsf(x); }
METAL_FUNC half abs(half x) { return (half)__builtin_fabsf((float)x); }
template <class T, int N>
METAL_FUNC vec<T, N> abs(vec<T, N> x) {
  vec<T, N> result;
  for (int i = 0; i < N; i++) result[i] = abs(x[i]);
  return result;
}
template <class T, int N>
METAL_FUNC T dot(vec<T, N> a, vec<T, N> b) {
  T sum = 0;
  for (int i = 0; i < N; i++) sum += a[i] * b[i];
  return sum;
}

METAL_FUNC bool isnan(float x) { return __builtin_isnan(x); }
METAL_FUNC bool isinf(float x) { return __builtin_isinf(x); }
METAL_FUNC bool isfinite(float x) { return __builtin_isfinite(x); }
METAL_FUNC bool signbit(float x) { return __builtin_signbit(x); }
METAL_FUNC float saturate(float x) { return clamp(x, 0.0f, 1.0f); }
METAL_FUNC float sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f; }
METAL_FUNC float mix(float a, float b, float t) { return a + (b - a) * t; }
METAL_FUNC float step(float edge, float x) { return x < edge ? 0.0f : 1.0f; }

METAL_FUNC uint popcount(uint x) { return __builtin_popcount(x); }
METAL_FUNC uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
METAL_FUNC uint ctz(uint x) { return x ? __builtin_ctz(x) : 32; }
METAL_FUNC uint mulhi(uint a, uint b) { return (uint)(((uint64_t)a * b) >> 32); }
METAL_FUNC uint extract_bits(uint x, uint offset, uint bits) {
  return bits == 0 ? 0u : (x >> offset) & (bits >= 32 ? ~0u : (1u << bits) - 1);
}

}  // namespace metal
