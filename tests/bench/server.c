/* server FILE KEPT: as much of the Files API as a transfer needs, on a free port of this machine,
 * which is the first line of output. GET gives FILE by sendfile; POST takes a body, drops it (below
 * /keep, writes it to KEPT), and answers with a file object. A process per connection. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static char buffer[1 << 20];
static size_t held; /* bytes at the front of the buffer that nobody has looked at */

static bool receive(int peer) {
    ssize_t n = read(peer, buffer + held, sizeof buffer - 1 - held);
    if (n > 0) held += (size_t)n;
    buffer[held] = '\0';
    return n > 0;
}

static bool put(int fd, const char *from, size_t length) {
    while (length > 0) {
        ssize_t n = write(fd, from, length);
        if (n < 0) return false;
        from += n;
        length -= (size_t)n;
    }
    return true;
}

/* Takes `length` bytes of body, to a file or to nowhere (-1). */
static bool take_body(int peer, size_t length, int file) {
    for (;;) {
        size_t n = held < length ? held : length;
        if (file >= 0 && !put(file, buffer, n)) return false;
        length -= n;
        held -= n;
        memmove(buffer, buffer + n, held);
        if (length == 0) return true;
        if (!receive(peer)) return false;
    }
}

static bool give_file(int peer, const char *path) {
    char head[256];
    struct stat status;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &status) != 0) return false;
    snprintf(
        head, sizeof head,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %lld\r\n\r\n",
        (long long)status.st_size);
    bool ok = put(peer, head, strlen(head));
    for (off_t sent = 0; ok && sent < status.st_size;)
        ok = sendfile(peer, file, &sent, (size_t)(status.st_size - sent)) > 0;
    close(file);
    return ok;
}

static bool give_object(int peer, const char *path) {
    char head[256], body[256];
    struct stat status;
    if (stat(path, &status) != 0) return false;
    snprintf(body, sizeof body,
             "{\"id\":\"file-1\",\"object\":\"file\",\"bytes\":%lld,\"created_at\":1760000000,"
             "\"filename\":"
             "\"up.jsonl\",\"purpose\":\"batch\",\"status\":\"processed\"}",
             (long long)status.st_size);
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
             strlen(body));
    return put(peer, head, strlen(head)) && put(peer, body, strlen(body));
}

/* One request and its answer; false when the connection is over. */
static bool serve(int peer, const char *path, const char *kept) {
    char *end;
    while (!(end = memmem(buffer, held, "\r\n\r\n", 4)))
        if (held == sizeof buffer - 1 || !receive(peer)) return false;
    *end = '\0';
    bool post = strncmp(buffer, "POST ", 5) == 0, keep = strncmp(buffer + 5, "/keep/", 6) == 0;
    bool closes = strcasestr(buffer, "\r\nconnection: close"),
         expects = strcasestr(buffer, "\r\nexpect: 100-");
    bool content = strstr(buffer, "/content ");
    const char *length = strcasestr(buffer, "\r\ncontent-length:");
    size_t left = length ? strtoull(length + 17, NULL, 10) : 0;
    size_t head = (size_t)(end + 4 - buffer);
    held -= head;
    memmove(buffer, buffer + head, held);
    if (!post) return (content ? give_file(peer, path) : give_object(peer, path)) && !closes;

    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (expects && !put(peer, go_on, sizeof go_on - 1)) return false;
    int file = keep ? open(kept, O_WRONLY | O_CREAT | O_TRUNC, 0666) : -1;
    bool ok = (file >= 0 || !keep) && take_body(peer, left, file);
    if (file >= 0) close(file);
    return ok && give_object(peer, path) && !closes;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) != 0 ||
        listen(listener, 16) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) != 0) {
        perror("server");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0) continue;
        setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (fork() == 0) {
            close(listener);
            while (serve(peer, argv[1], argv[2])) {
            }
            _exit(0);
        }
        close(peer);
    }
}
