// Shared by the kernels that read packed weights. Included before the kernel, see ops/kernel.py.
//
// A lane processes chunks of 32 inputs. 32 values of BITS bits are exactly BITS 32-bit words, so
// all values of a chunk are within its words, for every width (mx.quantize packs from the least
// significant bit and lets values cross words). A group of 32, 64 or 128 inputs has one scale and
// one bias, so a chunk needs one of each: value = q * scale + bias, and
//     sum(value * x) = scale * sum(q * x) + bias * sum(x),
// where sum(x) is the same for every row of the weight.

constexpr constant int CHUNK = 32;

// Copies the BITS words of a chunk. p is 4-byte aligned; 8 or 16 bytes if the width allows it,
// because components begin at multiples of 64 bytes and a chunk is BITS * 4 bytes long.
template <int BITS>
METAL_FUNC void load_chunk(const device uint32_t* p, thread uint32_t* words) {
  if (BITS % 4 == 0) {
    for (int i = 0; i < BITS / 4; i++) {
      const uint4 v = ((const device uint4*)p)[i];
      words[4 * i] = v.x;
      words[4 * i + 1] = v.y;
      words[4 * i + 2] = v.z;
      words[4 * i + 3] = v.w;
    }
  } else if (BITS % 2 == 0) {
    for (int i = 0; i < BITS / 2; i++) {
      const uint2 v = ((const device uint2*)p)[i];
      words[2 * i] = v.x;
      words[2 * i + 1] = v.y;
    }
  } else {
    for (int i = 0; i < BITS; i++) {
      words[i] = p[i];
    }
  }
}

// True if value j of a chunk crosses a word boundary, which happens only with 3 and 6 bits.
template <int BITS>
METAL_FUNC constexpr bool crosses(int j) {
  return (j * BITS) % 32 + BITS > 32;
}

// Prepares the inputs of a chunk for dot_chunk and returns their sum. A packed value is not shifted
// to bit 0: masked in place it is q * 2^s, and its input is multiplied by 2^-s once for all rows. Both
// are exact for inputs of magnitude 2^-98 or more.
template <int BITS>
METAL_FUNC float scale_chunk(thread float* x) {
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < CHUNK; j++) {
    sum += x[j];
    if (!crosses<BITS>(j)) {
      x[j] *= 1.0f / static_cast<float>(1u << ((j * BITS) % 32));
    }
  }
  return sum;
}

// Returns the sum over the chunk of q * x in float, for x prepared by scale_chunk.
template <int BITS>
METAL_FUNC float dot_chunk(thread const uint32_t* words, thread const float* x) {
  constexpr uint32_t MASK = (1u << BITS) - 1u;
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < CHUNK; j++) {
    const int word = (j * BITS) / 32;
    const int shift = (j * BITS) % 32;
    uint32_t q = words[word] & (MASK << shift);
    if (crosses<BITS>(j)) {
      q = ((words[word] >> shift) | (words[word + 1] << (32 - shift))) & MASK;
    }
    sum = fma(static_cast<float>(q), x[j], sum);
  }
  return sum;
}

// Position of value i of a row of WIDTH values between moe_gate_up and moe_down: threads with
// neighbouring chunks read neighbouring blocks of 16 bytes.
template <int WIDTH>
METAL_FUNC constexpr int transposed(int i) {
  return (i % CHUNK / 4 * (WIDTH / CHUNK) + i / CHUNK) * 4 + i % 4;
}
