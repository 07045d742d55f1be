// The Metal language on top of clang's C++20: address spaces, scalar and vector types, vector constructors.
//
// The address spaces are real clang address spaces, so that a device pointer given to a threadgroup
// parameter is a compile error, as it is in Metal. `thread` is the default address space.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <limits>
#include <type_traits>

#define __METAL__ 1
#define __METAL_VERSION__ 320
#define METAL_FUNC inline __attribute__((__always_inline__))

#define device __attribute__((address_space(1)))
#define constant const __attribute__((address_space(2)))  // read-only without saying so
#define threadgroup __attribute__((address_space(3)))
#define thread
#define kernel

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef __bf16 bfloat;

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define M_PI_F 3.14159265358979323846f
#define M_E_F 2.71828182845904523536f
#define M_LN2_F 0.69314718055994530942f
#define M_LOG2E_F 1.44269504088896340736f
#define M_SQRT2_F 1.41421356237309504880f

// Every element type that has vectors.
#define MSL_FOR_INTEGERS(X) X(char) X(uchar) X(short) X(ushort) X(int) X(uint) X(long) X(ulong)
#define MSL_FOR_FLOATS(X) X(float) X(half) X(bfloat)
#define MSL_FOR_ELEMENTS(X) MSL_FOR_FLOATS(X) MSL_FOR_INTEGERS(X) X(bool)

namespace metal {

#define MSL_VECTORS(T)                                \
  typedef T T##2 __attribute__((ext_vector_type(2))); \
  typedef T T##3 __attribute__((ext_vector_type(3))); \
  typedef T T##4 __attribute__((ext_vector_type(4)));
MSL_FOR_ELEMENTS(MSL_VECTORS)

template <typename T, int N>
using vec = T __attribute__((ext_vector_type(N)));

// The element type and the number of elements of a scalar (1) or a vector.
template <class T>
struct vector_traits {
  typedef T element;
  static constexpr int size = 1;
};
template <class T, int N>
struct vector_traits<T __attribute__((ext_vector_type(N)))> {
  typedef T element;
  static constexpr int size = N;
};
template <class V>
using element_t = typename vector_traits<V>::element;
template <class V>
constexpr int width = vector_traits<V>::size;

template <class V, class A>
METAL_FUNC void append(V& v, int& filled, A a) {
  if constexpr (width<A> == 1) {
    v[filled++] = (element_t<V>)a;
  } else {
    for (int i = 0; i < width<A>; i++) v[filled++] = (element_t<V>)a[i];
  }
}

// float4(x), float4(a, b, c, d), float4(xy, zw): what C++ has no syntax for.
template <class V, class... A>
METAL_FUNC V make_vector(A... args) {
  V v;
  constexpr int given = (width<A> + ... + 0);
  if constexpr (given == 1) {
    auto value = ((element_t<V>)args, ...);
    for (int i = 0; i < width<V>; i++) v[i] = value;
  } else {
    static_assert(given == width<V>, "vector constructor: wrong number of components");
    int filled = 0;
    (append(v, filled, args), ...);
  }
  return v;
}

#define MSL_MAKERS(T)                                                                          \
  template <class... A> METAL_FUNC T##2 make_##T##2(A... a) { return make_vector<T##2>(a...); } \
  template <class... A> METAL_FUNC T##3 make_##T##3(A... a) { return make_vector<T##3>(a...); } \
  template <class... A> METAL_FUNC T##4 make_##T##4(A... a) { return make_vector<T##4>(a...); }
MSL_FOR_ELEMENTS(MSL_MAKERS)

}  // namespace metal

// Metal puts the vector types into every scope.
using namespace metal;

template <class T, class U>
METAL_FUNC T as_type(U u) {
  static_assert(sizeof(T) == sizeof(U), "as_type: the sizes differ");
  return __builtin_bit_cast(T, u);
}
