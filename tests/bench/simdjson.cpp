// simdjson's DOM, which checks everything:
//   simdjson judge RESULTS GOOD BAD    as judge.py does it
//   simdjson index REQUESTS IDS OUT    as index.py does it
#include <fcntl.h>
#include <simdjson.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <unordered_map>
#include <vector>

using simdjson::dom::element;
using simdjson::dom::parser;

static int open_or_exit(const char *path, int flags) {
    int fd = open(path, flags, 0666);
    if (fd < 0) {
        perror(path);
        exit(1);
    }
    return fd;
}

static void write_all(int fd, const char *from, size_t length) {
    while (length > 0) {
        ssize_t n = write(fd, from, length);
        if (n < 0) {
            perror("write");
            exit(1);
        }
        from += n;
        length -= size_t(n);
    }
}

// Calls take(line, length, offset) for every line, without its newline; behind it are bytes that
// may be read. Calls pause() after every block.
template <typename Take, typename Pause>
static void each_line(const char *path, Take take, Pause pause) {
    const size_t block = 1 << 20;
    int fd = open_or_exit(path, O_RDONLY);
    std::vector<char> buffer;
    size_t held = 0, offset = 0;
    for (;;) {
        buffer.resize(std::max(buffer.size(), held + block + simdjson::SIMDJSON_PADDING));
        ssize_t n = read(fd, buffer.data() + held, block);
        if (n <= 0) break;
        char *start = buffer.data(), *end = start + held + n;
        while (char *newline = static_cast<char *>(memchr(start, '\n', size_t(end - start)))) {
            take(start, size_t(newline - start), offset);
            offset += size_t(newline + 1 - start);
            start = newline + 1;
        }
        pause();
        held = size_t(end - start);
        memmove(buffer.data(), start, held);
    }
    close(fd);
}

static bool is_good(parser &outer, parser &inner, const char *line, size_t length) {
    element result, choice, value;
    int64_t status;
    std::string_view reason, answer;
    if (outer.parse(line, length, false).get(result)) return false;
    if (result["response"]["status_code"].get(status) || status != 200) return false;
    if (result["response"]["body"]["choices"].at(0).get(choice)) return false;
    if (choice["finish_reason"].get(reason) || reason != "stop") return false;
    if (choice["message"]["content"].get(answer)) return false;
    if (answer.size() > 12 && answer.substr(0, 8) == "```json\n" &&
        answer.substr(answer.size() - 4) == "\n```")
        answer = answer.substr(8, answer.size() - 12);
    // It lies in the outer parser's buffer, which has room behind it.
    return !inner.parse(answer.data(), answer.size(), false).get(value);
}

static void judge(const char *results, const char *good, const char *bad) {
    parser outer, inner;
    struct {
        int fd;
        std::string text;
    } outputs[2] = {{open_or_exit(good, O_WRONLY | O_CREAT | O_TRUNC), {}},
                    {open_or_exit(bad, O_WRONLY | O_CREAT | O_TRUNC), {}}};
    each_line(
        results,
        [&](const char *line, size_t length, size_t) {
            std::string &text = outputs[!is_good(outer, inner, line, length)].text;
            text.append(line, length + 1);
        },
        [&] {
            for (auto &output : outputs) {
                write_all(output.fd, output.text.data(), output.text.size());
                output.text.clear();
            }
        });
}

static void index(const char *requests, const char *ids, const char *out_path) {
    struct place {
        size_t offset, length;
    };
    parser parser;
    std::unordered_map<std::string, place> places;
    each_line(
        requests,
        [&](const char *line, size_t length, size_t offset) {
            element request;
            std::string_view id;
            if (parser.parse(line, length, false).get(request) || request["custom_id"].get(id))
                return;
            places.emplace(id, place{offset, length + 1});
        },
        [] {});
    int from = open_or_exit(requests, O_RDONLY),
        out = open_or_exit(out_path, O_WRONLY | O_CREAT | O_TRUNC);
    std::ifstream wanted(ids);
    std::vector<char> line;
    for (std::string id; std::getline(wanted, id);) {
        place found = places.at(id);
        line.resize(std::max(line.size(), found.length));
        if (pread(from, line.data(), found.length, off_t(found.offset)) < 0) exit(1);
        write_all(out, line.data(), found.length);
    }
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    if (strcmp(argv[1], "judge") == 0)
        judge(argv[2], argv[3], argv[4]);
    else
        index(argv[2], argv[3], argv[4]);
}
