// A stack of post-norm encoder layers: BERT, RoBERTa, DistilBERT, ELECTRA.

#pragma once

#include "attention.h"
#include "norms.h"
#include "threads.h"
#include "transpose.h"

namespace {

struct Layer {
    Matrix query, key, value, output, intermediate, last;
    Grid query_grid, key_grid, value_grid, output_grid, intermediate_grid, last_grid;
    const float *first_weight, *first_bias, *second_weight, *second_bias;  // of the two LayerNorms
};

struct Encoder {
    int64_t hidden, inner, heads, activation;
    int64_t count;
    const Layer* layers;
    double epsilon;
};

// Tiles in a chunk: the values between the two products of a layer should stay in the cache.
constexpr int64_t CHUNK = 128 / TOKENS > 0 ? 128 / TOKENS : 1;

// The codes of the input of a layer, kept for the next layer if it has the same input and grid.
struct Codes {
    int32_t* tiles;
    Scales scales[CHUNK] = {};
    const float* source = nullptr;
    Grid grid = {};
    bool lines = false;

    // Marks tokens that were broken earlier: an activation may have turned NaN into a number.
    void inherit(const Codes& earlier, int64_t count) {
        for (int64_t tile = 0; tile < count; tile++) {
            if (!earlier.scales[tile].any_broken) continue;
            scales[tile].any_broken = true;
            for (int part = 0; part < DEPTH; part++)
                scales[tile].broken[part] |= earlier.scales[tile].broken[part];
        }
    }

    void make(const Grid& wanted, bool in_lines, const float* values, int64_t features, int64_t count) {
        if (values == source && in_lines == lines && wanted.step == grid.step && wanted.zero == grid.zero &&
            wanted.dynamic == grid.dynamic)
            return;
        source = values, grid = wanted, lines = in_lines;
        for (int64_t tile = 0; tile < count; tile++) {
            const float* from = values + tile * features * TOKENS;
            scales[tile] = grid.dynamic ? dynamic_scales(grid, from, features) : fixed_scales(grid);
            quantize(scales[tile], grid, from, features, lines, tiles + tile * tile_words(padded(features)));
        }
    }
};

// Calls take(stripe, tile, floats) with the product of a matrix and tiles of codes.
template <typename Take>
inline void product(const Matrix& matrix, const Codes& codes, int64_t count, const Take& take) {
    const int64_t size = tile_words(padded(matrix.columns));
    for (int64_t first = 0, next; first < stripes(matrix.rows); first = next) {
        next = panel(matrix, first);
        for (int64_t tile = 0; tile < count; tile++)
            for (int64_t stripe = first; stripe < next; stripe++) {
                alignas(64) int32_t initial[ROWS], sums[ROWS * TOKENS];
                initial_sums(matrix, stripe, codes.grid, initial);
                multiply(matrix, stripe, codes.tiles + tile * size, initial, sums);
                Float found[ROWS][DEPTH];
                restore(matrix, stripe, codes.grid, codes.scales[tile], sums, found);
                take(stripe, tile, found);
            }
    }
}

inline void put(const Float found[ROWS][DEPTH], int64_t stripe, int64_t features, float* tile, bool add) {
    for (int64_t row = 0; row < ROWS && stripe * ROWS + row < features; row++)
        for (int part = 0; part < DEPTH; part++) {
            float* to = tile + (stripe * ROWS + row) * TOKENS + part * LANES;
            store(to, add ? load(to) + found[row][part] : found[row][part]);
        }
}

struct ForTokens;
struct ForMembers;

// One call of the encoder, shared by several threads: each has its own tiles, and its own heads.
struct Pass {
    const Encoder& encoder;
    const std::vector<Span>& spans;
    int64_t tiles;
    float *states, *queries, *keys, *values;  // tiles of `hidden` features
    int32_t* memory;                          // of all members, one after the other
    int64_t longest;

    int64_t code_words() const { return tile_words(padded(std::max(encoder.hidden, encoder.inner))); }
    int64_t chunk_words() const { return CHUNK * (2 * code_words() + encoder.inner * TOKENS); }
    int64_t head_words() const { return attention_scratch(encoder.hidden / encoder.heads, longest); }
    int64_t member_words() const { return lined(chunk_words()) + lined(head_words()); }

    float* at(float* all, int64_t tile) const { return all + tile * encoder.hidden * TOKENS; }

    void operator()(int member, int members, Barrier& barrier) const {
        const int64_t from = tiles * member / members, to = tiles * (member + 1) / members;
        const int64_t words = code_words();
        int32_t* own = memory + member * member_words();
        Codes narrow{own}, wide{own + CHUNK * words};
        float* between = reinterpret_cast<float*>(own + 2 * CHUNK * words);
        for (int64_t index = 0; index < encoder.count; index++) {
            const Layer& layer = encoder.layers[index];
            for (int64_t first = from; first < to; first += CHUNK)
                project(layer, narrow, first, std::min(CHUNK, to - first));
            barrier.wait();
            attend_heads(member, members, own + lined(chunk_words()));
            barrier.wait();
            for (int64_t first = from; first < to; first += CHUNK)
                feed_forward(layer, narrow, wide, between, first, std::min(CHUNK, to - first));
        }
    }

    void project(const Layer& layer, Codes& codes, int64_t first, int64_t count) const {
        const Matrix* matrices[] = {&layer.query, &layer.key, &layer.value};
        const Grid* grids[] = {&layer.query_grid, &layer.key_grid, &layer.value_grid};
        float* into[] = {queries, keys, values};
        codes.source = nullptr;
        for (int which = 0; which < 3; which++) {
            const Matrix& matrix = *matrices[which];
            codes.make(*grids[which], matrix.by_columns, at(states, first), encoder.hidden, count);
            product(matrix, codes, count, [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
                put(found, stripe, encoder.hidden, at(into[which], first + tile), false);
            });
        }
    }

    void attend_heads(int member, int members, int32_t* own) const {
        const int64_t width = encoder.hidden / encoder.heads;
        const int64_t units = (int64_t)spans.size() * encoder.heads;
        for (int64_t unit = units * member / members; unit < units * (member + 1) / members; unit++) {
            const Span span = spans[(size_t)(unit / encoder.heads)];
            const Head head{queries, keys, values, encoder.hidden, unit % encoder.heads * width, width,
                            (float)(1 / std::sqrt((double)width))};
            attend(head, span, own);
        }
    }

    void feed_forward(const Layer& layer, Codes& narrow, Codes& wide, float* between, int64_t first,
                      int64_t count) const {
        const int64_t hidden = encoder.hidden, inner = encoder.inner;
        const auto add = [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
            put(found, stripe, hidden, at(states, first + tile), true);
        };
        narrow.source = nullptr;
        narrow.make(layer.output_grid, layer.output.by_columns, at(queries, first), hidden, count);
        product(layer.output, narrow, count, add);
        for (int64_t tile = first; tile < first + count; tile++)
            normalize(at(states, tile), hidden, layer.first_weight, layer.first_bias, encoder.epsilon);

        narrow.source = nullptr;
        narrow.make(layer.intermediate_grid, layer.intermediate.by_columns, at(states, first), hidden, count);
        wide.source = nullptr;
        if (layer.last_grid.dynamic) {
            product(layer.intermediate, narrow, count,
                    [&](int64_t stripe, int64_t tile, Float found[ROWS][DEPTH]) {
                        activate_all(found);
                        put(found, stripe, inner, between + tile * inner * TOKENS, false);
                    });
            wide.make(layer.last_grid, layer.last.by_columns, between, inner, count);
        } else {
            // Rounded at once, while values are in registers.
            wide.grid = layer.last_grid, wide.lines = layer.last.by_columns;
            std::fill(wide.scales, wide.scales + count, fixed_scales(wide.grid));
            const Float inverse = every(1.0f) / every(wide.grid.step), zero = every(wide.grid.zero);
            product(layer.intermediate, narrow, count,
                    [&](int64_t stripe, int64_t tile, Float found[ROWS][DEPTH]) {
                        activate_all(found);
                        Int codes[ROWS][DEPTH];
                        for (int row = 0; row < ROWS; row++)
                            for (int part = 0; part < DEPTH; part++)
                                codes[row][part] = code_of(found[row][part], inverse, zero);
                        store_codes(codes, stripe * ROWS, wide.lines,
                                    wide.tiles + tile * tile_words(padded(inner)));
                    });
        }
        wide.inherit(narrow, count);
        product(layer.last, wide, count, add);
        for (int64_t tile = first; tile < first + count; tile++)
            normalize(at(states, tile), hidden, layer.second_weight, layer.second_bias, encoder.epsilon);
    }

    void activate_all(Float found[ROWS][DEPTH]) const {
        activate(encoder.activation, *reinterpret_cast<Float(*)[ROWS * DEPTH]>(found));
    }
};

// Writes the last hidden states (batch, length, hidden): of tokens that a mask keeps, zeros for the others.
inline void encode(const Encoder& encoder, const float* input, const uint8_t* mask, int64_t batch, int64_t length,
                   float* output, int threads) {
    const int64_t hidden = encoder.hidden;
    std::vector<Span> spans;
    std::vector<int64_t> source;  // the token of the input at each place in the tiles, -1 for none
    for (int64_t sequence = 0; sequence < batch; sequence++) {
        const Span span{(int64_t)source.size(), 0};
        for (int64_t token = sequence * length; token < (sequence + 1) * length; token++)
            if (mask == nullptr || mask[token]) source.push_back(token);
        spans.push_back({span.first, (int64_t)source.size() - span.first});
        source.resize((size_t)((source.size() + LANES - 1) / LANES * LANES), -1);
    }
    const int64_t tiles = ((int64_t)source.size() + TOKENS - 1) / TOKENS;
    source.resize((size_t)(tiles * TOKENS), -1);
    const int64_t size = tiles * TOKENS * hidden;
    const Scratch<ForTokens> tokens(4 * size);
    float* states = reinterpret_cast<float*>(tokens.words());
    for (int64_t tile = 0; tile < tiles; tile++) {
        const float* rows[TOKENS];
        for (int64_t token = 0; token < TOKENS; token++) {
            const int64_t from = source[(size_t)(tile * TOKENS + token)];
            rows[token] = from < 0 ? nullptr : input + from * hidden;
        }
        into_tile(rows, hidden, states + tile * hidden * TOKENS);
    }
    int64_t longest = 0;
    for (const Span& span : spans) longest = std::max(longest, span.length);
    const int members = (int)std::max<int64_t>(1, std::min<int64_t>(threads, tiles));
    Pass pass{encoder,           spans,   tiles,  states, states + size, states + 2 * size,
              states + 3 * size, nullptr, longest};
    const Scratch<ForMembers> memory(members * pass.member_words());
    pass.memory = memory.words();
    if (tiles > 0) team().run(members, std::ref(pass));
    std::memset(output, 0, (size_t)(batch * length * hidden) * sizeof(float));
    for (int64_t tile = 0; tile < tiles; tile++) {
        float* rows[TOKENS];
        for (int64_t token = 0; token < TOKENS; token++) {
            const int64_t to = source[(size_t)(tile * TOKENS + token)];
            rows[token] = to < 0 ? nullptr : output + to * hidden;
        }
        out_of_tile(states + tile * hidden * TOKENS, hidden, 0, rows);
    }
}

}  // namespace
