/* What strings mean: a part of json_scan.h, which includes it once for each level. */

/* Decodes what is at *at in a checked string: one escape, or else one byte. Returns its length in
 * UTF-8, or 0 for a lone surrogate. */
static int read_character(const char **at, const char *end, char out[4]) {
    const char *from = *at;
    if (*from != '\\') {
        out[0] = *from;
        *at = from + 1;
        return 1;
    }
    *at = from + 2;
    switch (from[1]) {
    case 'b':
        out[0] = '\b';
        return 1;
    case 'f':
        out[0] = '\f';
        return 1;
    case 'n':
        out[0] = '\n';
        return 1;
    case 'r':
        out[0] = '\r';
        return 1;
    case 't':
        out[0] = '\t';
        return 1;
    case 'u':
        break;
    default:
        out[0] = from[1];
        return 1;
    }
    uint32_t code = (uint32_t)hex4(from + 2, end);
    *at = from + 6;
    if (is_low((int)code)) return 0;
    if (is_high((int)code)) {
        int low = end - from >= 12 && from[6] == '\\' && from[7] == 'u' ? hex4(from + 8, end) : -1;
        if (!is_low(low)) return 0;
        code = 0x10000 + ((code - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
        *at = from + 12;
    }
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    int length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)((length == 2 ? 0xC0 : length == 3 ? 0xE0 : 0xF0) | code);
    return length;
}

#ifdef BLOCKS
/* Takes blocks out of their escapes, up to the first \u or near the end, and moves both on. The
 * bits of a block say where its escapes are; what follows each is copied without a look at it. */
static void LEVEL(unescape_blocks)(const char **from, const char *end, char **to) {
    static const char meanings[256] = {['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
                                       ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t'};
    const char *at = *from;
    char *out = *to, meaning = ' ';
    while (meaning &&
           end - at >= 64 + 65) { /* an escape may end, and a copy begin, a byte behind */
        const char *block = at;
        uint64_t slashes = block_equal(block_load(block), '\\');
        for (memcpy(out, at, 64); slashes; memcpy(out, at, 64)) {
            const char *slash = block + __builtin_ctzll(slashes);
            out += slash - at;
            at = slash;
            meaning = meanings[(unsigned char)slash[1]];
            if (!meaning) break;
            *out++ = meaning;
            at += 2;
            slashes &= slashes - 1;
            if (slash[1] == '\\') slashes &= slashes - 1;
        }
        if (meaning && at < block + 64) {
            out += block + 64 - at;
            at = block + 64;
        }
    }
    *from = at;
    *to = out;
}
#endif

static bool LEVEL(unescape)(const struct json_value *value, char *out, size_t *size) {
    const char *at = value->at + 1, *end = value->at + value->length - 1;
    char *to = out;
    while (at < end) {
        /* What is copied is never longer than what it comes from, so there is room for all of it.
         */
#ifdef BLOCKS
        LEVEL(unescape_blocks)(&at, end, &to);
#endif
        while (end - at >= WIDTH) {
            memcpy(to, at, WIDTH);
            size_t plain = slash_prefix(at);
            at += plain;
            to += plain;
            if (plain < WIDTH) break;
        }
        while (at < end && *at != '\\') *to++ = *at++;
        if (at == end) break;
        const char *slash = at;
        int length = read_character(&at, end, to);
        if (length == 0) {
            *size = (size_t)(slash - value->at);
            return false;
        }
        to += length;
    }
    *size = (size_t)(to - out);
    return true;
}
