/* hop.c for x86 processors that have AVX2 and FMA; sase.c chooses at run time. */
#include "network.h"

#ifdef SASE_DISPATCH
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define HOP_NAME sase_hop_avx2
#define TILE_ROWS 8
#include "hop.c"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
