/* Lua: a small HTTP/1.1 server on loopback, for the sandbox and for tests of HTTP clients.
 * server:next() gives one complete request after another, req:reply() answers it. */
#include "obatch.h"
#include "options.h"
#include "os.h"
#include "server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <math.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#define SERVER "obatch.httpd.server"
#define REQUEST "obatch.httpd.request"

/* ---- requests ---- */

static struct request *check_request(lua_State *L) {
    struct request **handle = luaL_checkudata(L, 1, REQUEST);
    if (!*handle) luaL_error(L, "the request is closed");
    return *handle;
}

/* req:text([max]): the body as a string | nil, message, CODE. */
static int text_request(lua_State *L) {
    struct request *request = check_request(L);
    lua_Integer max = luaL_optinteger(L, 2, 64 * 1024 * 1024);
    luaL_argcheck(L, max >= 0, 2, "must not be negative");
    struct content *body = &request->body;
    if (request->form) return obatch_fail(L, "MULTIPART", "a form is kept as its parts: see form");
    if (body->size > (uint64_t)max) {
        lua_pushnil(L);
        lua_pushfstring(L, "the body has %I bytes", (LUAI_UACINT)body->size);
        lua_pushliteral(L, "TOO_BIG");
        return 3;
    }
    if (!body->path) {
        if (body->size > 0 && !body->text)
            return obatch_fail(L, "ENODATA", "the body was kept elsewhere or is over");
        lua_pushlstring(L, body->text ? body->text : "", (size_t)body->size);
        return 1;
    }
    luaL_Buffer buffer;
    char *text = luaL_buffinitsize(L, &buffer, (size_t)body->size);
    int fd = open(body->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return obatch_fail_errno(L, body->path, errno);
    size_t have = 0;
    ssize_t count = 1;
    while (have < body->size && count > 0) {
        count = read(fd, text + have, (size_t)body->size - have);
        if (count < 0 && errno == EINTR)
            count = 1;
        else if (count > 0)
            have += (size_t)count;
    }
    int error = count < 0 ? errno : EIO;
    close(fd);
    if (have < body->size) return obatch_fail_errno(L, body->path, error);
    luaL_pushresultsize(&buffer, have);
    return 1;
}

/* req:keep(path): moves the body, or of a form its first file part, to path, which must be on the
 * file system of the spool folder. true | nil, message, CODE. */
static int keep_request(lua_State *L) {
    struct request *request = check_request(L);
    const char *path = obatch_check_path(L, 2);
    int error = request_keep(request, path);
    if (error == ENODATA) return obatch_fail(L, "ENODATA", "there is nothing (more) to keep");
    if (error) return obatch_fail_errno(L, path, error);
    lua_pushboolean(L, 1);
    return 1;
}

/* Closes a handle; a request that was not answered is reset. */
static int close_request(lua_State *L) {
    struct request **handle = luaL_checkudata(L, 1, REQUEST);
    struct request *request = *handle;
    *handle = NULL;
    if (request) request_release(request);
    return 0;
}

/* Opens a file that is to be sent and finds how much of it: length bytes, or all (-1), from
 * offset on. A descriptor, or -1 and errno. */
static int open_file(const char *path, lua_Integer offset, lua_Integer length, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    struct stat facts;
    int error = fstat(fd, &facts) != 0 ? errno : S_ISREG(facts.st_mode) ? 0 : EINVAL;
    if (!error && (offset > facts.st_size || length > facts.st_size - offset)) error = ERANGE;
    if (!error) {
        *size = (size_t)(length >= 0 ? length : facts.st_size - offset);
        return fd;
    }
    close(fd);
    errno = error;
    return -1;
}

/* The headers option as name, value, name, value, ..., NULL. The array and its strings stay on the
 * stack. */
static const char *const *headers_option(lua_State *L, int table) {
    static const char token[] = "!#$%&'*+-.^_`|~0123456789"
                                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    int type = lua_getfield(L, table, "headers");
    if (type != LUA_TNIL && type != LUA_TTABLE)
        luaL_argerror(L, table, "headers: a table expected");
    int headers = lua_gettop(L), count = 0;
    if (type == LUA_TTABLE)
        for (lua_pushnil(L); lua_next(L, headers); lua_pop(L, 1)) count++;
    const char **list = lua_newuserdatauv(L, (2 * (size_t)count + 1) * sizeof *list, 0);
    list[2 * count] = NULL;
    luaL_checkstack(L, count + 3, "too many headers");
    lua_pushnil(L);
    for (int i = 0; i < count && lua_next(L, headers); i++) {
        size_t name_size = 0, value_size = 0;
        const char *name = "";
        if (lua_type(L, -2) == LUA_TSTRING) name = lua_tolstring(L, -2, &name_size);
        const char *value = lua_tolstring(L, -1, &value_size);
        if (name_size == 0 || strspn(name, token) != name_size)
            luaL_argerror(L, table, "headers: a name is not a header name");
        if (!value || value_size == 0 || strcspn(value, "\r\n") != value_size)
            luaL_argerror(L, table, lua_pushfstring(L, "headers: %s: not a header value", name));
        if (strcasecmp(name, "Content-Length") == 0 || strcasecmp(name, "Transfer-Encoding") == 0)
            luaL_argerror(L, table, "headers: the length is the server's to say");
        list[2 * i] = name; /* kept by the table; a value that was a number is a new string */
        list[2 * i + 1] = value;
        lua_insert(L, -2);
    }
    return list;
}

/* req:reply{ status=200, headers={}, body=text | file=path, offset=0, length=the rest,
 *            delay=seconds, rate=bytes per second, cut=bytes, drop=true, stall=true }
 * true | nil, message, CODE (the file cannot be read; the request still waits for an answer).
 *
 * What is said here is sent by later calls of next(). cut promises the whole length, sends that
 * many bytes of the body and closes; drop resets the connection without an answer, after the delay
 * if there is one; stall never answers and lets go when the client does. */
static int reply_to_request(lua_State *L) {
    static const char *const known[] = {"status", "headers", "body", "file", "offset", "length",
                                        "delay",  "rate",    "cut",  "drop", "stall",  NULL};
    const lua_Integer most = INT64_MAX / 2;
    struct request *request = check_request(L);
    options_check(L, 2, known);
    lua_settop(L, 2);
    if (request->state != WAITING) luaL_error(L, "the request was answered before");
    lua_Integer offset = options_integer(L, 2, "offset", 0, 0, most);
    lua_Integer length = options_integer(L, 2, "length", -1, 0, most);
    struct answer answer = {
        .status = (unsigned int)options_integer(L, 2, "status", 200, 200, 599),
        .fd = -1,
        .offset = (off_t)offset,
        .cut = (uint64_t)options_integer(L, 2, "cut", most, 0, most),
        .delay = options_number(L, 2, "delay", 0),
        .rate = options_number(L, 2, "rate", 0),
        .drop = options_boolean(L, 2, "drop", false),
        .stall = options_boolean(L, 2, "stall", false),
    };
    const char *file = options_string(L, 2, "file");
    answer.body = options_bytes(L, 2, "body", &answer.size);
    luaL_argcheck(L, !file || !answer.body, 2, "body and file exclude each other");
    luaL_argcheck(L, file || (offset == 0 && length < 0), 2, "offset and length need a file");
    answer.headers = headers_option(L, 2);
    if (!request->connection) return obatch_fail(L, "CLOSED", "the server was closed");
    if (file && !answer.drop && !answer.stall) {
        answer.fd = open_file(file, offset, length, &answer.size);
        if (answer.fd < 0) return obatch_fail_errno(L, file, errno);
    }
    int error = request_answer(request, &answer);
    if (error) return luaL_error(L, "reply: %s", strerror(error));
    lua_pushboolean(L, 1);
    return 1;
}

static void push_pairs(lua_State *L, const struct pair *pair) {
    lua_newtable(L);
    for (; pair; pair = pair->next) {
        lua_pushlstring(L, pair->text, pair->name_size);
        lua_pushlstring(L, pair->text + pair->name_size, pair->value_size);
        lua_rawset(L, -3);
    }
}

static void set_string(lua_State *L, const char *name, const char *value) {
    lua_pushstring(L, value);
    lua_setfield(L, -2, name);
}

/* Of parts with the same name the first one counts. */
static void push_form(lua_State *L, const struct request *request) {
    lua_newtable(L);
    for (const struct part *part = request->parts; part; part = part->next) {
        if (lua_getfield(L, -1, part->name) == LUA_TNIL) {
            if (part->filename) {
                lua_createtable(L, 0, 4);
                set_string(L, "path", part->content.path);
                set_string(L, "filename", part->filename);
                set_string(L, "type", part->type);
                lua_pushinteger(L, (lua_Integer)part->content.size);
                lua_setfield(L, -2, "size");
            } else {
                lua_pushlstring(L, part->content.text ? part->content.text : "",
                                (size_t)part->content.size);
            }
            lua_setfield(L, -3, part->name);
        }
        lua_pop(L, 1);
    }
}

static void push_fields(lua_State *L, const struct request *request) {
    lua_newtable(L);
    set_string(L, "method", request->method);
    set_string(L, "path", request->path);
    push_pairs(L, request->query);
    lua_setfield(L, -2, "query");
    push_pairs(L, request->headers);
    lua_setfield(L, -2, "headers");
    lua_pushinteger(L, (lua_Integer)request->body.size);
    lua_setfield(L, -2, "size");
    if (request->form_error) {
        set_string(L, "form_error", request->form_error);
    } else if (request->form) {
        push_form(L, request);
        lua_setfield(L, -2, "form");
    }
}

/* ---- the server ---- */

static struct server *check_server(lua_State *L) {
    struct server *server = luaL_checkudata(L, 1, SERVER);
    if (!server->daemon) luaL_error(L, "the server is closed");
    return server;
}

/* server:next([seconds]): the next complete request, in order of completion | nil, message,
 * "TIMEOUT" | "INTERRUPTED". Without a limit it waits for ever. All input and output of the server
 * happens in here, so it has to be called again and again while anything is to be sent.
 *
 * A request: method, path and query (percent-decoded), headers (names in lower case), size (of the
 * body), and for multipart/form-data form (field name -> text, or {path=, filename=, type=, size=}
 * for a part with a file name; the first one of a name counts), or form_error when it is malformed.
 * The files live until the reply is out, unless keep() moves them. */
static int server_next(lua_State *L) {
    struct server *server = check_server(L);
    double limit = luaL_optnumber(L, 2, INFINITY);
    luaL_argcheck(L, limit >= 0, 2, "must not be negative");

    struct request **handle = lua_newuserdatauv(L, sizeof *handle, 2);
    *handle = NULL;
    luaL_setmetatable(L, REQUEST);
    lua_pushvalue(L, 1); /* the server outlives its requests */
    lua_setiuservalue(L, -2, 2);
    *handle = server_take(server, os_clock() + limit);
    if (!*handle && obatch_interrupted) return obatch_fail_interrupted(L);
    if (!*handle) return obatch_fail(L, "TIMEOUT", "no request came in time");
    push_fields(L, *handle);
    lua_setiuservalue(L, -2, 1);
    return 1;
}

/* server:close(): ends every connection at once, whatever is still to be sent on it. */
static int close_server(lua_State *L) {
    server_close(luaL_checkudata(L, 1, SERVER));
    return 0;
}

/* httpd.listen{ host="127.0.0.1", port=0, spool=folder, max_body=300 MiB, patience=60 }: server |
 * nil, message, CODE. server.port is the port it got. host is an IP address; bodies above 64 KiB
 * and the files of forms go to the spool folder; a body above max_body is answered with 413. A
 * client that needs more than `patience` seconds, and one for every 1,000 bytes, for its next
 * request or for its reply is cut off. */
static int httpd_listen(lua_State *L) {
    static const char *const known[] = {"host", "port", "spool", "max_body", "patience", NULL};
    options_check(L, 1, known);
    lua_settop(L, 1);
    const char *host = options_string(L, 1, "host");
    const char *spool = options_string(L, 1, "spool");
    int port = (int)options_integer(L, 1, "port", 0, 0, 65535);
    lua_Integer max_body = options_integer(L, 1, "max_body", 300 << 20, 0, INT64_MAX / 2);
    double patience = options_number(L, 1, "patience", 60);
    luaL_argcheck(L, spool, 1, "spool: a folder expected");
    if (!host || strcmp(host, "localhost") == 0) host = "127.0.0.1";
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((in_port_t)port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((in_port_t)port)};
    bool is_v6 = inet_pton(AF_INET6, host, &v6.sin6_addr) == 1;
    luaL_argcheck(L, is_v6 || inet_pton(AF_INET, host, &v4.sin_addr) == 1, 1,
                  "host: an IP address expected");
    if (access(spool, W_OK | X_OK) != 0) return obatch_fail_errno(L, spool, errno);
    const char *name = lua_pushfstring(L, "%s port %d", host, port);

    struct server *server = lua_newuserdatauv(L, sizeof *server, 1);
    *server = (struct server){.watch = -1};
    luaL_setmetatable(L, SERVER);
    struct sockaddr *address = is_v6 ? (void *)&v6 : (void *)&v4;
    socklen_t size = is_v6 ? sizeof v6 : sizeof v4;
    int error = server_open(server, address, size, spool, (uint64_t)max_body, patience);
    if (error) return obatch_fail_errno(L, name, error);
    lua_createtable(L, 0, 1);
    lua_pushinteger(L, server->port);
    lua_setfield(L, -2, "port");
    lua_setiuservalue(L, -2, 1);
    return 1;
}

/* __index of both: the fields, then the methods. */
static int index_fields(lua_State *L) {
    luaL_checktype(L, 1, LUA_TUSERDATA);
    if (lua_getiuservalue(L, 1, 1) == LUA_TTABLE) {
        lua_pushvalue(L, 2);
        if (lua_rawget(L, -2) != LUA_TNIL) return 1;
    }
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

static void new_type(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction close) {
    luaL_newmetatable(L, name);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_pushcclosure(L, index_fields, 1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, close);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, close);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
}

static const luaL_Reg request_methods[] = {
    {"text", text_request},   {"keep", keep_request}, {"reply", reply_to_request},
    {"close", close_request}, {NULL, NULL},
};

static const luaL_Reg server_methods[] = {
    {"next", server_next},
    {"close", close_server},
    {NULL, NULL},
};

/* httpd.version() -> the version of libmicrohttpd */
static int httpd_version(lua_State *L) {
    lua_pushstring(L, MHD_get_version());
    return 1;
}

static const luaL_Reg functions[] = {
    {"listen", httpd_listen},
    {"version", httpd_version},
    {NULL, NULL},
};

int luaopen_obatch_httpd(lua_State *L) {
    new_type(L, REQUEST, request_methods, close_request);
    new_type(L, SERVER, server_methods, close_server);
    luaL_newlib(L, functions);
    return 1;
}
