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

// Stores the features of a stripe in a tile.
inline void put(const Float found[ROWS][DEPTH], int64_t stripe, int64_t features, float* tile) {
    for (int row = 0; row < ROWS && stripe * ROWS + row < features; row++)
        for (int part = 0; part < DEPTH; part++)
            store(tile + (stripe * ROWS + row) * TOKENS + part * LANES, found[row][part]);
}

// Adds them to those in the tile, and the sums to the sums of each token.
inline void add(const Float found[ROWS][DEPTH], int64_t stripe, int64_t features, float* tile, Float sums[DEPTH]) {
    for (int row = 0; row < ROWS && stripe * ROWS + row < features; row++)
        for (int part = 0; part < DEPTH; part++) {
            float* to = tile + (stripe * ROWS + row) * TOKENS + part * LANES;
            const Float sum = load(to) + found[row][part];
            store(to, sum);
            sums[part] += sum;
        }
}

// Notes the largest absolute value of each token, as an integer, among COUNT features of one head.
template <int COUNT>
inline void note_largest(const Float found[COUNT][DEPTH], int32_t* largest, int64_t heads) {
#pragma GCC unroll 4
    for (int part = 0; part < DEPTH; part++, largest += heads * LANES) {
        Int most = load(largest);
#pragma GCC unroll 4
        for (int row = 0; row < COUNT; row++) most = larger(most, size_of(found[row][part]));
        store(largest, most);
    }
}

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

    // The same after the values of one tile were normalized, in place; `sums` as in normalize().
    void make_normalized(const Grid& wanted, bool in_lines, float* values, int64_t features, int64_t tile,
                         const Float sums[DEPTH], const float* weight, const float* bias, double epsilon) {
        float* const to = values + tile * features * TOKENS;
        int32_t* const into = tiles + tile * tile_words(padded(features));
        source = values, grid = wanted, lines = in_lines;
        Range range;
        const auto keep = [&](int64_t first, const Float found[ROWS][DEPTH]) {
            put(found, first / ROWS, features, to);
            if (grid.dynamic)
                for (int row = 0; row < ROWS; row++) range.take(found[row]);
        };
        if (grid.dynamic) {
            normalize(to, features, sums, weight, bias, epsilon, keep);
            scales[tile] = range.scales(grid);
            quantize(scales[tile], grid, to, features, lines, into);
            return;
        }
        scales[tile] = fixed_scales(grid);
        Rounding rounding(scales[tile], grid, lines, into);
        normalize(to, features, sums, weight, bias, epsilon, [&](int64_t first, const Float found[ROWS][DEPTH]) {
            keep(first, found);
            rounding.take(first, found);
        });
        rounding.finish();
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

struct ForTokens;
struct ForMembers;

// One call of the encoder, shared by several threads: each has its own tiles, and its own heads.
struct Pass {
    const Encoder& encoder;
    const std::vector<Span>& spans;
    int64_t tiles;
    float *states, *queries, *keys, *values;  // tiles of `hidden` features
    int32_t* sizes[3];                        // of these, [vector][head]: the largest of each token, as integers
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
        for (int64_t first = from; first < to; first += CHUNK)
            project(encoder.layers[0], narrow, first, std::min(CHUNK, to - first));
        for (int64_t index = 0; index < encoder.count; index++) {
            barrier.wait();
            attend_heads(member, members, own + lined(chunk_words()));
            barrier.wait();
            const Layer* next = index + 1 < encoder.count ? encoder.layers + index + 1 : nullptr;
            for (int64_t first = from; first < to; first += CHUNK) {
                const int64_t count = std::min(CHUNK, to - first);
                feed_forward(encoder.layers[index], next, narrow, wide, between, first, count);
                // While the states are in the cache, and their codes made.
                if (next != nullptr) project(*next, narrow, first, count);
            }
        }
    }

    void project(const Layer& layer, Codes& codes, int64_t first, int64_t count) const {
        const Matrix* matrices[] = {&layer.query, &layer.key, &layer.value};
        const Grid* grids[] = {&layer.query_grid, &layer.key_grid, &layer.value_grid};
        float* into[] = {queries, keys, values};
        const int64_t heads = encoder.heads, width = encoder.hidden / heads;
        for (int which = 0; which < 3; which++) {
            const Matrix& matrix = *matrices[which];
            int32_t* const largest = sizes[which] + first * DEPTH * heads * LANES;
            std::fill(largest, largest + count * DEPTH * heads * LANES, 0);
            codes.make(*grids[which], matrix.by_columns, at(states, first), encoder.hidden, count);
            product(matrix, codes, count, [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
                put(found, stripe, encoder.hidden, at(into[which], first + tile));
                int32_t* const of_tile = largest + tile * DEPTH * heads * LANES;
                if (width % ROWS) {
                    for (int row = 0; row < ROWS && stripe * ROWS + row < encoder.hidden; row++)
                        note_largest<1>(found + row, of_tile + (stripe * ROWS + row) / width * LANES, heads);
                } else {
                    note_largest<ROWS>(found, of_tile + stripe * ROWS / width * LANES, heads);
                }
            });
        }
    }

    void attend_heads(int member, int members, int32_t* own) const {
        const int64_t width = encoder.hidden / encoder.heads;
        const int64_t units = (int64_t)spans.size() * encoder.heads;
        for (int64_t unit = units * member / members; unit < units * (member + 1) / members; unit++) {
            const Span span = spans[(size_t)(unit / encoder.heads)];
            const int64_t number = unit % encoder.heads;
            const auto largest = [&](int which) { return largest_of(sizes[which], encoder.heads, number, span); };
            const Head head{queries,    keys,       values, encoder.hidden, number * width, width,
                            (float)(1 / std::sqrt((double)width)), largest(0), largest(1), largest(2)};
            attend(head, span, own);
        }
    }

    // Leaves the codes for the first product of the next layer in `narrow`.
    void feed_forward(const Layer& layer, const Layer* next, Codes& narrow, Codes& wide, float* between,
                      int64_t first, int64_t count) const {
        const int64_t hidden = encoder.hidden, inner = encoder.inner;
        Float sums[CHUNK][DEPTH] = {};
        const auto collect = [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
            add(found, stripe, hidden, at(states, first + tile), sums[tile]);
        };
        narrow.source = nullptr;
        narrow.make(layer.output_grid, layer.output.by_columns, at(queries, first), hidden, count);
        product(layer.output, narrow, count, collect);
        for (int64_t tile = 0; tile < count; tile++)
            narrow.make_normalized(layer.intermediate_grid, layer.intermediate.by_columns, at(states, first), hidden,
                                   tile, sums[tile], layer.first_weight, layer.first_bias, encoder.epsilon);

        wide.source = nullptr;
        if (layer.last_grid.dynamic) {
            product(layer.intermediate, narrow, count,
                    [&](int64_t stripe, int64_t tile, Float found[ROWS][DEPTH]) {
                        activate_all(found);
                        put(found, stripe, inner, between + tile * inner * TOKENS);
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
        std::fill(*sums, *sums + CHUNK * DEPTH, every(0.0f));
        product(layer.last, wide, count, collect);
        const Matrix& reader = (next == nullptr ? layer : *next).query;
        const Grid& grid = (next == nullptr ? layer : *next).query_grid;
        for (int64_t tile = 0; tile < count; tile++)
            narrow.make_normalized(grid, reader.by_columns, at(states, first), hidden, tile, sums[tile],
                                   layer.second_weight, layer.second_bias, encoder.epsilon);
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
    const int64_t each = tiles * DEPTH * encoder.heads * LANES;
    const Scratch<ForTokens> tokens(4 * size + 3 * each);
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
    int32_t* sizes = tokens.words() + 4 * size;
    Pass pass{encoder,           spans,                                     tiles,   states, states + size, states + 2 * size,
              states + 3 * size, {sizes, sizes + each, sizes + 2 * each}, nullptr, longest};
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
