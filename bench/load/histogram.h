// Microseconds, each kept to within three percent, and their percentiles.

#ifndef HISTOGRAM_H
#define HISTOGRAM_H

enum { BUCKETS = 2048, SUB = 32 };

struct histogram {
    long counts[BUCKETS], count, longest_us;
};

static inline int bucket_of(long us) {
    if (us < SUB) return us < 0 ? 0 : (int)us;
    int power = 63 - __builtin_clzl((unsigned long)us);
    int index = (power - 4) * SUB + (int)((us >> (power - 5)) & (SUB - 1));
    return index < BUCKETS ? index : BUCKETS - 1;
}

static inline long value_of(int bucket) {
    if (bucket < SUB) return bucket;
    int power = bucket / SUB + 4;
    return ((long)SUB + bucket % SUB) << (power - 5);
}

static inline void take(struct histogram *one, long us) {
    one->counts[bucket_of(us)]++;
    one->count++;
    if (us > one->longest_us) one->longest_us = us;
}

static inline long percentile(const struct histogram *one, double percent) {
    long rank = (long)(one->count * percent / 100.0), sum = 0;
    for (int i = 0; i < BUCKETS; i++)
        if ((sum += one->counts[i]) > rank) return value_of(i);
    return one->longest_us;
}

#endif
