// The C interface of one processor path.

#include <new>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "few_tokens.h"
#include "linear.h"
#include "packing.h"

extern "C" {

int64_t hf_sparse_group() { return GROUP; }
int64_t hf_sparse_tokens() { return TOKENS; }
int64_t hf_sparse_lanes() { return LANES; }

// The sizes of the structures that callers fill, which tests compare.
void hf_sparse_sizes(int64_t* sizes) {
    sizes[0] = sizeof(Matrix), sizes[1] = sizeof(Grid), sizes[2] = sizeof(Layer), sizes[3] = sizeof(Encoder);
    sizes[4] = sizeof(Rows);
}

int64_t hf_sparse_count_entries(const int8_t* codes, int64_t rows, int64_t columns, int64_t tall, int64_t wide,
                                int64_t by_columns, uint32_t* starts) {
    return count_entries(codes, rows, columns, {tall, wide, by_columns}, starts);
}

void hf_sparse_fill_entries(const int8_t* codes, int64_t rows, int64_t columns, int64_t tall, int64_t wide,
                            int64_t by_columns, const uint32_t* starts, uint16_t* indices, int32_t* words) {
    fill_entries(codes, rows, columns, {tall, wide, by_columns}, starts, indices, words);
}

void hf_sparse_sum_rows(const int8_t* codes, int64_t rows, int64_t columns, int32_t* sums) {
    sum_rows(codes, rows, columns, sums);
}

// Returns freed memory to the system: unpacking frees as much as a whole model.
void hf_sparse_trim() {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

int64_t hf_sparse_few() { return FEW; }
int64_t hf_sparse_spreads_bytes() { return spreads_bytes(); }

// These return 0, or 1 for too little memory.
int64_t hf_sparse_linear(const Matrix* matrix, const Grid* grid, const float* input, int64_t tokens, float* output,
                      int64_t threads) {
    try {
        apply(*matrix, *grid, input, tokens, output, (int)threads);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

int64_t hf_sparse_linear_few(const Rows* rows, const Grid* grid, const float* input, int64_t tokens, float* output,
                             int64_t threads) {
    try {
        apply_few(*rows, *grid, input, tokens, output, (int)threads);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

int64_t hf_sparse_encode(const Encoder* encoder, const float* input, const uint8_t* mask, const int32_t* positions,
                      int64_t batch, int64_t length, float* output, int64_t threads) {
    try {
        encode(*encoder, input, mask, positions, batch, length, output, (int)threads);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
}
