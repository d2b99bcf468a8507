/* From JSON text to Lua values, in two steps: the tape knows the size of every table before it is
 * made, and whatever is wrong with a text is found before anything is. */
#include "json_lua.h"
#include "obatch.h"

#include <limits.h>
#include <stdlib.h>

#define DECODER_TYPE "obatch.json.decoder"

/* Keys of earlier objects: those of one are those of the next, and a string that is found here need
 * not be made and hashed. */
enum { KEY_SLOTS = 32, KEY_LONGEST = 39 };

struct key {
    uint8_t length;
    char bytes[KEY_LONGEST];
};

/* What decoding keeps from one text to the next. Its user values are the mark of arrays and the
 * keys, as Lua strings. */
struct decoder {
    struct json_tape tape;
    char *scratch; /* for the text of a string with escapes */
    size_t capacity;
    bool busy; /* a finalizer may decode while values are being made */
    struct key keys[KEY_SLOTS];
};

enum { MARK = 1, FIRST_KEY };

static int free_decoder(lua_State *L) {
    struct decoder *decoder = luaL_checkudata(L, 1, DECODER_TYPE);
    json_tape_free(&decoder->tape);
    free(decoder->scratch);
    *decoder = (struct decoder){0};
    return 0;
}

/* Pushes a decoder that nobody is using. */
static struct decoder *push_decoder(lua_State *L) {
    static const char key;
    struct decoder *decoder = NULL;
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &key) == LUA_TUSERDATA) {
        decoder = lua_touserdata(L, -1);
        if (!decoder->busy) return decoder;
    }
    lua_pop(L, 1);
    bool first = !decoder;
    decoder = lua_newuserdatauv(L, sizeof *decoder, FIRST_KEY + KEY_SLOTS - 1);
    *decoder = (struct decoder){0};
    if (luaL_newmetatable(L, DECODER_TYPE)) {
        lua_pushcfunction(L, free_decoder);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    luaL_newmetatable(L, JSON_ARRAY_MARK);
    lua_setiuservalue(L, -2, MARK);
    for (int slot = 0; slot < KEY_SLOTS; slot++) {
        lua_pushliteral(L, "");
        lua_setiuservalue(L, -2, FIRST_KEY + slot);
    }
    if (first) {
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
    }
    return decoder;
}

/* Ends the use of a decoder. Memory that one large text needed is not kept for small ones. */
static void release(struct decoder *decoder) {
    enum { KEEP = 64 * 1024 };
    decoder->busy = false;
    size_t tokens = decoder->tape.capacity * sizeof *decoder->tape.tokens;
    if (tokens + decoder->tape.room > KEEP) json_tape_free(&decoder->tape);
    if (decoder->capacity > KEEP) {
        free(decoder->scratch);
        decoder->scratch = NULL;
        decoder->capacity = 0;
    }
}

/* Pushes the text of a string or key with escapes. False, and in *culprit the offset in the value,
 * when a lone surrogate spoils it. */
static bool push_unescaped(lua_State *L, struct decoder *decoder, const struct json_value *value,
                           size_t *culprit) {
    size_t size;
    if (decoder->capacity < value->length) {
        char *scratch = realloc(decoder->scratch, value->length * 2);
        if (!scratch) luaL_error(L, "not enough memory");
        decoder->scratch = scratch;
        decoder->capacity = value->length * 2;
    }
    bool good = json_unescape(value, decoder->scratch, &size);
    if (!good) {
        *culprit = size;
        return false;
    }
    lua_pushlstring(L, decoder->scratch, size);
    return true;
}

struct build {
    lua_State *L;
    struct decoder *decoder;
    const struct json_token *next;
    int at, mark; /* stack indices of the decoder and the mark of arrays */
};

/* Pushes the value of a scalar that is no string with escapes. */
static inline void push_scalar(lua_State *L, const struct json_token *token) {
    switch ((enum json_tape_type)token->type) {
    case TAPE_NULL:
        lua_pushlightuserdata(L, NULL);
        break;
    case TAPE_INTEGER:
        lua_pushinteger(L, token->integer);
        break;
    case TAPE_FLOAT:
        lua_pushnumber(L, token->number);
        break;
    case TAPE_STRING:
        lua_pushlstring(L, token->at, token->size);
        break;
    default:
        lua_pushboolean(L, token->type == TAPE_TRUE);
    }
}

/* The same for a string or key with escapes. */
static void push_escaped(struct build *build, const struct json_token *token) {
    struct json_value value = {JSON_STRING, true, token->at - 1, token->size + 2};
    size_t culprit;
    push_unescaped(build->L, build->decoder, &value, &culprit); /* a tape has no lone surrogates */
}

/* memcmp(...) == 0 for what is rarely longer than 16 bytes, and never empty. */
static inline bool is_same(const char *a, const char *b, size_t length) {
    uint64_t words[4];
    if (length > 16) return memcmp(a, b, length) == 0;
    if (length >= 8) {
        memcpy(&words[0], a, 8);
        memcpy(&words[1], b, 8);
        memcpy(&words[2], a + length - 8, 8);
        memcpy(&words[3], b + length - 8, 8);
        return words[0] == words[1] && words[2] == words[3];
    }
    if (length >= 4) {
        uint32_t halves[4];
        memcpy(&halves[0], a, 4);
        memcpy(&halves[1], b, 4);
        memcpy(&halves[2], a + length - 4, 4);
        memcpy(&halves[3], b + length - 4, 4);
        return halves[0] == halves[1] && halves[2] == halves[3];
    }
    return a[0] == b[0] && a[length / 2] == b[length / 2] && a[length - 1] == b[length - 1];
}

static inline void push_key(struct build *build, const struct json_token *token) {
    if (token->type == TAPE_ESCAPED) {
        push_escaped(build, token);
        return;
    }
    if (token->size == 0 || token->size > KEY_LONGEST) {
        push_scalar(build->L, token);
        return;
    }
    unsigned first = (unsigned char)token->at[0],
             last = (unsigned char)(token->at + token->size)[-1];
    size_t slot = ((size_t)token->size + first * 3 + last * 5) % KEY_SLOTS;
    struct key *known = &build->decoder->keys[slot];
    if (known->length == token->size && is_same(known->bytes, token->at, token->size)) {
        lua_getiuservalue(build->L, build->at, FIRST_KEY + (int)slot);
        return;
    }
    lua_pushlstring(build->L, token->at, token->size);
    lua_pushvalue(build->L, -1);
    lua_setiuservalue(build->L, build->at, FIRST_KEY + (int)slot);
    known->length = (uint8_t)token->size;
    memcpy(known->bytes, token->at, token->size);
}

static int hint(uint64_t size) {
    return size < INT_MAX ? (int)size : INT_MAX;
}

static void push_container(struct build *build, const struct json_token *token);

/* Pushes the value of the next token and of those that belong to it. */
static inline void push_value(struct build *build) {
    const struct json_token *token = build->next++;
    if (token->type >= TAPE_ARRAY) {
        push_container(build, token);
    } else if (token->type == TAPE_ESCAPED) {
        push_escaped(build, token);
    } else {
        push_scalar(build->L, token);
    }
}

static void push_container(struct build *build, const struct json_token *token) {
    lua_State *L = build->L;
    uint64_t size = token->size;
    if (token->type == TAPE_ARRAY) {
        lua_createtable(L, hint(size), 0);
        lua_pushvalue(L, build->mark);
        lua_setmetatable(L, -2);
        for (uint64_t i = 1; i <= size; i++) {
            push_value(build);
            lua_rawseti(L, -2, (lua_Integer)i);
        }
        return;
    }
    lua_createtable(L, 0, hint(size));
    for (uint64_t i = 1; i <= size; i++) {
        push_key(build, build->next++);
        push_value(build);
        lua_rawset(L, -3);
    }
}

/* Pushes the value that these tokens are, in the place of the decoder, which is on top. */
static void push_tokens(lua_State *L, struct decoder *decoder, const struct json_token *tokens,
                        int depth) {
    int top = lua_gettop(L);
    /* On each level a table and a key, and above them what is just being put in. */
    luaL_checkstack(L, 2 * depth + 8, "JSON value");
    struct build build = {.L = L, .decoder = decoder, .next = tokens, .at = top, .mark = top + 1};
    decoder->busy = true;
    lua_getiuservalue(L, top, MARK);
    push_value(&build);
    release(decoder); /* while the stack holds it */
    lua_replace(L, top);
    lua_settop(L, top);
}

void json_lua_push_tape(lua_State *L, const struct json_token *token, int depth) {
    luaL_checkstack(L, 8, "JSON value");
    push_tokens(L, push_decoder(L), token, depth);
}

bool json_lua_decode(lua_State *L, const char *text, size_t length, struct json_error *error) {
    luaL_checkstack(L, 8, "JSON value");
    struct decoder *decoder = push_decoder(L);
    if (json_tape_read(&decoder->tape, text, length, error)) {
        push_tokens(L, decoder, decoder->tape.tokens, decoder->tape.depth);
        return true;
    }
    lua_pop(L, 1);
    if (!error->message) luaL_error(L, "not enough memory");
    return false;
}

bool json_lua_decode_answer(lua_State *L, const char *text, size_t length,
                            struct json_error *error) {
    const char *end = text + length;
    json_unfence(&text, &end, false);
    return json_lua_decode(L, text, (size_t)(end - text), error);
}

bool json_lua_decode_string(lua_State *L, const struct json_value *string,
                            struct json_error *error) {
    luaL_checkstack(L, 8, "JSON value");
    if (!string->escaped) return json_lua_decode(L, string->at + 1, string->length - 2, error);
    struct decoder *decoder = push_decoder(L);
    if (!json_tape_begin(&decoder->tape, JSON_TAPE_TEXTS(string->length)))
        return luaL_error(L, "not enough memory");
    if (json_tape_quoted(&decoder->tape, string)) {
        push_tokens(L, decoder, decoder->tape.tokens, decoder->tape.depth);
        return true;
    }
    lua_pop(L, 1);
    size_t length;
    if (!json_lua_push(L, string, error)) return false;
    const char *text = lua_tolstring(L, -1, &length);
    bool good = json_lua_decode_answer(L, text, length, error);
    lua_remove(L, good ? -2 : -1);
    return good;
}

bool json_lua_push(lua_State *L, const struct json_value *value, struct json_error *error) {
    if (value->type == JSON_ARRAY || value->type == JSON_OBJECT)
        return json_lua_decode(L, value->at, value->length, error);
    luaL_checkstack(L, 4, "JSON value");
    if (value->type == JSON_STRING && value->escaped) {
        struct decoder *decoder = push_decoder(L);
        decoder->busy = true;
        bool good = push_unescaped(L, decoder, value, &error->offset);
        if (!good) error->message = "lone surrogate";
        release(decoder);
        lua_remove(L, good ? -2 : -1);
        return good;
    }
    struct json_token token;
    if (json_tape_scalar(value, &token)) {
        push_scalar(L, &token);
        return true;
    }
    *error = (struct json_error){"number too large", 0};
    return false;
}
