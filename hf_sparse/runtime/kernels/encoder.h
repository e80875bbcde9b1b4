// A stack of encoder layers. Norms follow the sums of a layer and its input (BERT), or stand before the attention and
// the feed-forward layer (ModernBERT, ViT).

#pragma once

#include <array>

#include "attention.h"
#include "layers.h"
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
    int32_t* sizes[3];                        // of these, [vector][head]: the largest of each token, as integers
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
        Float sums[CHUNK][DEPTH];  // of the states of each token
        for (int64_t first = from; first < to; first += CHUNK) {
            const int64_t count = std::min(CHUNK, to - first);
            std::fill(*sums, *sums + CHUNK * DEPTH, every(0.0f));
            for (int64_t tile = 0; encoder.norms_first && tile < count; tile++)
                sum_features(at(states, first + tile), encoder.hidden, sums[tile]);
            project(encoder.layers[0], narrow, between, sums, first, count);
        }
        for (int64_t index = 0; index < encoder.count; index++) {
            const Layer& layer = encoder.layers[index];
            const Layer* next = index + 1 < encoder.count ? &layer + 1 : nullptr;
            barrier.wait();
            attend_heads(layer, member, members, own + lined(chunk_words()));
            barrier.wait();
            for (int64_t first = from; first < to; first += CHUNK) {
                const int64_t count = std::min(CHUNK, to - first);
                feed_forward(layer, next, narrow, wide, between, sums, first, count);
                // While the states are in the cache, and their codes made.
                if (next != nullptr) project(*next, narrow, between, sums, first, count);
            }
        }
    }

    // Norms of states, in tiles from `into` on, and their codes for a matrix.
    void norms(const Matrix& reader, const Grid& grid, Codes& codes, const Float sums[CHUNK][DEPTH], float* into,
               const float* weight, const float* bias, int64_t first, int64_t count) const {
        for (int64_t tile = 0; tile < count; tile++)
            codes.make_normalized(grid, reader.by_columns, into, encoder.hidden, tile, [&](const auto& give) {
                normalize(at(states, first + tile), encoder.hidden, sums[tile], weight, bias, encoder.epsilon,
                          encoder.centered, give);
            });
    }

    // The states, or their norms, which are put in tiles from `into` on, in front of an attention or feed-forward layer;
    // and their codes.
    const float* input_of(const Matrix& reader, const Grid& grid, Codes& codes, const Float sums[CHUNK][DEPTH],
                          float* into, const float* weight, const float* bias, int64_t first, int64_t count) const {
        if (encoder.norms_first && weight != nullptr) {
            norms(reader, grid, codes, sums, into, weight, bias, first, count);
            return into;
        }
        if (encoder.norms_first) codes.source = nullptr;
        codes.make(grid, reader.by_columns, at(states, first), encoder.hidden, count);
        return at(states, first);
    }

    void project(const Layer& layer, Codes& codes, float* between, const Float sums[CHUNK][DEPTH], int64_t first,
                 int64_t count) const {
        const Matrix* matrices[] = {&layer.query, &layer.key, &layer.value};
        const Grid* grids[] = {&layer.query_grid, &layer.key_grid, &layer.value_grid};
        float* into[] = {queries, keys, values};
        const int64_t heads = encoder.heads, width = encoder.hidden / heads;
        const float* input = input_of(layer.query, layer.query_grid, codes, sums, between, layer.first_weight,
                                      layer.first_bias, first, count);
        for (int which = 0; which < 3; which++) {
            const Matrix& matrix = *matrices[which];
            int32_t* const largest = sizes[which] + first * DEPTH * heads * LANES;
            std::fill(largest, largest + count * DEPTH * heads * LANES, 0);
            const bool turned = layer.rotation >= 0 && which < 2;
            codes.make(*grids[which], matrix.by_columns, input, encoder.hidden, count);
            product(matrix, codes, count, [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
                put(found, stripe, matrix.rows, at(into[which], first + tile));
                if (turned) return;
                int32_t* const of_tile = largest + tile * DEPTH * heads * LANES;
                if (width % ROWS) {
                    for (int row = 0; row < ROWS && stripe * ROWS + row < matrix.rows; row++)
                        note_largest<1>(found + row, of_tile + (stripe * ROWS + row) / width * LANES, heads);
                } else {
                    note_largest<ROWS>(found, of_tile + stripe * ROWS / width * LANES, heads);
                }
            });
            if (turned) turn(layer.rotation, which == 0 ? heads : encoder.key_heads, into[which], largest, first, count);
        }
    }

    // Rotates heads of queries or keys, and notes the largest.
    void turn(int64_t rotation, int64_t heads, float* all, int32_t* largest, int64_t first, int64_t count) const {
        const int64_t half = encoder.places.pairs, width = encoder.hidden / encoder.heads;
        for (int64_t tile = 0; tile < count; tile++)
            for (int64_t head = 0; head < heads; head++) {
                float* const features = at(all, first + tile) + head * width * TOKENS;
                rotate(features, half, turns + (rotation * tiles + first + tile) * 2 * half * TOKENS);
                for (int64_t row = 0; row < width; row++) {
                    Float found[1][DEPTH];
                    for (int part = 0; part < DEPTH; part++)
                        found[0][part] = load(features + row * TOKENS + part * LANES);
                    note_largest<1>(found, largest + (tile * DEPTH * encoder.heads + head) * LANES, encoder.heads);
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
            const int64_t shared = number / sharing;
            const auto largest = [&](int which, int64_t of) { return largest_of(sizes[which], encoder.heads, of, span); };
            const Head head{queries,        keys,
                            values,         encoder.hidden,
                            number * width, width,
                            (float)encoder.scaling,
                            shared * width, distances,
                            largest(0, number), largest(1, shared), largest(2, shared)};
            attend(head, span, own);
        }
    }

    // Leaves the codes for the first product of the next layer in `narrow` where norms come last.
    void feed_forward(const Layer& layer, const Layer* next, Codes& narrow, Codes& wide, float* between,
                      Float sums[CHUNK][DEPTH], int64_t first, int64_t count) const {
        const int64_t hidden = encoder.hidden, inner = encoder.inner;
        const auto collect = [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
            add(found, stripe, hidden, at(states, first + tile), sums[tile]);
        };
        narrow.source = nullptr;
        narrow.make(layer.output_grid, layer.output.by_columns, at(queries, first), hidden, count);
        std::fill(*sums, *sums + CHUNK * DEPTH, every(0.0f));
        product(layer.output, narrow, count, collect);

        const bool gated = layer.gate.rows > 0;
        const Matrix& reader = gated ? layer.gate : layer.intermediate;
        const Grid& grid = gated ? layer.gate_grid : layer.intermediate_grid;
        if (!encoder.norms_first)
            norms(reader, grid, narrow, sums, at(states, first), layer.first_weight, layer.first_bias, first, count);
        // The outputs of the attention are no longer needed.
        const float* input = input_of(reader, grid, narrow, sums, at(queries, first), layer.second_weight,
                                      layer.second_bias, first, count);
        if (gated)
            product(layer.gate, narrow, count, [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
                put(found, stripe, inner, between + tile * inner * TOKENS);
            });
        narrow.make(layer.intermediate_grid, layer.intermediate.by_columns, input, hidden, count);
        wide.source = nullptr;
        if (layer.last_grid.dynamic) {
            product(layer.intermediate, narrow, count,
                    [&](int64_t stripe, int64_t tile, Float found[ROWS][DEPTH]) {
                        activate_all(found);
                        if (gated) open(found, stripe, between + tile * inner * TOKENS);
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
        std::fill(*sums, *sums + CHUNK * DEPTH, every(0.0f));
        product(layer.last, wide, count, collect);
        if (encoder.norms_first) return;
        const Layer& after = next == nullptr ? layer : *next;
        norms(after.query, after.query_grid, narrow, sums, at(states, first), layer.second_weight, layer.second_bias,
              first, count);
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
    const int64_t each = tiles * DEPTH * encoder.heads * LANES;
    const Scratch<ForTokens> tokens(4 * size + 3 * each);
    float* states = reinterpret_cast<float*>(tokens.words());
    for (int64_t tile = 0; tile < tiles; tile++) {
        const float* rows[TOKENS];
        for (int64_t token = 0; token < TOKENS; token++) {
            const int64_t from = source[(size_t)(tile * TOKENS + token)];
            rows[token] = from < 0 ? nullptr : input + from * hidden;
        }
        into_tile(rows, 0, hidden, states + tile * hidden * TOKENS);
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
        into_tile(rows, 0, turn, turns + at * turn * TOKENS);
    }
    int64_t longest = 0;
    for (const Span& span : spans) longest = std::max(longest, span.length);
    const int members = (int)std::max<int64_t>(1, std::min<int64_t>(threads, tiles));
    int32_t* sizes = tokens.words() + 4 * size;
    Pass pass{encoder,           spans,
              tiles,             states,
              states + size,     states + 2 * size,
              states + 3 * size, {sizes, sizes + each, sizes + 2 * each},
              nullptr,           longest,
              columns.data(),    turns};
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
