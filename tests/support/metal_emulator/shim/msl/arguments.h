// Kernel arguments that convert themselves to what a (possibly templated) signature asks for.
#pragma once
#include "language.h"
#include "runtime.h"

namespace msl {

// A buffer given to a pointer, of any element type and address space.
struct Pointer {
  void* p;
  template <class T>
  operator T*() const {
    return (T*)(uintptr_t)p;
  }
};
// A buffer given to a reference.
struct Value {
  void* p;
  template <class T>
  operator T&() const {
    return *(T*)(uintptr_t)p;
  }
};
// A position attribute.
struct Triple {
  unsigned v[3];
  operator uint3() const {
    uint3 r;
    for (int i = 0; i < 3; i++) r[i] = v[i];
    return r;
  }
  operator uint2() const {
    uint2 r;
    for (int i = 0; i < 2; i++) r[i] = v[i];
    return r;
  }
  operator uint() const { return v[0]; }
};
METAL_FUNC Triple triple(const unsigned* v) { return {{v[0], v[1], v[2]}}; }

}  // namespace msl
