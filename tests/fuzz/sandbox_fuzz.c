/* libFuzzer: bytes on a connection to the sandbox, as it runs: the server and its headers, queries,
 * ranges and forms in C, the endpoints in Lua. Whatever comes, the sandbox goes on, lets go of the
 * connection, and keeps nothing of the request but what it stored. An input is what one client
 * sends before it closes its side; FILE and BATCH in it become the ids of a file and a batch. */
#include "fuzz.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RUNS = 500 }; /* a sandbox's, before a fresh one takes over with an empty folder */

static int client = -1;

/* connect_client(port, bytes): sends what fits the buffers and closes that side. */
static int connect_client(lua_State *L) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((in_port_t)luaL_checkinteger(L, 1)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    size_t size;
    const char *bytes = luaL_checklstring(L, 2, &size);
    client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* No TIME_WAIT: there are only so many ports. */
    setsockopt(client, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    require_that(connect(client, (struct sockaddr *)&address, sizeof address) == 0,
                 "the sandbox listens");
    ssize_t sent = send(client, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    require_that(sent == (ssize_t)size, "an input fits into the buffers");
    shutdown(client, SHUT_WR);
    return 0;
}

/* is_over(): reads what has come; whether the connection has ended. */
static int is_over(lua_State *L) {
    static char bytes[64 * 1024];
    ssize_t count;
    do count = recv(client, bytes, sizeof bytes, MSG_DONTWAIT);
    while (count > 0);
    bool over = count == 0 || (errno != EAGAIN && errno != EINTR);
    if (over) {
        close(client);
        client = -1;
    }
    lua_pushboolean(L, over);
    return 1;
}

static const char properties[] =
    "package.path = HOME .. '/lua/?.lua;' .. package.path\n"
    "local fs, httpd = require 'obatch.fs', require 'obatch.httpd'\n"
    "local listen, pending, open_server = httpd.listen, nil, nil\n"
    /* The sandbox's loop runs until the connection of one input is over. */
    "httpd.listen = function(options)\n"
    "  local server, message, code = listen(options)\n"
    "  if not server then return nil, message, code end\n"
    "  local patience\n"
    "  return { port = server.port, close = function() server:close() end, next = function()\n"
    "    if pending then\n"
    "      connect_client(server.port, pending)\n"
    "      pending, patience = nil, 1000\n"
    "    end\n"
    "    local request = server:next(0)\n"
    "    if request then return request end\n"
    "    if is_over() then return nil, 'interrupted', 'INTERRUPTED' end\n"
    "    patience = patience - 1\n"
    "    assert(patience > 0, 'the server does not let go of a client that has left')\n"
    "    request = server:next(0.002)\n"
    "    if request then return request end\n"
    "    return nil, 'no request', 'TIMEOUT'\n"
    "  end }\n"
    "end\n"
    "local sandbox = require 'obatch.sandbox'\n"
    "local faults = require 'obatch.sandbox.faults'\n"
    "local function remove_tree(path)\n"
    "  local stat = fs.lstat(path)\n"
    "  if stat and stat.type == 'dir' then\n"
    "    for _, name in ipairs(assert(fs.list(path))) do remove_tree(path .. '/' .. name) end\n"
    "  end\n"
    "  assert(fs.remove(path))\n"
    "end\n"
    "local box, dir\n"
    "local function send(bytes)\n"
    "  pending = bytes\n"
    "  box:run()\n"
    "end\n"
    "local function first_id(kind)\n"
    "  return assert(assert(fs.list(dir .. '/' .. kind))[1]):match('^[^.]*')\n"
    "end\n"
    "local FORM = '--b\\r\\nContent-Disposition: form-data; "
    "name=\"purpose\"\\r\\n\\r\\nbatch\\r\\n'\n"
    "  .. '--b\\r\\nContent-Disposition: form-data; name=\"file\"; "
    "filename=\"x.jsonl\"\\r\\n\\r\\n'\n"
    "  .. '{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",'\n"
    "  .. '\"body\":{\"model\":\"m\",\"messages\":[]}}\\r\\n--b--\\r\\n'\n"
    "local ids = {}\n"
    "local function post(path, kind, body)\n"
    "  send(('POST /v1/%s HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Bearer k\\r\\nContent-Type: "
    "%s\\r\\n'\n"
    "    .. 'Content-Length: %d\\r\\n\\r\\n%s'):format(path, kind, #body, body))\n"
    "end\n"
    "return function(bytes)\n"
    "  if bytes == nil then\n"
    "    if box then\n"
    "      box:close()\n"
    "      remove_tree(dir)\n"
    "      box = nil\n"
    "    end\n"
    "    return\n"
    "  end\n"
    "  if not box then\n"
    "    dir = '/tmp/sandbox_fuzz-' .. fs.random(8)\n"
    "    box = assert(sandbox.open { dir = dir, port = 0, faults = assert(faults.parse('')), seed "
    "= 1,\n"
    "      model = function(request) return 'You said ' .. request.custom_id end, batch_seconds = "
    "0,\n"
    "      null_ids = 'null', missing_input = 'fail', refuse_large = 'batch', max_errors = 1000,\n"
    "      range = true })\n"
    "    post('files', 'multipart/form-data; boundary=b', FORM)\n"
    "    ids.FILE = first_id 'files'\n"
    "    post('batches', 'application/json', ('{\"input_file_id\":\"%s\",\"endpoint\":'\n"
    "      .. '\"/v1/chat/completions\",\"completion_window\":\"24h\"}'):format(ids.FILE))\n"
    "    ids.BATCH = first_id 'batches'\n"
    "  end\n"
    "  send((bytes:gsub('%u%u%u%u%u?', ids)))\n"
    "  local left = fs.list(dir .. '/spool')\n"
    "  assert(#left == 0, 'something is left in the spool folder')\n"
    "end\n";

static lua_State *L;

static void end_sandbox(void) {
    lua_pushnil(L);
    fuzz_call(L, 1);
    lua_close(L);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const luaL_Reg modules[] = {
        {"obatch.json", luaopen_obatch_json},   {"obatch.jsonl", luaopen_obatch_jsonl},
        {"obatch.fs", luaopen_obatch_fs},       {"obatch.term", luaopen_obatch_term},
        {"obatch.httpd", luaopen_obatch_httpd}, {NULL, NULL}};
    static const luaL_Reg helpers[] = {
        {"connect_client", connect_client}, {"is_over", is_over}, {NULL, NULL}};
    static int runs;
    if (!L) {
        L = fuzz_start(modules, helpers, "HOME = '" HOME "'");
        require_that(luaL_dostring(L, properties) == LUA_OK, lua_tostring(L, -1));
        atexit(end_sandbox);
    }
    if (size > 64 * 1024) return 0;
    if (++runs % RUNS == 0) {
        lua_pushnil(L);
        fuzz_call(L, 1);
    }
    lua_pushlstring(L, (const char *)data, size);
    fuzz_call(L, 1);
    return 0;
}
