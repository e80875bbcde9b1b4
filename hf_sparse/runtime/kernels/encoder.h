// A stack of encoder layers. Norms follow the sums of a layer and its input (BERT), or stand before the attention and
// the feed-forward layer (ModernBERT, ViT).

#pragma once

#include <array>

#include "attention.h"
#include "norms.h"
#include "threads.h"
#include "transpose.h"

namespace {

struct Layer {
    Matrix query, key, value, output, intermediate, gate, last;
    Grid query_grid, key_grid, value_grid, output_grid, intermediate_grid, gate_grid, last_grid;
    // Of the two norms; null where a norm before the attention is left out.
    const float *first_weight, *first_bias, *second_weight, *second_bias;
    int64_t rotation, window;  // the kind of rotation and the largest distance that is seen, or -1
    Relations relations;       // of all heads
};

struct Encoder {
    int64_t hidden, inner, heads, key_heads, activation;
    int64_t norms_first, centered;  // where norms are, and whether they subtract the mean
    int64_t count;
    const Layer* layers;
    double epsilon, scaling;  // `scaling` of scores
    Places places;
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
struct ForTurns;

// Each row of biases is followed by so many unused ones.
constexpr int64_t PADDING = 16;

// One call of the encoder, shared by several threads: each has its own tiles, and its own heads.
struct Pass {
    const Encoder& encoder;
    const std::vector<Span>& spans;
    int64_t tiles;
    float *states, *queries, *keys, *values;  // tiles of `hidden` features
    int32_t* memory;                          // of all members, one after the other
    int64_t longest;
    const int32_t* columns;  // the place in its sequence of each token of the tiles
    const float* turns;      // tiles of rotations, [kind][tile]

    int64_t code_words() const { return tile_words(padded(std::max(encoder.hidden, encoder.inner))); }
    int64_t chunk_words() const { return CHUNK * (2 * code_words() + std::max(encoder.hidden, encoder.inner) * TOKENS); }
    int64_t head_words() const { return attention_scratch(encoder.hidden / encoder.heads, longest, encoder.places.rows); }
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
                project(layer, narrow, between, first, std::min(CHUNK, to - first));
            barrier.wait();
            attend_heads(layer, member, members, own + lined(chunk_words()));
            barrier.wait();
            for (int64_t first = from; first < to; first += CHUNK)
                feed_forward(layer, narrow, wide, between, first, std::min(CHUNK, to - first));
        }
    }

    // What the next product reads: the states, or their norms, which are put in tiles from `into` on.
    const float* input_of(const float* weight, const float* bias, float* into, int64_t first, int64_t count) const {
        if (!encoder.norms_first || weight == nullptr) return at(states, first);
        norms(at(states, first), into, weight, bias, count);
        return into;
    }

    void norms(const float* from, float* into, const float* weight, const float* bias, int64_t count) const {
        const int64_t size = encoder.hidden * TOKENS;
        for (int64_t tile = 0; tile < count; tile++)
            normalize(from + tile * size, into + tile * size, encoder.hidden, weight, bias, encoder.epsilon,
                      encoder.centered);
    }

    void project(const Layer& layer, Codes& codes, float* between, int64_t first, int64_t count) const {
        const Matrix* matrices[] = {&layer.query, &layer.key, &layer.value};
        const Grid* grids[] = {&layer.query_grid, &layer.key_grid, &layer.value_grid};
        float* into[] = {queries, keys, values};
        const float* input = input_of(layer.first_weight, layer.first_bias, between, first, count);
        codes.source = nullptr;
        for (int which = 0; which < 3; which++) {
            const Matrix& matrix = *matrices[which];
            codes.make(*grids[which], matrix.by_columns, input, encoder.hidden, count);
            product(matrix, codes, count, [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
                put(found, stripe, matrix.rows, at(into[which], first + tile), false);
            });
        }
        if (layer.rotation < 0) return;
        const int64_t half = encoder.places.pairs, width = encoder.hidden / encoder.heads;
        for (int64_t tile = first; tile < first + count; tile++) {
            const float* turn = turns + (layer.rotation * tiles + tile) * 2 * half * TOKENS;
            for (int64_t head = 0; head < encoder.heads; head++) {
                rotate(at(queries, tile) + head * width * TOKENS, half, turn);
                if (head < encoder.key_heads) rotate(at(keys, tile) + head * width * TOKENS, half, turn);
            }
        }
    }

    void attend_heads(const Layer& layer, int member, int members, int32_t* own) const {
        const int64_t width = encoder.hidden / encoder.heads, sharing = encoder.heads / encoder.key_heads;
        const Places& places = encoder.places;
        const int64_t units = (int64_t)spans.size() * encoder.heads;
        for (int64_t unit = units * member / members; unit < units * (member + 1) / members; unit++) {
            const Span span = spans[(size_t)(unit / encoder.heads)];
            const int64_t number = unit % encoder.heads;
            Distances distances{columns, layer.window, nullptr, nullptr, places.rows, layer.relations};
            if (places.biases != nullptr)
                distances.bias = places.biases + number * (2 * places.reach + 1 + PADDING) + places.reach;
            if (layer.relations.any()) {
                const int64_t words = number * ((width + 1) / 2) * places.rows;
                Relations& one = distances.relations;
                distances.rows_of = places.rows_of + places.reach;
                one.keys += words, one.queries += words, one.key_steps += number, one.query_steps += number;
            }
            const Head head{queries, keys, values, encoder.hidden, number * width, width, (float)encoder.scaling,
                            number / sharing * width, distances};
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
        // The outputs of the attention are no longer needed.
        const float* input = input_of(layer.second_weight, layer.second_bias, at(queries, first), first, count);
        if (!encoder.norms_first) norms(input, at(states, first), layer.first_weight, layer.first_bias, count);

        narrow.source = nullptr;
        const bool gated = layer.gate.rows > 0;
        if (gated) {
            narrow.make(layer.gate_grid, layer.gate.by_columns, input, hidden, count);
            product(layer.gate, narrow, count, [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
                put(found, stripe, inner, between + tile * inner * TOKENS, false);
            });
        }
        narrow.make(layer.intermediate_grid, layer.intermediate.by_columns, input, hidden, count);
        wide.source = nullptr;
        if (layer.last_grid.dynamic) {
            product(layer.intermediate, narrow, count,
                    [&](int64_t stripe, int64_t tile, Float found[ROWS][DEPTH]) {
                        activate_all(found);
                        if (gated) open(found, stripe, between + tile * inner * TOKENS);
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
                        if (gated) mark(wide.scales[tile], open(found, stripe, between + tile * inner * TOKENS));
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
        float* to = at(states, first);
        if (!encoder.norms_first) norms(to, to, layer.second_weight, layer.second_bias, count);
    }

    // Multiplies activations with the gate, a tile; returns the sizes of the largest products.
    std::array<Int, DEPTH> open(Float found[ROWS][DEPTH], int64_t stripe, const float* gate) const {
        std::array<Int, DEPTH> largest{};
        for (int64_t row = 0; row < ROWS && stripe * ROWS + row < encoder.inner; row++)
            for (int part = 0; part < DEPTH; part++) {
                found[row][part] *= load(gate + (stripe * ROWS + row) * TOKENS + part * LANES);
                largest[(size_t)part] = larger(largest[(size_t)part], size_of(found[row][part]));
            }
        return largest;
    }

    // Marks tokens for which a product is NaN, such as zero times infinity.
    static void mark(Scales& scales, const std::array<Int, DEPTH>& largest) {
        Int all{};
        for (int part = 0; part < DEPTH; part++) {
            const Int broken = (Int)(largest[(size_t)part] > every(INFINITE));
            scales.broken[part] |= broken, all |= broken;
        }
        for (int lane = 0; lane < LANES; lane++) scales.any_broken |= all[lane] != 0;
    }

    void activate_all(Float found[ROWS][DEPTH]) const {
        activate(encoder.activation, *reinterpret_cast<Float(*)[ROWS * DEPTH]>(found));
    }
};

// The number of kinds of rotations.
inline int64_t rotations_of(const Encoder& encoder) {
    int64_t kinds = 0;
    for (int64_t index = 0; index < encoder.count; index++)
        kinds = std::max(kinds, encoder.layers[index].rotation + 1);
    return kinds;
}

// Writes the last hidden states (batch, length, hidden): of tokens that a mask keeps, zeros for the others.
// `positions` are those of rotations, or null where they are places.
inline void encode(const Encoder& encoder, const float* input, const uint8_t* mask, const int32_t* positions,
                   int64_t batch, int64_t length, float* output, int threads) {
    const int64_t hidden = encoder.hidden;
    std::vector<Span> spans;
    std::vector<int64_t> source;   // the token of the input at each place in the tiles, -1 for none
    std::vector<int32_t> columns;  // and its place in its sequence; that of the last token where there is none
    for (int64_t sequence = 0; sequence < batch; sequence++) {
        const Span span{(int64_t)source.size(), 0};
        for (int64_t token = sequence * length; token < (sequence + 1) * length; token++)
            if (mask == nullptr || mask[token]) source.push_back(token);
        spans.push_back({span.first, (int64_t)source.size() - span.first});
        source.resize((size_t)((source.size() + LANES - 1) / LANES * LANES), -1);
    }
    const int64_t tiles = ((int64_t)source.size() + TOKENS - 1) / TOKENS;
    source.resize((size_t)(tiles * TOKENS), -1);
    for (const int64_t from : source)
        columns.push_back(from >= 0 ? (int32_t)(from % length) : columns.empty() ? 0 : columns.back());
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
    const Places& places = encoder.places;
    const int64_t kinds = rotations_of(encoder), turn = 2 * places.pairs;
    const Scratch<ForTurns> turned(kinds * tiles * turn * TOKENS);
    float* turns = reinterpret_cast<float*>(turned.words());
    for (int64_t at = 0; at < kinds * tiles; at++) {
        const float* rows[TOKENS];
        for (int64_t token = 0; token < TOKENS; token++) {
            const int64_t from = source[(size_t)(at % tiles * TOKENS + token)];
            const int64_t place = from < 0 ? 0 : positions == nullptr ? from % length : positions[from];
            rows[token] = from < 0 ? nullptr : places.rotations + (at / tiles * places.count + place) * turn;
        }
        into_tile(rows, turn, turns + at * turn * TOKENS);
    }
    int64_t longest = 0;
    for (const Span& span : spans) longest = std::max(longest, span.length);
    const int members = (int)std::max<int64_t>(1, std::min<int64_t>(threads, tiles));
    Pass pass{encoder,           spans,   tiles,  states, states + size, states + 2 * size,
              states + 3 * size, nullptr, longest, columns.data(), turns};
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
