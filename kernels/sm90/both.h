/* sm90/both.h: marks functions that host and device share. */
#ifndef ATTN_SM90_BOTH_H
#define ATTN_SM90_BOTH_H

#ifdef __CUDACC__
#define ATTN_SM90_BOTH __host__ __device__ __forceinline__
#else
#define ATTN_SM90_BOTH static inline
#endif

#endif
