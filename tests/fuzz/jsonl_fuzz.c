/* libFuzzer: the line reader, the records and the index of a file against what its bytes say. An
 * input is a byte that chooses the longest line and the file's bytes; the reader's blocks are small
 * here, so that a line, its CR LF and a line that is too long lie across their borders. */
#include "fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

/* Arguments: the file's bytes, its path, the longest line. */
static const char properties[] =
    "local json, jsonl = require 'obatch.json', require 'obatch.jsonl'\n"
    "local function split(bytes)\n" /* { text =, offset = } of every line, as bytes say it */
    "  local lines, at = {}, 1\n"
    "  while at <= #bytes do\n"
    "    local newline = bytes:find('\\n', at, true)\n"
    "    local text = bytes:sub(at, newline and newline - 1)\n"
    "    if newline and text:sub(-1) == '\\r' then text = text:sub(1, -2) end\n"
    "    lines[#lines + 1] = { text = text, offset = at - 1 }\n"
    "    at = newline and newline + 1 or #bytes + 1\n"
    "  end\n"
    "  return lines\n"
    "end\n"
    "return function(bytes, path, most)\n"
    "  local lines, options = split(bytes), { max_line = most }\n"
    "  local reader <close> = assert(jsonl.open(path, options))\n"
    "  local n = 0\n"
    "  for line in reader:lines() do\n"
    "    n = n + 1\n"
    "    local meant = lines[n]\n"
    "    assert(line.number == n and line.offset == meant.offset)\n"
    "    local fits = #meant.text <= most\n"
    "    assert(line.text == (fits and meant.text or nil))\n"
    "    assert((line.error == nil) == fits)\n"
    "    local text, message, code = reader:at(line.offset)\n"
    "    assert(text == (fits and meant.text or nil) and (fits or code == 'TOO_BIG'), message)\n"
    "  end\n"
    "  assert(n == #lines)\n"
    "  local _, _, code = reader:at(#bytes)\n"
    "  assert(code == 'NOT_FOUND')\n"
    "  n = 0\n"
    "  local ids, places, duplicates = {}, {}, 0\n"
    "  local fields = { id = '/custom_id', first = '/0', whole = '' }\n"
    "  local looks = { max_line = most, decode = most % 2 == 0 and 'whole' or nil }\n"
    "  for record in jsonl.scan(path, fields, looks) do\n"
    "    n = n + 1\n"
    "    local text = lines[n].text\n"
    "    assert(record.number == n and record.offset == lines[n].offset and record.length == "
    "#text)\n"
    "    if #text > most then\n"
    "      assert(record.error and not record.text and not record.error_at)\n"
    "    elseif text:find('^[ \\t\\r]*$') then\n"
    "      assert(record.error and record.blank and record.text == text)\n"
    "    elseif not json.check(text) then\n"
    "      local _, message, at = json.check(text)\n"
    "      assert(record.error == ('%s:%d: byte %d: %s'):format(path, n, at, message))\n"
    "      assert(record.error_at == at and record.id == nil and record.whole == nil)\n"
    "    else\n"
    "      assert(not record.error and record.text == text)\n"
    "      local whole = json.decode(text)\n"
    "      local inner\n" /* what a string holds, in a fence or not */
    "      if type(whole) == 'string' then\n"
    "        local bare = whole:match('^```[%w ]*\\n(.-)```+[ \\n]*$')\n"
    "        inner = json.decode(bare and bare:find('\\n *$') and bare or whole)\n"
    "      end\n"
    "      local value = jsonl.decode(record, 'whole')\n"
    "      assert((value == nil) == (type(whole) ~= 'string' or inner == nil))\n"
    "      if value ~= nil then assert(json.encode(value) == json.encode(inner)) end\n"
    "      assert((whole == nil) == (record.spoiled ~= nil and record.spoiled.whole ~= nil))\n"
    "      if whole ~= nil then assert(json.encode(record.whole) == json.encode(whole)) end\n"
    "      local id = json.get(text, '/custom_id')\n"
    "      if type(id) == 'string' then\n"
    "        assert(record.id == id)\n"
    "        ids[#ids + 1] = { id = id, line = lines[n] }\n"
    "        if places[id] then duplicates = duplicates + 1 else places[id] = #ids end\n"
    "      end\n"
    "    end\n"
    "  end\n"
    "  assert(n == #lines)\n"
    "  local index <close> = assert(jsonl.index(path, '/custom_id', options))\n"
    "  assert(index.count == #ids and index.duplicates == duplicates)\n"
    "  for i, entry in ipairs(ids) do\n"
    "    assert(index:id(i) == entry.id and index:find(entry.id) == places[entry.id])\n"
    "    assert(index:line(i) == entry.line.text)\n"
    "    local offset, length = index:at(i)\n"
    "    assert(offset == entry.line.offset and length == #entry.line.text)\n"
    "  end\n"
    "  assert(index:find('no such id ') == places['no such id '])\n"
    "end\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const luaL_Reg modules[] = {{"obatch.jsonl", luaopen_obatch_jsonl}, {NULL, NULL}};
    static const lua_Integer limits[] = {1, 7, 63, 64, 65, 300, 4096, 1 << 20};
    static lua_State *L;
    static char path[64];
    static int file;
    if (!L) {
        L = fuzz_start(modules, NULL, properties);
        file = memfd_create("jsonl_fuzz", MFD_CLOEXEC);
        require_that(file >= 0, "there are files in memory");
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    if (size == 0) return 0;
    const char *bytes = (const char *)data + 1;
    require_that(ftruncate(file, 0) == 0 && pwrite(file, bytes, size - 1, 0) == (ssize_t)size - 1,
                 "a file in memory can be written");
    lua_pushlstring(L, bytes, size - 1);
    lua_pushstring(L, path);
    lua_pushinteger(L, limits[data[0] % (sizeof limits / sizeof *limits)]);
    fuzz_call(L, 3);
    return 0;
}
