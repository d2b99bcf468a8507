/* What the machine can do at most: the jobs of the benchmark without any work, only their bytes are
 * moved.
 *
 *   limit judge IN GOOD BAD        reads lines, writes most to one file and every 33rd to another
 *   limit index IN IDS OUT         reads lines, copies as many as there are ids
 *   limit images DIR OUT           reads files, writes a third more bytes than there are
 *   limit walk DIR OUT             reads folders, writes the paths that end in .jpg or .png
 *   limit sidecars IN DIR          writes as many files as there are lines, each of the mean size
 * of a line limit upload PORT FILE         sendfile in a form limit download PORT OUT        from a
 * socket to a file */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 1 << 18 };

static void fail(const char *what) {
    fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_to(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0) fail(path);
    return fd;
}

static int open_from(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) fail(path);
    return fd;
}

static void write_all(int fd, const char *from, size_t length) {
    while (length > 0) {
        ssize_t n = write(fd, from, length);
        if (n < 0) fail("write");
        from += n;
        length -= (size_t)n;
    }
}

static size_t read_some(int fd, char *to, size_t room) {
    ssize_t n = read(fd, to, room);
    if (n < 0) fail("read");
    return (size_t)n;
}

/* Calls `take` with every line (its newline included, where it has one). */
static void each_line(const char *path,
                      void (*take)(const char *line, size_t length, uint64_t offset)) {
    static char buffer[8 << 20]; /* no line is longer; only what is used takes memory */
    int fd = open_from(path);
    size_t held = 0, n;
    uint64_t offset = 0;
    while ((n = read_some(fd, buffer + held, BLOCK)) > 0) {
        char *start = buffer, *end = buffer + held + n, *newline;
        while ((newline = memchr(start, '\n', (size_t)(end - start)))) {
            size_t length = (size_t)(newline + 1 - start);
            take(start, length, offset);
            start += length;
            offset += length;
        }
        held = (size_t)(end - start);
        memmove(buffer, start, held);
        if (held + BLOCK > sizeof buffer) exit(1);
    }
    if (held > 0) take(buffer, held, offset);
    close(fd);
}

/* ---- judge ---- */

static struct output {
    int fd;
    size_t length;
    char buffer[BLOCK];
} outputs[2];

static void put(struct output *output, const char *from, size_t length) {
    if (output->length + length > sizeof output->buffer) {
        write_all(output->fd, output->buffer, output->length);
        output->length = 0;
    }
    if (length > sizeof output->buffer) {
        write_all(output->fd, from, length);
        return;
    }
    memcpy(output->buffer + output->length, from, length);
    output->length += length;
}

static void flush(struct output *output) {
    write_all(output->fd, output->buffer, output->length);
    output->length = 0;
}

static unsigned lines;

static void split(const char *line, size_t length, uint64_t offset) {
    (void)offset;
    put(&outputs[++lines % 33 == 0], line, length);
}

static void judge(const char *in, const char *good, const char *bad) {
    outputs[0].fd = open_to(good);
    outputs[1].fd = open_to(bad);
    each_line(in, split);
    flush(&outputs[0]);
    flush(&outputs[1]);
}

/* ---- index ---- */

static struct place {
    uint64_t offset;
    size_t length;
} * places;
static size_t count, room;

static void remember(const char *line, size_t length, uint64_t offset) {
    (void)line;
    if (count == room) places = realloc(places, (room = room * 2 + 1024) * sizeof *places);
    if (!places) fail("memory");
    places[count++] = (struct place){offset, length};
}

static void tally(const char *line, size_t length, uint64_t offset) {
    (void)line, (void)length, (void)offset;
    lines++;
}

static void copy_lines(const char *in, const char *wanted, const char *out) {
    each_line(in, remember);
    each_line(wanted, tally);
    int from = open_from(in), to = open_to(out);
    char *buffer = NULL;
    size_t size = 0;
    for (size_t i = 0; i < lines; i++) {
        struct place *place = &places[i * count / lines];
        if (place->length > size) buffer = realloc(buffer, size = place->length * 2);
        if (!buffer || pread(from, buffer, place->length, (off_t)place->offset) < 0) fail(in);
        write_all(to, buffer, place->length);
    }
    free(buffer);
}

/* ---- images, walk ---- */

/* Calls `take` with every regular file below a folder. */
static void each_file(char *path, size_t length, void (*take)(const char *path, size_t length)) {
    DIR *dir = opendir(path);
    if (!dir) fail(path);
    path[length] = '/';
    for (struct dirent *entry; (entry = readdir(dir));) {
        size_t name = strlen(entry->d_name);
        if (length + name + 2 > PATH_MAX) exit(1);
        memcpy(path + length + 1, entry->d_name, name + 1);
        if (entry->d_type == DT_REG) take(path, length + 1 + name);
        if (entry->d_type == DT_DIR && strcmp(entry->d_name, ".") != 0 &&
            strcmp(entry->d_name, "..") != 0)
            each_file(path, length + 1 + name, take);
    }
    path[length] = '\0';
    closedir(dir);
}

static void below(const char *dir, void (*take)(const char *path, size_t length)) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", dir);
    each_file(path, strlen(path), take);
}

static void move_image(const char *path, size_t length) {
    static char buffer[BLOCK * 3], padding[BLOCK];
    (void)length;
    int fd = open_from(path);
    size_t n;
    while ((n = read_some(fd, buffer, sizeof buffer)) > 0) {
        write_all(outputs[0].fd, buffer, n);
        write_all(outputs[0].fd, padding, n / 3);
    }
    close(fd);
}

static void print_path(const char *path, size_t length) {
    if (length < 4 ||
        (memcmp(path + length - 4, ".jpg", 4) != 0 && memcmp(path + length - 4, ".png", 4) != 0))
        return;
    put(&outputs[0], path, length);
    put(&outputs[0], "\n", 1);
}

/* ---- sidecars ---- */

static void sidecars(const char *in, const char *dir) {
    char path[PATH_MAX];
    struct stat status;
    each_line(in, tally);
    if (stat(in, &status) != 0 || lines == 0) fail(in);
    size_t size = (size_t)status.st_size / lines;
    char *text = calloc(size, 1);
    if (!text) fail("memory");
    for (unsigned i = 0; i < lines; i++) {
        if (i % 1000 == 0) {
            snprintf(path, sizeof path, "%s/%04u", dir, i / 1000);
            if (mkdir(path, 0777) != 0) fail(path);
        }
        snprintf(path, sizeof path, "%s/%04u/img-%07u.jpg.txt", dir, i / 1000, i);
        int fd = open_to(path);
        write_all(fd, text, size);
        close(fd);
    }
    free(text);
}

/* ---- transfers ---- */

static int reach(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(port)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
    return fd;
}

static void upload(const char *port, const char *path) {
    static const char before[] =
        "--cut\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--cut\r\n"
        "Content-Disposition: form-data; name=\"file\"; filename=\"up.jsonl\"\r\n\r\n";
    static const char after[] = "\r\n--cut--\r\n";
    int server = reach(port), file = open_from(path);
    char head[512];
    struct stat status;
    if (fstat(file, &status) != 0) fail(path);
    size_t length = sizeof before - 1 + (size_t)status.st_size + sizeof after - 1;
    snprintf(head, sizeof head,
             "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
             "boundary=cut\r\n"
             "Content-Length: %zu\r\n\r\n",
             length);
    write_all(server, head, strlen(head));
    write_all(server, before, sizeof before - 1);
    for (off_t sent = 0; sent < status.st_size;)
        if (sendfile(server, file, &sent, (size_t)(status.st_size - sent)) <= 0) fail("sendfile");
    write_all(server, after, sizeof after - 1);
    if (read_some(server, head, sizeof head) == 0) fail("no answer");
}

static void download(const char *port, const char *path) {
    static const char ask[] =
        "GET /v1/files/f/content HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    static char buffer[BLOCK];
    int server = reach(port), file = open_to(path);
    write_all(server, ask, sizeof ask - 1);
    size_t held = 0, n;
    char *body = NULL;
    while (!body) {
        n = read_some(server, buffer + held, sizeof buffer - held);
        if (n == 0) fail("no answer");
        body = memmem(buffer, held += n, "\r\n\r\n", 4);
    }
    body += 4;
    write_all(file, body, (size_t)(buffer + held - body));
    while ((n = read_some(server, buffer, sizeof buffer)) > 0) write_all(file, buffer, n);
}

int main(int argc, char **argv) {
    const char *what = argc > 3 ? argv[1] : "";
    if (argc == 5 && strcmp(what, "judge") == 0) {
        judge(argv[2], argv[3], argv[4]);
    } else if (argc == 5 && strcmp(what, "index") == 0) {
        copy_lines(argv[2], argv[3], argv[4]);
    } else if (argc == 4 && strcmp(what, "images") == 0) {
        outputs[0].fd = open_to(argv[3]);
        below(argv[2], move_image);
    } else if (argc == 4 && strcmp(what, "walk") == 0) {
        outputs[0].fd = open_to(argv[3]);
        below(argv[2], print_path);
        flush(&outputs[0]);
    } else if (argc == 4 && strcmp(what, "sidecars") == 0) {
        sidecars(argv[2], argv[3]);
    } else if (argc == 4 && strcmp(what, "upload") == 0) {
        upload(argv[2], argv[3]);
    } else if (argc == 4 && strcmp(what, "download") == 0) {
        download(argv[2], argv[3]);
    } else {
        fputs("limit: see the head of limit.c\n", stderr);
        return 2;
    }
    return 0;
}
