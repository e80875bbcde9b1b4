// Solves the problems that it reads with the kernels it was compiled with, and writes what they give: for paths that
// the processor at hand cannot run, under emulation.

#include <cstdio>
#include <cstdlib>

#include "kernels.cpp"

namespace {

enum Problem : int64_t { NONE = 0, LINEAR = 1, ENCODER = 2 };

// Buffers are as large as they have to be and no larger, so that a sanitizer sees who goes beyond.
template <typename Value>
std::vector<Value> read(int64_t count) {
    std::vector<Value> values((size_t)count);
    if (std::fread(values.data(), sizeof(Value), values.size(), stdin) != values.size()) std::exit(2);
    return values;
}

template <typename Value>
Value read() {
    return read<Value>(1)[0];
}

std::vector<float> read_padded(int64_t rows) {
    std::vector<float> values = read<float>(rows);
    values.resize((size_t)padded(rows));
    return values;
}

struct Weight {
    int64_t rows = read<int64_t>(), columns = read<int64_t>();
    int64_t tall = read<int64_t>(), wide = read<int64_t>(), by_columns = read<int64_t>();
    Grid grid = {read<float>(), read<float>(), read<int64_t>()};
    std::vector<int8_t> codes = read<int8_t>(rows * columns);
    std::vector<float> multipliers = read_padded(rows), biases = read_padded(rows);
    std::vector<int32_t> row_sums = std::vector<int32_t>((size_t)padded(rows)), words;
    std::vector<uint32_t> starts = std::vector<uint32_t>((size_t)(padded(rows) / tall + 1));
    std::vector<uint16_t> indices;

    Weight() {
        for (int64_t at = 0; at < rows * columns; at++) row_sums[(size_t)(at / columns)] += codes[(size_t)at];
        const int64_t total =
            hf_sparse_count_entries(codes.data(), rows, columns, tall, wide, by_columns, starts.data());
        // And some that the kernels may look at past the last.
        indices.resize((size_t)((by_columns ? total * GROUP : total) + AHEAD));
        words.resize((size_t)(total * tall * wide));
        hf_sparse_fill_entries(codes.data(), rows, columns, tall, wide, by_columns, starts.data(), indices.data(),
                               words.data());
    }

    Matrix matrix() const {
        return {rows,           columns,      tall,          wide,
                by_columns,     starts.data(), indices.data(), words.data(),
                multipliers.data(), biases.data(), row_sums.data()};
    }
};

std::vector<float> solve_linear() {
    const Weight weight;
    const int64_t tokens = read<int64_t>(), threads = read<int64_t>();
    const std::vector<float> input = read<float>(tokens * weight.columns);
    std::vector<float> output((size_t)(tokens * weight.rows));
    const Matrix matrix = weight.matrix();
    hf_sparse_linear(&matrix, &weight.grid, input.data(), tokens, output.data(), threads);
    return output;
}

// One side of the relations of a layer: 16-bit codes [head][feature][row] in words of pairs of features.
struct Side {
    std::vector<int32_t> words;
    std::vector<float> steps;

    Side(int64_t heads, int64_t width, int64_t rows, bool by_vector) {
        const std::vector<int32_t> codes = read<int32_t>(heads * width * rows);
        steps = read<float>(heads);
        const int64_t pairs = (width + 1) / 2;
        words.resize((size_t)(heads * pairs * rows));
        for (int64_t at = 0; at < (int64_t)words.size(); at++) {
            const int64_t head = at / (pairs * rows), pair = at / rows % pairs, row = at % rows;
            const int32_t* from = codes.data() + (head * width + 2 * pair) * rows + row;
            const uint32_t second = 2 * pair + 1 < width ? (uint32_t)from[rows] : 0;
            const int64_t place = by_vector ? (row / LANES * pairs + pair) * LANES + row % LANES : pair * rows + row;
            words[(size_t)(head * pairs * rows + place)] = (int32_t)(((uint32_t)*from & 0xffff) | second << 16);
        }
    }
};

std::vector<float> solve_encoder() {
    const std::vector<int64_t> sizes = read<int64_t>(17);
    const int64_t hidden = sizes[0], inner = sizes[1], heads = sizes[2], key_heads = sizes[3];
    const int64_t linears = sizes[7], count = sizes[8], batch = sizes[9], length = sizes[10], threads = sizes[11];
    const int64_t kinds = sizes[12], pairs = sizes[13], places = sizes[14], biased = sizes[15], rows = sizes[16];
    const double epsilon = read<double>(), scaling = read<double>();
    std::vector<std::vector<Weight>> weights((size_t)count);
    std::vector<std::vector<float>> norms;
    std::vector<Side> sides;
    std::vector<Layer> layers;
    sides.reserve((size_t)(2 * count)), norms.reserve((size_t)(4 * count));
    for (auto& all : weights) {
        for (int64_t linear = 0; linear < linears; linear++) all.emplace_back();
        const int64_t first_norm = read<int64_t>(), rotation = read<int64_t>(), window = read<int64_t>();
        const float* vectors[4] = {};
        for (int vector = first_norm ? 0 : 2; vector < 4; vector++) {
            norms.push_back(read<float>(hidden));
            vectors[vector] = norms.back().data();
        }
        Relations relations{};
        if (rows) {
            for (const bool by_vector : {false, true}) sides.emplace_back(heads, hidden / heads, rows, by_vector);
            const Side &keys = sides[sides.size() - 2], &queries = sides.back();
            relations = {keys.words.data(), queries.words.data(), keys.steps.data(), queries.steps.data()};
        }
        const bool gated = linears == 7;
        const Weight& last = all.back();
        layers.push_back({all[0].matrix(), all[1].matrix(), all[2].matrix(), all[3].matrix(), all[4].matrix(),
                          gated ? all[5].matrix() : Matrix{}, last.matrix(), all[0].grid, all[1].grid, all[2].grid,
                          all[3].grid, all[4].grid, gated ? all[5].grid : Grid{}, last.grid, vectors[0], vectors[1],
                          vectors[2], vectors[3], rotation, window, relations});
    }
    const int64_t distances = 2 * length - 1 + PADDING;
    const std::vector<float> rotations = read<float>(kinds * places * 2 * pairs);
    const std::vector<float> biases = read<float>(biased * heads * distances);
    const std::vector<int32_t> rows_of = read<int32_t>(rows ? distances : 0);
    const Encoder encoder{hidden,   inner,   heads,         key_heads, sizes[4],
                          sizes[5], sizes[6], count,        layers.data(), epsilon, scaling,
                          {kinds ? rotations.data() : nullptr, pairs, places, biased ? biases.data() : nullptr,
                           rows ? rows_of.data() : nullptr, rows, length - 1}};
    const std::vector<uint8_t> mask = read<uint8_t>(batch * length);
    const std::vector<int32_t> positions = read<int32_t>(kinds ? batch * length : 0);
    const std::vector<float> input = read<float>(batch * length * hidden);
    std::vector<float> output(input.size());
    hf_sparse_encode(&encoder, input.data(), mask.data(), kinds ? positions.data() : nullptr, batch, length,
                     output.data(), threads);
    return output;
}

}  // namespace

int main() {
    for (;;) {
        const int64_t problem = read<int64_t>();
        if (problem == NONE) return 0;
        const std::vector<float> solved = problem == LINEAR ? solve_linear() : solve_encoder();
        if (std::fwrite(solved.data(), sizeof(float), solved.size(), stdout) != solved.size()) return 3;
    }
}
