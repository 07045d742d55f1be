"""Translation of a Metal kernel body to one that ``mx.fast.cuda_kernel`` compiles.

Supports only what our kernels use. Address spaces are removed (``#define device`` would break
CUDA's own headers, so this is a pass over tokens), threadgroup storage becomes ``__shared__``, and
the attributes that Metal passes as parameters are computed at the start of the body. One difference
remains for the kernels: edge threadgroups are full on CUDA, so bodies check their bounds.
"""

from __future__ import annotations

import re

_PRELUDE = """
#define METAL_FUNC __forceinline__ __device__
typedef unsigned int uint;
typedef __half half;
typedef __nv_bfloat16 bfloat;
typedef __half float16_t;
typedef __nv_bfloat16 bfloat16_t;
namespace metal {
template <typename T, int N> struct vec;
template <typename T> struct alignas(4 * sizeof(T)) vec<T, 4> { T x, y, z, w; };
METAL_FUNC float exp(float x) { return ::expf(x); }
METAL_FUNC float rsqrt(float x) { return ::rsqrtf(x); }
}
struct mem_flags { enum flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 }; };
METAL_FUNC void threadgroup_barrier(mem_flags::flags) { __syncthreads(); }
METAL_FUNC float simd_sum(float v) {
  for (int offset = 16; offset; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;
}
METAL_FUNC float simd_max(float v) {
  for (int offset = 16; offset; offset >>= 1) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, offset));
  }
  return v;
}
METAL_FUNC int simd_min(int v) {
  for (int offset = 16; offset; offset >>= 1) {
    v = ::min(v, __shfl_xor_sync(0xffffffffu, v, offset));
  }
  return v;
}
"""

_ATTRIBUTES = """
  const uint3 threadgroup_position_in_grid = make_uint3(blockIdx.x, blockIdx.y, blockIdx.z);
  const uint thread_index_in_threadgroup =
      threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const uint thread_index_in_simdgroup = thread_index_in_threadgroup & 31u;
  const uint simdgroup_index_in_threadgroup = thread_index_in_threadgroup >> 5;
"""

_COMMENT = re.compile(r"//[^\n]*")
_STORAGE = re.compile(r"\bthreadgroup\b(?=\s+[\w:<>]+\s+\w+\s*(?:\[|;))")
_ADDRESS_SPACE = re.compile(r"\b(?:device|constant|thread|threadgroup)\b\s*(?=[\w(])")


def _tokens(text: str) -> str:
    text = _COMMENT.sub("", text)
    text = _STORAGE.sub("__shared__", text)
    return _ADDRESS_SPACE.sub("", text)


def cuda_header(header: str) -> str:
    """Return the helpers of a kernel, preceded by the Metal names that they use."""
    return _PRELUDE + _tokens(header)


def cuda_body(body: str) -> str:
    """Return the body of a kernel, preceded by the attributes that it may use."""
    return _ATTRIBUTES + _tokens(body)
