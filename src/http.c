/* Lua: HTTP client. Many transfers fly at once; they move only while Lua is inside wait() or
 * request(). All times are seconds.
 *
 *   client = http.client{ user_agent=, connect_timeout=30, stall_timeout=60,
 *                         allow_plain_http=false }    plain http otherwise only to this machine
 *   client:start{
 *       method="GET", url=, headers={Name="value"}, tag=anything,
 *       body=text | body_file=path | form={ {name=, value=} | {name=, file=, filename=, type=} },
 *       to_file=path,    takes the body of a 2xx answer; nothing else ever touches that file.
 *                        A link is replaced, not followed
 *       resume_at=N,     a 206 answer goes behind the N bytes that to_file must consist of (a
 *                        regular file with one name, else ESTALE); any other replaces it. What a
 *                        206 is a part of, its headers tell: who asked for a range must look
 *       fresh=bool,      a new connection, and never sent twice; the default for POST and PATCH
 *       follow=5,        redirects, of GET and HEAD only; another origin gets none of the headers
 *       answer_timeout=stall_timeout   between the end of the request and the answer
 *       timeout=none     for the whole transfer }      transfer | nil, message, CODE
 *   client:wait(seconds)   a finished transfer | nil, message, "TIMEOUT"|"INTERRUPTED"|"IDLE"
 *   client:request{...}    starts one and waits for it: transfer | nil, message, CODE, and the
 *                          transfer when it was one that failed
 *   client:close()         cancels what is in flight
 *   t.status, t.headers (lower-case names, the last value wins), t.body, t.bytes (of the body),
 *   t.error and t.code (nil when a complete answer came, whatever its status), t.tag
 *   t:progress() -> bytes sent, bytes received;  t:cancel()
 *
 * DNS, CONNECT and TLS mean that the request was never sent. After TIMEOUT (stall or total), CLOSED
 * (also: shorter than promised), PROTOCOL, TOO_BIG and CANCELLED the server may have acted on it.
 * REDIRECT: refused to follow. URL: refused to start. Errno names: trouble with a local file. With
 * a code there may also be a status, and a part of the body. An answer that announces no length
 * ends where its connection does: HTTP has no way to tell that it was cut.
 *
 * The stall and answer timeouts count only time in which somebody waited: a process that was
 * stopped, or busy with other things, looks at its connections before it judges them. */
#include "obatch.h"
#include "options.h"
#include "os.h"
#include "transfer.h"

#include <math.h>
#include <stdlib.h>
#include <strings.h>

#define CLIENT "obatch.http.client"
#define TRANSFER "obatch.http.transfer"

enum { TICK_MS = 100 }; /* longest sleep between two looks at clocks and signals */

/* ---- Arguments ---- */

static Client *check_client(lua_State *L) {
    Client *client = luaL_checkudata(L, 1, CLIENT);
    if (!client->multi) luaL_error(L, "this http client is closed");
    return client;
}

static double seconds_option(lua_State *L, int table, const char *name, double otherwise) {
    double value = options_number(L, table, name, otherwise);
    if (value == 0) luaL_error(L, "%s: a number of seconds above 0 expected", name);
    return value;
}

/* A header that could end the line early, or that contradicts how the body is sent, is misuse. */
static void check_header(lua_State *L, const char *name, const char *value, size_t length) {
    static const char *const ours[] = {"host", "content-length", "transfer-encoding", "expect"};
    if (!*name || name[strspn(name, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
                                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ")])
        luaL_error(L, "malformed header name");
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcasecmp(name, ours[i]) == 0) luaL_error(L, "header '%s' is set by the client", name);
    if (strlen(value) != length || strpbrk(value, "\r\n"))
        luaL_error(L, "header '%s' holds a line end or a zero byte", name);
}

/* What start() was asked for, checked; strings belong to the Lua table. */
typedef struct Request {
    const char *method, *url, *body_file, *to_file, *body;
    size_t body_length;
    bool reads, has_form, has_type, fresh;
    int redirects;
    lua_Integer resume_at;
    double timeout, answer_timeout;
} Request;

static void check_form(lua_State *L) {
    static const char *const names[] = {"name", "value", "file", "filename", "type", NULL};
    if (!lua_istable(L, -1)) luaL_error(L, "form: a table expected");
    int form = lua_gettop(L);
    lua_Integer i = 1;
    for (; lua_rawgeti(L, form, i) != LUA_TNIL; i++) {
        if (!lua_istable(L, -1)) luaL_error(L, "form field %d must be a table", (int)i);
        int field = lua_gettop(L);
        options_check(L, field, names);
        bool is_file = options_string(L, field, "file") != NULL;
        options_string(L, field, "filename");
        options_string(L, field, "type");
        bool is_value = options_get(L, field, "value") == LUA_TSTRING;
        lua_pop(L, 1);
        if (!options_string(L, field, "name") || is_file == is_value)
            luaL_error(L, "form field %d needs a name, and a value or a file", (int)i);
        lua_pop(L, 1);
    }
    if (i == 1) luaL_error(L, "a form needs a field");
    lua_pop(L, 1);
}

/* The request table is at index 2. */
static Request check_request(lua_State *L, const Client *client) {
    static const char *const names[] = {
        "method", "url",       "headers", "body",    "body_file",      "form", "to_file",
        "fresh",  "resume_at", "follow",  "timeout", "answer_timeout", "tag",  NULL};
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", NULL};
    options_check(L, 2, names);
    Request r = {.url = options_string(L, 2, "url"),
                 .body_file = options_string(L, 2, "body_file"),
                 .to_file = options_string(L, 2, "to_file")};
    if (!r.url) luaL_error(L, "url: a string expected");

    const char *method = options_string(L, 2, "method");
    for (size_t i = 0; methods[i] && !r.method; i++)
        if (strcmp(method ? method : "GET", methods[i]) == 0) r.method = methods[i];
    if (!r.method) luaL_error(L, "method '%s' is not supported", method);
    r.reads = strcmp(r.method, "GET") == 0 || strcmp(r.method, "HEAD") == 0;
    bool creates = strcmp(r.method, "POST") == 0 || strcmp(r.method, "PATCH") == 0;

    r.body = options_bytes(L, 2, "body", &r.body_length);
    if (options_get(L, 2, "form") != LUA_TNIL) {
        check_form(L);
        r.has_form = true;
    }
    lua_pop(L, 1);
    int bodies = (r.body != NULL) + (r.body_file != NULL) + r.has_form;
    if (bodies > 1) luaL_error(L, "a request has one of body, body_file and form");
    if (bodies && r.reads) luaL_error(L, "a %s request has no body", r.method);

    if (options_get(L, 2, "headers") != LUA_TNIL) {
        if (!lua_istable(L, -1)) luaL_error(L, "headers: a table expected");
        for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
            if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
                luaL_error(L, "headers must be a table of strings");
            size_t length;
            const char *name = lua_tostring(L, -2), *value = lua_tolstring(L, -1, &length);
            check_header(L, name, value, length);
            if (strcasecmp(name, "content-type") == 0) r.has_type = true;
        }
    }
    lua_pop(L, 1);
    if (r.has_form && r.has_type) luaL_error(L, "the content type of a form is set by the client");

    r.redirects = (int)options_integer(L, 2, "follow", r.reads ? 5 : 0, 0, 50);
    if (r.redirects > 0 && !r.reads) luaL_error(L, "follow: 0 expected for a %s request", r.method);
    r.fresh = options_boolean(L, 2, "fresh", creates);
    r.resume_at = options_integer(L, 2, "resume_at", 0, 0, LUA_MAXINTEGER);
    if (r.resume_at > 0 && !r.to_file) luaL_error(L, "resume_at: there is no to_file");
    r.timeout = seconds_option(L, 2, "timeout", HUGE_VAL);
    r.answer_timeout = seconds_option(L, 2, "answer_timeout", client->stall_timeout);
    return r;
}

/* ---- Starting ---- */

/* libcurl refuses a well-formed option only when memory is short. What has been acquired by then
 * belongs to the transfer's userdata, so that raising is safe. */
static void must(lua_State *L, CURLcode result) {
    if (result != CURLE_OK) luaL_error(L, "libcurl: %s", curl_easy_strerror(result));
}

static void *must_have(lua_State *L, void *pointer) {
    if (!pointer) luaL_error(L, "not enough memory");
    return pointer;
}

static const char *message(const Transfer *t) {
    return t->error ? t->error : "not enough memory";
}

static void add_header(lua_State *L, Transfer *t, const char *line) {
    t->headers = must_have(L, curl_slist_append(t->headers, line));
}

/* The form at the top of the stack, as one MIME part per field, in order. */
static void build_form(lua_State *L, Transfer *t) {
    t->form = must_have(L, curl_mime_init(t->easy));
    int form = lua_gettop(L);
    for (lua_Integer i = 1; lua_rawgeti(L, form, i) != LUA_TNIL; i++) {
        int field = lua_gettop(L);
        curl_mimepart *part = must_have(L, curl_mime_addpart(t->form));
        must(L, curl_mime_name(part, options_string(L, field, "name")));
        const char *path = options_string(L, field, "file");
        const char *filename = options_string(L, field, "filename");
        const char *type = options_string(L, field, "type");
        if (path) {
            CURLcode result = transfer_form_file(t, part, path);
            if (t->code) return;
            must(L, result);
            const char *slash = strrchr(path, '/');
            if (!filename) filename = slash ? slash + 1 : path;
        } else {
            size_t length;
            options_get(L, field, "value");
            const char *value = lua_tolstring(L, -1, &length);
            must(L, curl_mime_data(part, value, length));
            lua_pop(L, 1);
        }
        if (filename) must(L, curl_mime_filename(part, filename));
        if (type) must(L, curl_mime_type(part, type));
        lua_pop(L, 1);
    }
    must(L, curl_easy_setopt(t->easy, CURLOPT_MIMEPOST, t->form));
}

static void set_body(lua_State *L, Transfer *t, const Request *r) {
    CURL *easy = t->easy;
    if (strcmp(r->method, "HEAD") == 0) must(L, curl_easy_setopt(easy, CURLOPT_NOBODY, 1L));
    if (r->has_form) {
        options_get(L, 2, "form");
        build_form(L, t);
        lua_settop(L, 3);
    } else if (r->body_file) {
        CURLcode result = transfer_body_file(t, r->body_file);
        if (t->code) return;
        must(L, result);
    } else if (r->body || r->method[0] == 'P') { /* POST, PUT, PATCH say "Content-Length: 0" */
        must(L, curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_length));
        must(L, curl_easy_setopt(easy, CURLOPT_POSTFIELDS, r->body ? r->body : ""));
    }
    if (!r->reads) must(L, curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, r->method));
}

static void set_headers(lua_State *L, Transfer *t, const Request *r) {
    if (options_get(L, 2, "headers") == LUA_TTABLE) {
        for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 2)) {
            const char *name = lua_tostring(L, -2), *value = lua_tostring(L, -1);
            /* libcurl's way to send an empty header, instead of suppressing its own */
            if (*value)
                lua_pushfstring(L, "%s: %s", name, value);
            else
                lua_pushfstring(L, "%s;", name);
            add_header(L, t, lua_tostring(L, -1));
        }
    }
    lua_settop(L, 3);
    add_header(L, t, "Expect:"); /* a large upload must not wait for "100 Continue" */
    if (!r->has_form && !r->has_type) add_header(L, t, "Content-Type:"); /* no urlencoded form */
    must(L, curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers));
}

/* With the client and the request table at 1 and 2: leaves the transfer at 3. Or returns NULL with
 * nil, message, CODE on top of the stack. */
static Transfer *start(lua_State *L, Client *client) {
    lua_settop(L, 2);
    Request r = check_request(L, client);
    Place place;
    const char *complaint = transfer_check_url(client, r.url, &place);
    if (complaint) {
        lua_pushnil(L);
        lua_pushfstring(L, "%s: %s", r.method, complaint);
        lua_pushliteral(L, "URL");
        return NULL;
    }

    Transfer *t = lua_newuserdatauv(L, sizeof *t, 2);
    *t = (Transfer){.out = -1, .method = r.method, .place = place, .fresh = r.fresh};
    t->resume_at = r.resume_at;
    t->answer_timeout = r.answer_timeout;
    t->follow = r.redirects > 0;
    t->redirects = r.redirects;
    luaL_setmetatable(L, TRANSFER);
    lua_createtable(L, 0, 4); /* tag, request, headers, body */
    options_get(L, 2, "tag");
    lua_setfield(L, -2, "tag");
    options_get(L, 2, "body"); /* sent from where Lua has it, so it must stay */
    lua_setfield(L, -2, "request");
    lua_setiuservalue(L, 3, 1);

    must(L, transfer_prepare(t, client));
    if (r.to_file) t->to_file = must_have(L, strdup(r.to_file));
    set_headers(L, t, &r);
    set_body(L, t, &r);
    if (t->code) {
        obatch_fail(L, t->code, message(t));
        transfer_release(t);
        return NULL;
    }
    lua_getiuservalue(L, 1, 1); /* keeps it alive until it is handed out */
    lua_pushvalue(L, 3);
    lua_rawsetp(L, -2, t);
    lua_setiuservalue(L, 3, 2);
    must(L, transfer_launch(t, client, r.url, r.timeout));
    return t;
}

static int client_start(lua_State *L) {
    return start(L, check_client(L)) ? 1 : 3;
}

/* ---- Waiting ---- */

/* The transfer at `index` ends here: its client forgets it, and libcurl's part of it is freed. */
static void drop(lua_State *L, int index) {
    Transfer *t = lua_touserdata(L, index);
    transfer_release(t);
    lua_getiuservalue(L, index, 1);
    lua_pushnil(L);
    lua_setfield(L, -2, "request");
    lua_getiuservalue(L, index, 2);
    lua_pushnil(L);
    lua_rawsetp(L, -2, t);
    lua_pop(L, 2);
}

/* Pushes the finished t, with its answer in Lua's hands and nothing left in libcurl's. */
static void hand_out(lua_State *L, Transfer *t) {
    lua_getiuservalue(L, 1, 1);
    lua_rawgetp(L, -1, t);
    lua_getiuservalue(L, -1, 1);
    lua_newtable(L);
    /* CURLH_HEADER: not those of interim answers, of a proxy's CONNECT, or after the body. */
    struct curl_header *h = NULL;
    while ((h = curl_easy_nextheader(t->easy, CURLH_HEADER, -1, h))) {
        luaL_Buffer name;
        size_t length = strlen(h->name);
        char *p = luaL_buffinitsize(L, &name, length);
        for (size_t i = 0; i < length; i++)
            p[i] = h->name[i] >= 'A' && h->name[i] <= 'Z' ? (char)(h->name[i] | 32) : h->name[i];
        luaL_pushresultsize(&name, length);
        lua_pushstring(L, h->value);
        lua_rawset(L, -3);
    }
    lua_setfield(L, -2, "headers");
    lua_pushlstring(L, t->body ? t->body : "", t->body_length);
    lua_setfield(L, -2, "body");
    lua_pop(L, 1);
    drop(L, lua_gettop(L));
}

/* Turns until `wanted` (or, if NULL, any transfer) is finished, and pushes it: returns 1; or pushes
 * nil, message, CODE: returns 3. */
static int wait_until(lua_State *L, Client *client, const Transfer *wanted, double deadline) {
    for (;;) {
        client_turn(client);
        Transfer *t = client->finished;
        while (t && wanted && t != wanted) t = t->next;
        if (t) {
            hand_out(L, t);
            return 1;
        }
        if (obatch_interrupted) return obatch_fail_interrupted(L);
        if (!client->flying) return obatch_fail(L, "IDLE", "no transfer is in flight");
        double left = deadline - os_clock();
        if (left <= 0) return obatch_fail(L, "TIMEOUT", "no transfer finished in time");
        /* A signal ends the poll (EINTR); one that came just before it waits for a tick. */
        int milliseconds = left * 1000 < TICK_MS ? (int)(left * 1000) + 1 : TICK_MS;
        curl_multi_poll(client->multi, NULL, 0, milliseconds, NULL);
    }
}

static int client_wait(lua_State *L) {
    Client *client = check_client(L);
    double seconds = luaL_optnumber(L, 2, HUGE_VAL);
    luaL_argcheck(L, seconds >= 0, 2, "must be a number of seconds");
    return wait_until(L, client, NULL, os_clock() + seconds);
}

static int client_request(lua_State *L) {
    Client *client = check_client(L);
    const Transfer *t = start(L, client);
    if (!t) return 3;
    int count = wait_until(L, client, t, HUGE_VAL);
    if (count != 1) { /* interrupted */
        drop(L, 3);
        return count;
    }
    if (!t->code) return 1;
    obatch_fail(L, t->code, message(t));
    lua_pushvalue(L, 3);
    return 4;
}

/* ---- Objects ---- */

/* Idempotent; also __gc and __close. */
static int close_client(lua_State *L) {
    Client *client = luaL_checkudata(L, 1, CLIENT);
    if (!client->multi) return 0;
    client_close(client);
    lua_newtable(L);
    lua_setiuservalue(L, 1, 1);
    return 0;
}

static int transfer_cancel(lua_State *L) {
    Transfer *t = luaL_checkudata(L, 1, TRANSFER);
    if (!t->client) return 0;
    transfer_fail(t, "CANCELLED", "%s: cancelled", t->where);
    drop(L, 1);
    return 0;
}

static int transfer_gc(lua_State *L) {
    Transfer *t = luaL_checkudata(L, 1, TRANSFER);
    transfer_release(t);
    free(t->error);
    t->error = NULL;
    return 0;
}

/* Bytes as of the last wait(). What is sent includes the framing of a form. */
static int transfer_progress(lua_State *L) {
    const Transfer *t = luaL_checkudata(L, 1, TRANSFER);
    lua_pushinteger(L, (lua_Integer)t->uploaded);
    lua_pushinteger(L, (lua_Integer)t->received);
    return 2;
}

/* A method, or a fact about the answer: nil in flight; status is 0 when no answer came. */
static int transfer_index(lua_State *L) {
    const Transfer *t = luaL_checkudata(L, 1, TRANSFER);
    const char *name = luaL_checkstring(L, 2);
    if (luaL_getmetafield(L, 1, name) == LUA_TFUNCTION && name[0] != '_') return 1;
    lua_settop(L, 2);
    bool done = !t->client;
    if (strcmp(name, "tag") == 0 || strcmp(name, "headers") == 0 || strcmp(name, "body") == 0) {
        lua_getiuservalue(L, 1, 1);
        lua_getfield(L, -1, name);
    } else if (strcmp(name, "status") == 0 && done) {
        lua_pushinteger(L, t->status);
    } else if (strcmp(name, "bytes") == 0) {
        lua_pushinteger(L, (lua_Integer)t->received);
    } else if (strcmp(name, "code") == 0 && done) {
        lua_pushstring(L, t->code);
    } else if (strcmp(name, "error") == 0 && done && t->code) {
        lua_pushstring(L, message(t));
    } else {
        lua_pushnil(L);
    }
    return 1;
}

static int transfer_newindex(lua_State *L) {
    luaL_checkudata(L, 1, TRANSFER);
    luaL_argcheck(L, strcmp(luaL_checkstring(L, 2), "tag") == 0, 2, "only 'tag' can be set");
    lua_getiuservalue(L, 1, 1);
    lua_replace(L, 1);
    lua_settable(L, 1);
    return 0;
}

static int http_client(lua_State *L) {
    static const char *const names[] = {"user_agent", "connect_timeout", "stall_timeout",
                                        "allow_plain_http", NULL};
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    options_check(L, 1, names);
    const char *agent = options_string(L, 1, "user_agent");
    if (!agent) agent = "obatch/" OBATCH_VERSION;
    if (strpbrk(agent, "\r\n")) return luaL_error(L, "user_agent: a line end is in it");
    Client made = {.connect_timeout = seconds_option(L, 1, "connect_timeout", 30),
                   .stall_timeout = seconds_option(L, 1, "stall_timeout", 60),
                   .allow_plain_http = options_boolean(L, 1, "allow_plain_http", false)};

    Client *client = lua_newuserdatauv(L, sizeof *client, 1);
    *client = made;
    luaL_setmetatable(L, CLIENT);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1);
    client->multi = must_have(L, curl_multi_init());
    client->user_agent = must_have(L, strdup(agent));
    return 1;
}

static const luaL_Reg client_methods[] = {
    {"start", client_start},
    {"wait", client_wait},
    {"request", client_request},
    {"close", close_client},
    {"__close", close_client},
    {"__gc", close_client},
    {NULL, NULL},
};

static const luaL_Reg transfer_methods[] = {
    {"progress", transfer_progress},
    {"cancel", transfer_cancel},
    {"__close", transfer_cancel},
    {"__gc", transfer_gc},
    {"__index", transfer_index},
    {"__newindex", transfer_newindex},
    {NULL, NULL},
};

/* http.version() -> such as "libcurl/7.88.1 OpenSSL/3.0.15 zlib/1.2.13 ..." */
static int http_version(lua_State *L) {
    lua_pushstring(L, curl_version());
    return 1;
}

static const luaL_Reg functions[] = {
    {"client", http_client},
    {"version", http_version},
    {NULL, NULL},
};

int luaopen_obatch_http(lua_State *L) {
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return luaL_error(L, "libcurl cannot be initialised");
    luaL_newmetatable(L, CLIENT);
    luaL_setfuncs(L, client_methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    luaL_newmetatable(L, TRANSFER);
    luaL_setfuncs(L, transfer_methods, 0);
    luaL_newlib(L, functions);
    return 1;
}
