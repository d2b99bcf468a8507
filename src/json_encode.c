/* Lua values to JSON text: keys sorted by their bytes, integers exact, floats as short as reads
 * back the same, so that equal values give equal text. */
#include "json_lua.h"
#include "obatch.h"
#include "simd.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void json_out_add(lua_State *L, struct json_out *out, const char *bytes, size_t length) {
    if (out->capacity - out->length < length) {
        size_t capacity = out->capacity ? out->capacity : 256;
        while (capacity - out->length < length) {
            if (capacity > SIZE_MAX / 2) luaL_error(L, "not enough memory");
            capacity *= 2;
        }
        char *data = realloc(out->data, capacity);
        if (!data) {
            luaL_error(L, "not enough memory");
            return; /* never; but the compiler cannot know */
        }
        out->data = data;
        out->capacity = capacity;
    }
    if (length > 0) memcpy(out->data + out->length, bytes, length);
    out->length += length;
}

static void add_text(lua_State *L, struct json_out *out, const char *text) {
    json_out_add(L, out, text, strlen(text));
}

void json_out_string(lua_State *L, struct json_out *out, const char *bytes, size_t length) {
    const char *at = bytes, *end = bytes + length;
    add_text(L, out, "\"");
    for (;;) {
        size_t plain = simd_json_plain(at, (size_t)(end - at));
        json_out_add(L, out, at, plain);
        at += plain;
        if (at == end) break;
        unsigned char c = (unsigned char)*at++;
        char escape[8] = {'\\', (char)c};
        static const char control[] = "\b\f\n\r\t", letters[] = "bfnrt";
        const char *known = c ? strchr(control, c) : NULL;
        if (known) {
            escape[1] = letters[known - control];
        } else if (c < 0x20) {
            snprintf(escape, sizeof escape, "\\u%04x", c);
        }
        add_text(L, out, escape);
    }
    add_text(L, out, "\"");
}

/* Where in the value the encoder is; for the message when it cannot go on. */
struct place {
    const struct place *outer;
    int depth;
    const char *key; /* NULL in an array */
    size_t length;
    lua_Integer index; /* from 0 */
};

struct encoder {
    struct json_out *out;
    json_foreign *foreign;
    void *context;
};

struct key {
    const char *bytes;
    size_t length;
};

static int compare_keys(const void *a, const void *b) {
    const struct key *left = a, *right = b;
    size_t shared = left->length < right->length ? left->length : right->length;
    int order = memcmp(left->bytes, right->bytes, shared);
    if (order != 0) return order;
    return (left->length > right->length) - (left->length < right->length);
}

static void push_pointer(lua_State *L, const struct place *place) {
    if (!place) {
        lua_pushliteral(L, "");
        return;
    }
    luaL_checkstack(L, 8, "JSON pointer");
    push_pointer(L, place->outer);
    if (place->depth > 16) { /* a cycle; nobody reads on */
        if (place->depth == 17) {
            lua_pushliteral(L, "/...");
            lua_concat(L, 2);
        }
        return;
    }
    lua_pushliteral(L, "/");
    if (place->key) {
        lua_pushlstring(L, place->key, place->length);
        luaL_gsub(L, lua_tostring(L, -1), "~", "~0");
        luaL_gsub(L, lua_tostring(L, -1), "/", "~1");
        lua_replace(L, -3);
        lua_pop(L, 1);
    } else {
        lua_pushinteger(L, place->index);
    }
    lua_concat(L, 3);
}

static void refuse(lua_State *L, const struct place *place, const char *why) {
    push_pointer(L, place);
    luaL_error(L, "cannot encode as JSON: %s at \"%s\"", why, lua_tostring(L, -1));
}

static void add_number(lua_State *L, struct encoder *encoder, const struct place *place,
                       int index) {
    char text[40];
    if (lua_isinteger(L, index)) {
        snprintf(text, sizeof text, LUA_INTEGER_FMT, lua_tointeger(L, index));
    } else {
        double number = lua_tonumber(L, index);
        if (!isfinite(number)) refuse(L, place, isnan(number) ? "not a number" : "an infinity");
        /* A normal double of up to 15 digits prints as such with 15: trailing zeros go. */
        for (int digits = fabs(number) < DBL_MIN ? 1 : 15; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, number);
            if (strtod(text, NULL) == number) break;
        }
    }
    add_text(L, encoder->out, text);
    /* So that it is read back as a float. */
    if (!lua_isinteger(L, index) && !strpbrk(text, ".e")) add_text(L, encoder->out, ".0");
}

static void check_utf8(lua_State *L, const struct place *place, const char *bytes, size_t length) {
    size_t valid = json_utf8_prefix(bytes, length);
    if (valid < length) {
        const char *why = lua_pushfstring(L, "invalid UTF-8 (byte %d of a string)", (int)valid + 1);
        refuse(L, place, why);
    }
}

/* An array has 1..n and nothing else, an object has strings; anything between has no JSON. */
static bool check_keys(lua_State *L, const struct place *place, int index, lua_Unsigned *count) {
    lua_Unsigned length = lua_rawlen(L, index), numbers = 0, names = 0;
    lua_pushnil(L);
    while (lua_next(L, index)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING) {
            names++;
        } else if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 1 &&
                   (lua_Unsigned)lua_tointeger(L, -1) <= length) {
            numbers++;
        } else {
            const char *kind =
                lua_type(L, -1) == LUA_TNUMBER ? "an array with holes" : "a key that is no string";
            refuse(L, place, kind);
        }
    }
    bool array = numbers > 0 || json_lua_is_array(L, index);
    if (array && names > 0) refuse(L, place, "an array that also has names");
    if (array && numbers < length) refuse(L, place, "an array with holes");
    *count = array ? numbers : names;
    return array;
}

static void encode_value(lua_State *L, struct encoder *encoder, const struct place *place,
                         int index);

static void encode_table(lua_State *L, struct encoder *encoder, const struct place *outer,
                         int index) {
    struct place place = {.outer = outer, .depth = outer ? outer->depth + 1 : 1};
    if (place.depth > JSON_DEPTH) refuse(L, outer, "nesting deeper than 1024 (a cycle?)");
    luaL_checkstack(L, 8, "JSON value");
    /* A record of jsonl.scan holds all that is in it once pairs() has asked for it. */
    if (luaL_getmetafield(L, index, "__pairs") != LUA_TNIL) {
        lua_pushvalue(L, index);
        lua_call(L, 1, 0);
    }
    lua_Unsigned count;
    int top = lua_gettop(L);
    if (check_keys(L, outer, index, &count)) {
        add_text(L, encoder->out, "[");
        for (lua_Integer i = 1; i <= (lua_Integer)count; i++) {
            place.index = i - 1;
            if (i > 1) add_text(L, encoder->out, ",");
            lua_rawgeti(L, index, i);
            encode_value(L, encoder, &place, top + 1);
            lua_pop(L, 1);
        }
        add_text(L, encoder->out, "]");
        return;
    }
    struct key *keys = lua_newuserdatauv(L, count * sizeof *keys, 0);
    lua_pushnil(L);
    for (size_t i = 0; lua_next(L, index); i++) {
        lua_pop(L, 1);
        keys[i].bytes = lua_tolstring(L, -1, &keys[i].length); /* held by the table */
    }
    if (count > 1) qsort(keys, count, sizeof *keys, compare_keys);
    add_text(L, encoder->out, "{");
    for (size_t i = 0; i < count; i++) {
        place.key = keys[i].bytes;
        place.length = keys[i].length;
        check_utf8(L, outer, place.key, place.length);
        if (i > 0) add_text(L, encoder->out, ",");
        json_out_string(L, encoder->out, place.key, place.length);
        add_text(L, encoder->out, ":");
        lua_pushlstring(L, place.key, place.length);
        lua_rawget(L, index);
        encode_value(L, encoder, &place, top + 2);
        lua_pop(L, 1);
    }
    add_text(L, encoder->out, "}");
    lua_settop(L, top);
}

static void encode_value(lua_State *L, struct encoder *encoder, const struct place *place,
                         int index) {
    size_t length;
    const char *bytes;
    switch (lua_type(L, index)) {
    case LUA_TBOOLEAN:
        add_text(L, encoder->out, lua_toboolean(L, index) ? "true" : "false");
        return;
    case LUA_TNUMBER:
        add_number(L, encoder, place, index);
        return;
    case LUA_TSTRING:
        bytes = lua_tolstring(L, index, &length);
        check_utf8(L, place, bytes, length);
        json_out_string(L, encoder->out, bytes, length);
        return;
    case LUA_TTABLE:
        encode_table(L, encoder, place, index);
        return;
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, index) == NULL) {
            add_text(L, encoder->out, "null");
            return;
        }
        break;
    case LUA_TUSERDATA:
        if (encoder->foreign && encoder->foreign(L, index, encoder->out, encoder->context)) return;
        break;
    }
    refuse(L, place, lua_pushfstring(L, "a %s", luaL_typename(L, index)));
}

void json_lua_encode(lua_State *L, int index, struct json_out *out, json_foreign *foreign,
                     void *context) {
    struct encoder encoder = {out, foreign, context};
    encode_value(L, &encoder, NULL, lua_absindex(L, index));
}
