// Turns the int8 codes (rows, columns) of a weight into entries of a Matrix.

#pragma once

#include <algorithm>
#include <vector>

#include "product.h"

namespace {

struct Form {
    int64_t tall, wide, by_columns;
};

inline int32_t word_of(const int8_t* codes, int64_t rows, int64_t columns, int64_t row, const int64_t* chosen) {
    uint32_t all = 0;
    for (int feature = 0; feature < GROUP; feature++) {
        const bool there = row < rows && chosen[feature] < columns;
        const int32_t code = there ? codes[row * columns + chosen[feature]] : 0;
        all |= ((uint32_t)code & (GROUP == 4 ? 0xffu : 0xffffu)) << (feature * 32 / GROUP);
    }
    return (int32_t)all;
}

// Marks the columns that are not zero in one of `tall` rows from `row` on.
inline void unite(const int8_t* codes, int64_t rows, int64_t columns, int64_t row, int64_t tall, uint8_t* united) {
    std::memset(united, 0, (size_t)columns);
    for (int64_t next = row; next < std::min(row + tall, rows); next++)
        for (int64_t column = 0; column < columns; column++) united[column] |= (uint8_t)codes[next * columns + column];
}

inline bool any(const uint8_t* united, int64_t columns, int64_t column, int64_t width) {
    for (int64_t next = column; next < std::min(column + width, columns); next++)
        if (united[next]) return true;
    return false;
}

// One entry: the first group of a block, and the columns of each word. Columns from `columns` on, beyond the weight,
// stand for zeros.
struct Found {
    int64_t group;
    const int64_t* chosen;  // wide * GROUP
};

// Calls give(number, found) for each entry of rows with these columns; returns the number of entries.
template <typename Give>
inline int64_t entries(const uint8_t* united, int64_t columns, Form form, const Give& give) {
    const int64_t width = form.by_columns ? 1 : form.wide * GROUP;
    int64_t count = 0, held = 0, chosen[2 * GROUP];
    for (int64_t column = 0; column < columns; column += width) {
        // Widths divide eight.
        uint64_t eight = 1;
        if (column + 8 <= columns) std::memcpy(&eight, united + column, sizeof(eight));
        if (!eight) {
            column += 8 - width;
            continue;
        }
        if (!any(united, columns, column, width)) continue;
        if (form.by_columns) {
            chosen[held++] = column;
            if (held == GROUP) give(count++, Found{0, chosen}), held = 0;
            continue;
        }
        // A last block that would end beyond the last group begins earlier, without the columns before it.
        const int64_t last = padded(columns) / GROUP - form.wide;
        const int64_t group = std::max<int64_t>(0, std::min(column / GROUP, last));
        for (int64_t place = 0; place < width; place++) {
            const int64_t wanted = group * GROUP + place;
            chosen[place] = wanted < column ? columns : wanted;
        }
        give(count++, Found{group, chosen});
    }
    if (held) {
        while (held < GROUP) chosen[held++] = columns;
        give(count++, Found{0, chosen});
    }
    return count;
}

// The sums of the codes of each row.
inline void sum_rows(const int8_t* codes, int64_t rows, int64_t columns, int32_t* sums) {
    for (int64_t row = 0; row < rows; row++, codes += columns) {
        int32_t sum = 0;
        for (int64_t column = 0; column < columns; column++) sum += codes[column];
        sums[row] = sum;
    }
}

inline int64_t starts_of(int64_t rows, Form form) { return stripes(rows) * ROWS / form.tall + 1; }

inline int64_t count_entries(const int8_t* codes, int64_t rows, int64_t columns, Form form, uint32_t* starts) {
    std::vector<uint8_t> united((size_t)columns);
    int64_t total = 0;
    for (int64_t at = 0; at + 1 < starts_of(rows, form); at++) {
        starts[at] = (uint32_t)total;
        unite(codes, rows, columns, at * form.tall, form.tall, united.data());
        total += entries(united.data(), columns, form, [](int64_t, const Found&) {});
    }
    starts[starts_of(rows, form) - 1] = (uint32_t)total;
    return total;
}

inline void fill_entries(const int8_t* codes, int64_t rows, int64_t columns, Form form, const uint32_t* starts,
                         uint16_t* indices, int32_t* words) {
    const int64_t steps = form.by_columns ? 1 : form.wide;
    std::vector<uint8_t> united((size_t)columns);
    for (int64_t at = 0; at + 1 < starts_of(rows, form); at++) {
        const int64_t row = at * form.tall;
        unite(codes, rows, columns, row, form.tall, united.data());
        entries(united.data(), columns, form, [&](int64_t number, const Found& found) {
            const int64_t entry = starts[at] + number;
            if (form.by_columns)
                for (int feature = 0; feature < GROUP; feature++)
                    indices[entry * GROUP + feature] = (uint16_t)std::min(found.chosen[feature], columns - 1);
            else
                indices[entry] = (uint16_t)found.group;
            for (int64_t step = 0; step < steps; step++)
                for (int64_t next = 0; next < form.tall; next++)
                    words[(entry * steps + step) * form.tall + next] =
                        word_of(codes, rows, columns, row + next, found.chosen + step * GROUP);
        });
    }
}

}  // namespace
