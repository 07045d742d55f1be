// `*to = *from` of structures in two address spaces: C++ has no operator for it (rewrite.py puts the
// call).
#pragma once
#include "traits.h"

namespace msl {

template <class To, class From>
METAL_FUNC void assign(To* to, const From* from) {
  using T = metal::remove_addrspace_t<To>;
  if constexpr (std::is_class_v<T>) {
    static_assert(std::is_same_v<T, metal::remove_addrspace_t<From>>);
    // The sanitizers check the bytes of a memcpy, and the alignment that is promised here.
    __builtin_memcpy(__builtin_assume_aligned((void*)(uintptr_t)to, alignof(T)),
                     __builtin_assume_aligned((const void*)(uintptr_t)from, alignof(T)), sizeof(T));
  } else {
    *to = *from;
  }
}

}  // namespace msl
