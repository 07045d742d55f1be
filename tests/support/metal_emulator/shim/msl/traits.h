// metal_type_traits and metal_limits: the standard ones, and what they lack for half and bfloat.
#pragma once
#include "language.h"

namespace metal {

using std::bool_constant;
using std::conditional;
using std::conditional_t;
using std::decay_t;
using std::declval;
using std::enable_if;
using std::enable_if_t;
using std::false_type;
using std::integral_constant;
using std::is_arithmetic_v;
using std::is_const_v;
using std::is_convertible;
using std::is_convertible_v;
using std::is_integral;
using std::is_integral_v;
using std::is_pointer_v;
using std::is_same;
using std::is_same_v;
using std::is_signed;
using std::is_signed_v;
using std::is_unsigned;
using std::is_unsigned_v;
using std::is_void_v;
using std::make_unsigned_t;
using std::remove_cv_t;
using std::remove_reference_t;
using std::true_type;

template <class T>
struct is_floating_point : std::is_floating_point<T> {};
template <>
struct is_floating_point<half> : std::true_type {};
template <>
struct is_floating_point<bfloat> : std::true_type {};
template <class T>
inline constexpr bool is_floating_point_v = is_floating_point<T>::value;

template <typename T>
struct numeric_limits : std::numeric_limits<T> {};

#define MSL_LIMITS(T, LARGEST, SMALLEST, EPSILON)                              \
  template <>                                                                  \
  struct numeric_limits<T> {                                                   \
    static constexpr T max() { return (T)LARGEST; }                            \
    static constexpr T lowest() { return (T)-LARGEST; }                        \
    static constexpr T min() { return (T)SMALLEST; }                           \
    static constexpr T epsilon() { return (T)EPSILON; }                        \
    static constexpr T infinity() { return (T)__builtin_inff(); }              \
    static constexpr T quiet_NaN() { return (T)__builtin_nanf(""); }           \
  };
MSL_LIMITS(half, 65504.0f, 0x1p-14f, 0x1p-10f)
MSL_LIMITS(bfloat, 0x1.fep127f, 0x1p-126f, 0x1p-7f)

template <class T>
struct remove_addrspace {
  typedef T type;
};
template <class T>
struct remove_addrspace<device T> {
  typedef T type;
};
template <class T>
struct remove_addrspace<constant T> {
  typedef T type;
};
template <class T>
struct remove_addrspace<threadgroup T> {
  typedef T type;
};
template <class T>
using remove_addrspace_t = typename remove_addrspace<T>::type;

}  // namespace metal
