// router_topk: softmax over the router's logits, the K largest, renormalised.
//
// Inputs
//   logits  [tokens, N_EXPERTS]  T
// Outputs
//   ids      [tokens, K]  uint32   chosen experts, most probable first
//   weights  [tokens, K]  float32  softmax over all experts; with RENORM divided by their sum
// Template: T (float, half or bfloat), N_EXPERTS (up to 1024: a lane marks its chosen experts in 32
//   bits), K, RENORM (bool).
// Grid: (32, tokens, 1); threadgroup (32, 1, 1).
// A SIMD group owns one token; lane l holds the logits of experts l, l + 32, ... Ties go to the
// lower id, as in a stable sort. There are K rounds of a maximum over the lane and over the SIMD
// group. No threadgroup memory.
// Numerics: all in float. A NaN logit makes all weights of the token NaN, as softmax does, and is
// chosen last, so that ids are always valid.

constexpr int HELD = (N_EXPERTS + 31) / 32;

const uint lane = thread_index_in_simdgroup;
const size_t token = threadgroup_position_in_grid.y;

float value[HELD];
float largest = -INFINITY;
uint32_t given = 0;
#pragma unroll
for (int i = 0; i < HELD; i++) {
  const int expert = int(lane) + 32 * i;
  value[i] = -INFINITY;
  if (expert < N_EXPERTS) {
    value[i] = static_cast<float>(logits[token * N_EXPERTS + expert]);
    largest = value[i] > largest ? value[i] : largest;
  } else {
    given |= 1u << i;
  }
}
largest = simd_max(largest);

float total = 0.0f;
#pragma unroll
for (int i = 0; i < HELD; i++) {
  total += metal::exp(value[i] - largest);
  value[i] = value[i] == value[i] ? value[i] : -INFINITY;
}
total = simd_sum(total);

float weight[K];
float chosen = 0.0f;
for (int k = 0; k < K; k++) {
  float best = -INFINITY;
  int best_expert = N_EXPERTS;
#pragma unroll
  for (int i = 0; i < HELD; i++) {
    const bool is_free = ((given >> i) & 1u) == 0u;
    if (is_free && (value[i] > best || best_expert == N_EXPERTS)) {
      best = value[i];
      best_expert = int(lane) + 32 * i;
    }
  }
  const float top = simd_max(best);
  const int winner = simd_min(best == top ? best_expert : N_EXPERTS);
  if (winner % 32 == int(lane)) {
    given |= 1u << (winner / 32);
  }
  weight[k] = metal::exp(top - largest) / total;
  chosen += weight[k];
  if (lane == 0) {
    ids[token * K + k] = uint32_t(winner);
  }
}
if (lane == 0) {
  for (int k = 0; k < K; k++) {
    weights[token * K + k] = RENORM ? weight[k] / chosen : weight[k];
  }
}
