#include "simd.h"
#include "simd_level.h"

#include <stdlib.h>
#include <string.h>

const struct simd_level *simd = &simd_portable;

/* The levels of this machine, the best one first. */
static const struct simd_level *level_at(int i) {
    const struct simd_level *levels[3] = {NULL};
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
        __builtin_cpu_supports("popcnt"))
        levels[count++] = &simd_avx2;
#elif defined(__aarch64__) && !defined(__AARCH64EB__)
    levels[count++] = &simd_neon;
#endif
    levels[count++] = &simd_portable;
    return i < count ? levels[i] : NULL;
}

bool simd_choose(const char *name) {
    const struct simd_level *level;
    for (int i = 0; (level = level_at(i)); i++) {
        if (name && *name && strcmp(name, level->name) != 0) continue;
        simd = level;
        return true;
    }
    return false;
}

/* Before main, because nothing may run on two levels, and not every program has the same main. */
__attribute__((constructor)) static void choose_at_start(void) {
    if (!simd_choose(getenv("OBATCH_SIMD"))) simd_choose(NULL);
}

const char *simd_level(void) {
    return simd->name;
}

const char *simd_name(int i) {
    const struct simd_level *level = level_at(i);
    return level ? level->name : NULL;
}

size_t simd_base64(char *to, const unsigned char *from, size_t length) {
    return simd->base64(to, from, length);
}

size_t simd_json_plain(const char *bytes, size_t length) {
    return simd->json_plain(bytes, length);
}
